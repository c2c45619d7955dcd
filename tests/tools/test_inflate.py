"""The command: weights of images in, the folder of a run out."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from safetensors.numpy import save_file

from cvrl_tf import checkpoints
from cvrl_tf.models import inflation
from cvrl_tf.models.resnet3d import ResNet3D


def torch_weights() -> dict[str, np.ndarray]:
    """Of a ResNet-18; see tests/models/test_inflation.py."""
    path = ROOT / "tests" / "models" / "test_inflation.py"
    spec = importlib.util.spec_from_file_location("test_inflation", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.torch_weights(18)


def inflate(source: Path, output: Path, *flags: str) -> subprocess.CompletedProcess:
    tool = ROOT / "tools" / "inflate.py"
    command = [sys.executable, tool, f"--source={source}", f"--output={output}", *flags]
    return subprocess.run(command, capture_output=True, text=True)


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
        checkpoints.check_architecture(ResNet3D(18), output)
    checkpoints.check_architecture(ResNet3D.from_config(encoder.get_config()), output)


def test_our_frames_inflated_like_a_run(tmp_path: Path) -> None:
    open_ends = {"temporal_kernels": [3, 1, 3, 1], "stem_kernel": [3, 5, 5], "stem_pool": False}
    frames = ResNet3D(10, 0.25, (1, 1, 1, 1), (1, 5, 5), (1, 2, 2), stem_pool=False)
    clips = ResNet3D(10, 0.25, **open_ends)
    for name, encoder, shape in (
        ("frames", frames, (1, 40, 40, 3)),
        ("run", clips, (8, 40, 40, 3)),
    ):
        encoder.build()
        checkpoints.save_as_run(encoder, shape, tmp_path / name)
    done = inflate(tmp_path / "frames", tmp_path / "out", f"--like={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    encoder, facts = (
        of(tmp_path / "out") for of in (checkpoints.load_encoder, checkpoints.encoder_facts)
    )
    assert encoder.get_config() == clips.get_config() and facts["input_shape"] == [8, 40, 40, 3]
    still = np.repeat(np.random.default_rng(0).random([2, 1, 40, 40, 3], np.float32), 8, axis=1)
    features = encoder(still, training=False)
    np.testing.assert_allclose(features, frames(still[:, :1], training=False), rtol=1e-4, atol=1e-5)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    done = inflate(tmp_path / "nothing", tmp_path / "run")
    assert done.returncode == 1 and "No checkpoint at" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()
