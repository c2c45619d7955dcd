"""What is exported loads with TensorFlow alone and gives the encoder's features."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from cvrl_tf import checkpoints
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.saved_model import export

SIZE = 32
FRAMES = 4

# (B, T, H, W): the training size, others, and other numbers of clips and frames.
SHAPES = {
    "as_trained": (2, FRAMES, SIZE, SIZE),
    "one_clip": (1, 3, SIZE, SIZE),
    "many": (5, 7, SIZE, SIZE),
    "wide": (2, FRAMES, 48, 81),
    "tall": (2, FRAMES, 77, 40),
    "small": (1, FRAMES, 20, 27),
}

# Runs where neither this project nor its Keras can be found.
CLIENT = """
import sys
import numpy as np
import tensorflow as tf

model = tf.saved_model.load(sys.argv[1])
inputs, outputs = np.load(sys.argv[2], allow_pickle=True), {}
for name in inputs.files:
    kind, _, _ = name.partition("/")
    (outputs[name],) = model.signatures[kind](tf.constant(inputs[name].tolist())
        if kind == "jpegs" else tf.constant(inputs[name])).values()
    assert list(model.signatures[kind].structured_outputs) == ["feature"]
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"cvrl_tf", "tf_keras", "official"}, loaded
np.savez(sys.argv[3], **outputs)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with an encoder whose every tensor matters."""
    keras.utils.set_random_seed(0)
    encoder = ResNet3D(10, 0.125)
    encoder.build()
    rng = np.random.default_rng(0)
    for variable in encoder.variables:
        if "batch_normalization" in variable.name:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    folder = tmp_path_factory.mktemp("export") / "run"
    folder.mkdir()
    checkpoints.save_encoder_config(encoder, (FRAMES, SIZE, SIZE, 3), folder)
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(encoder=encoder),
        str(folder / "checkpoints"),
        max_to_keep=3,
        checkpoint_name="ckpt",
    )
    manager.save(7)
    return folder


def smooth_clips(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """uint8 [B, T, H, W, 3]."""
    batch, time, height, width = shape
    coarse = np.random.default_rng(seed).uniform(0, 255, (batch * time, 6, 6, 3))
    return tf.reshape(tf.image.resize(coarse, [height, width]), [*shape, 3]).numpy().astype("u1")


def bilinear(frames: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Resizes an axis: pixels are areas, so centres lie at halves; no antialiasing."""
    old = frames.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, old - 1)
    share = (at - low).reshape([-1 if i == axis else 1 for i in range(frames.ndim)])
    return np.take(frames, low, axis) * (1 - share) + np.take(frames, high, axis) * share


def prepared(clips: np.ndarray, side: int) -> np.ndarray:
    """Short side to `side`, centre square; float32 in [0, 1]."""
    height, width = clips.shape[2:4]
    short = min(height, width)
    new = [max(round(length * side / short), side) for length in (height, width)]
    x = bilinear(bilinear(clips.astype(np.float64), new[0], 2), new[1], 3) / 255
    top, left = (new[0] - side) // 2, (new[1] - side) // 2
    return x[:, :, top : top + side, left : left + side].astype(np.float32)


def jpegs_of(clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Strings [B, T], and the pixels that they decode to."""
    coded = [[tf.io.encode_jpeg(frame, quality=90).numpy() for frame in clip] for clip in clips]
    decoded = [[tf.io.decode_jpeg(one).numpy() for one in clip] for clip in coded]
    return np.array(coded, object), np.array(decoded)


def assert_features(ours: np.ndarray, wanted: np.ndarray) -> None:
    assert ours.dtype == np.float32 and ours.shape == wanted.shape
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
    assert np.ptp(wanted, axis=1).min() > 0  # features that say nothing would prove nothing


@pytest.fixture(scope="module")
def client_features(
    run: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Clips by name, and the features that a process with TensorFlow alone has of them."""
    folder = tmp_path_factory.mktemp("client")
    export(run, folder / "model")
    clips = {f"clips/{name}": smooth_clips(shape) for name, shape in SHAPES.items()}
    clips["serving_default/wide"] = clips["clips/wide"]
    inputs = dict(clips)
    for name in ("as_trained", "wide", "many"):
        inputs[f"jpegs/{name}"], clips[f"jpegs/{name}"] = jpegs_of(smooth_clips(SHAPES[name], 1))
    np.savez(folder / "in.npz", **inputs)
    client = folder / "client.py"
    client.write_text(CLIENT)
    command = [sys.executable, client, folder / "model", folder / "in.npz", folder / "out.npz"]
    # Neither PYTHONPATH nor this folder, and no word on which Keras to use.
    done = subprocess.run(
        command, env={"TF_CPP_MIN_LOG_LEVEL": "2"}, cwd=folder, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert "custom gradients" not in done.stderr  # nothing of Keras was saved along
    return clips, dict(np.load(folder / "out.npz"))


@pytest.mark.parametrize(
    "name",
    [f"clips/{name}" for name in SHAPES]
    + ["serving_default/wide", "jpegs/as_trained", "jpegs/wide", "jpegs/many"],
)
def test_features_are_the_encoders(run: Path, client_features: tuple, name: str) -> None:
    clips, features = (values[name] for values in client_features)
    encoder, _ = checkpoints.load_encoder(run)
    assert_features(features, encoder(prepared(clips, SIZE), training=False).numpy())


def test_the_training_size_is_not_resampled() -> None:
    clips = smooth_clips(SHAPES["as_trained"])
    np.testing.assert_allclose(prepared(clips, SIZE), clips / 255, atol=1e-7)


def test_another_size(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "model", size=48)
    clips = smooth_clips(SHAPES["wide"])
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    encoder, _ = checkpoints.load_encoder(run)
    wanted = encoder(prepared(clips, 48), training=False).numpy()
    assert_features(loaded.clips(clips)["feature"].numpy(), wanted)


def test_existing_output_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(FileExistsError, match="exists; delete it or choose another"):
        export(run, tmp_path / "model")
    assert not list((tmp_path / "model").iterdir())


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No checkpoint at"):
        export(tmp_path / "nothing", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def command(environment: dict[str, str], cwd: Path, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "cvrl_tf.export", *flags],
        env=environment,
        cwd=cwd,
        text=True,
        capture_output=True,
    )


def test_command(run: Path, tmp_path: Path, child_environment: dict[str, str]) -> None:
    """In a process that has not imported the encoder's class yet."""
    output = tmp_path / "model"
    done = command(child_environment, tmp_path, f"--checkpoint={run}", f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert f"Wrote {output}." in done.stdout
    clips = smooth_clips(SHAPES["as_trained"])
    loaded = tf.saved_model.load(str(output))
    features = loaded.clips(clips)["feature"].numpy()
    encoder, _ = checkpoints.load_encoder(run)
    assert_features(features, encoder(prepared(clips, SIZE), training=False).numpy())


def test_command_with_a_wrong_path(tmp_path: Path, child_environment: dict[str, str]) -> None:
    wrong = tmp_path / "rnu"
    done = command(child_environment, tmp_path, f"--checkpoint={wrong}", "--output=model")
    assert done.returncode == 1
    assert f"FileNotFoundError: No checkpoint at {str(wrong)!r}: give a run's folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "model").exists()
