"""The command turns weights of images into the folder of a run."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, sampling
from safetensors.numpy import save_file

from cvrl_tf import checkpoints
from cvrl_tf.data.sampling import Sampling
from cvrl_tf.models import inflation
from cvrl_tf.models.r2plus1d import R2Plus1D
from cvrl_tf.models.resnet3d import ResNet3D


def torch_weights() -> dict[str, np.ndarray]:
    """Return weights of a ResNet-18 from tests/models/test_inflation.py."""
    path = ROOT / "tests" / "models" / "test_inflation.py"
    spec = importlib.util.spec_from_file_location("test_inflation", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.torch_weights(18)


def inflate(source: Path, output: Path, *flags: str) -> subprocess.CompletedProcess:
    tool = ROOT / "tools" / "inflate.py"
    command = [sys.executable, tool, f"--source={source}", f"--output={output}", *flags]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_safetensors(tmp_path: Path) -> None:
    tensors = {name: np.ascontiguousarray(value) for name, value in torch_weights().items()}
    save_file(tensors, tmp_path / "resnet18.safetensors")
    output = tmp_path / "run"
    done = inflate(tmp_path / "resnet18.safetensors", output)
    assert done.returncode == 0, done.stderr
    assert "R3D-18" in done.stdout
    encoder = checkpoints.load_encoder(output)
    expected = inflation.inflate(inflation.from_torch(tensors), "center")
    assert encoder.get_config() == expected.get_config()
    for ours, theirs in zip(encoder.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    again = inflate(tmp_path / "resnet18.safetensors", output)
    assert again.returncode == 1 and "is there already" in again.stderr
    with pytest.raises(ValueError, match=r"padding='symmetric' \(here 'same'\), pixel_mean="):
        checkpoints.SavedRun.open(output).check(ResNet3D(18))
    checkpoints.SavedRun.open(output).check(ResNet3D.from_config(encoder.get_config()))


def test_our_encoder_of_frames_is_inflated_like_a_run(tmp_path: Path) -> None:
    open_ends = {"temporal_kernels": [3, 1, 3, 1], "stem_kernel": [3, 5, 5], "stem_pool": False}
    frames = ResNet3D(10, 0.25, (1, 1, 1, 1), (1, 5, 5), (1, 2, 2), stem_pool=False)
    clips = ResNet3D(10, 0.25, **open_ends)
    for name, encoder, num_frames in (("frames", frames, 1), ("run", clips, 8)):
        encoder.build()
        sampling = Sampling(num_frames, 2, None, size=40, short_side=40, record_fps=None)
        checkpoints.save_as_run(encoder, sampling, tmp_path / name)
    done = inflate(tmp_path / "frames", tmp_path / "out", f"--like={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    encoder = checkpoints.load_encoder(tmp_path / "out")
    assert encoder.get_config() == clips.get_config()
    assert checkpoints.SavedRun.open(tmp_path / "out").sampling == sampling
    still = np.repeat(np.random.default_rng(0).random([2, 1, 40, 40, 3], np.float32), 8, axis=1)
    features = encoder(still, training=False)
    np.testing.assert_allclose(features, frames(still[:, :1], training=False), rtol=1e-4, atol=1e-5)


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    done = inflate(tmp_path / "nothing", tmp_path / "run")
    assert done.returncode == 1 and "No checkpoint at" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()


def test_like_a_run_of_another_encoder(tmp_path: Path) -> None:
    encoder = R2Plus1D(10, 0.125)
    encoder.build()
    checkpoints.save_as_run(encoder, sampling(8, 40), tmp_path / "run")
    done = inflate(tmp_path / "never", tmp_path / "out", f"--like={tmp_path / 'run'}")
    assert done.returncode == 1 and "Only a ResNet3D can be inflated" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()
