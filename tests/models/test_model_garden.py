"""The Garden's own encoder, saved and converted, gives the same features; and back again."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from conftest import ROOT
from garden_encoder import garden_r3d50, randomize

from cvrl_tf import checkpoints
from cvrl_tf.models import model_garden
from cvrl_tf.models.r2plus1d import R2Plus1D
from cvrl_tf.models.resnet3d import ResNet3D

LAYER = "backbone/layer_with_weights"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, keras.Model]:
    """A checkpoint as the authors write theirs, and its model."""
    model = garden_r3d50()
    randomize(model, 0)
    prefix = tmp_path_factory.mktemp("published") / "r3d_1x_k600_800ep_backbone-1"
    tf.train.Checkpoint(backbone=model).write(str(prefix))
    return prefix, model


def tensors(prefix: Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(prefix))
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names if "OBJECT_GRAPH" not in name}


@pytest.mark.slow
def test_the_same_features(published: tuple[Path, keras.Model]) -> None:
    prefix, model = published
    encoder, unused = model_garden.load(prefix)
    assert len(encoder.variables) == 265 and unused == []
    assert encoder.count_params() == model.count_params() == 31_725_248
    frames = np.random.default_rng(1).uniform(size=(2, 8, 64, 64, 3)).astype(np.float32)
    expected = tf.reduce_mean(model(frames, training=False)["5"], axis=[1, 2, 3])
    features = encoder(frames, training=False)
    assert features.shape == (2, 2048) and np.std(expected) > 0
    # Relative to the size of the features: single entries may be near zero.
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_there_and_back_again(published: tuple[Path, keras.Model], tmp_path: Path) -> None:
    prefix, _ = published
    tool = [sys.executable, ROOT / "tools" / "convert_checkpoint.py"]
    run, back = tmp_path / "run", tmp_path / "back-1"

    def convert(*flags: str | Path) -> str:
        done = subprocess.run([*tool, *flags], check=True, capture_output=True, text=True)
        return done.stdout

    said = convert(f"--checkpoint={prefix}", f"--output={run}")
    assert "all 265 tensors" in said
    convert("--to_garden", f"--checkpoint={run}", f"--output={back}")
    ours, theirs = tensors(back), tensors(prefix)
    assert len(theirs) == 265 and ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].tobytes() == value.tobytes(), name
    restored = garden_r3d50()
    status = tf.train.Checkpoint(backbone=restored).read(str(back))
    status.assert_existing_objects_matched()
    again = subprocess.run(
        [*tool, f"--checkpoint={prefix}", f"--output={run}"], capture_output=True
    )
    assert again.returncode == 1 and b"is there already" in again.stderr


def missing(stored: dict) -> None:
    del stored[f"{LAYER}-9/_norm2/beta"]


def misshapen(stored: dict) -> None:
    stored[f"{LAYER}-5/_shortcut_conv/kernel"] = np.zeros([1, 1, 1, 256, 511], np.float32)


def superfluous(stored: dict) -> None:
    stored[f"{LAYER}-18/kernel"] = np.zeros([3], np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (missing, f"1 differences:\n  missing there: {LAYER}-9/_norm2/beta"),
        (
            misshapen,
            rf"1 differences:\n  shape \(1, 1, 1, 256, 511\) there, \(1, 1, 1, 256, 512\) in the "
            f"model: {LAYER}-5/_shortcut_conv/kernel",
        ),
        (superfluous, f"1 differences:\n  not in the model: {LAYER}-18/kernel"),
    ],
)
def test_a_wrong_tensor_is_named(
    spoil: Callable[[dict], None], words: str, published: tuple, tmp_path: Path
) -> None:
    stored = {name.removesuffix(checkpoints.VALUE): x for name, x in tensors(published[0]).items()}
    spoil(stored)
    tree: dict = {}
    for name, value in stored.items():
        node = tree
        *folders, leaf = name.split("/")
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = tf.Variable(value)

    def trackable(node: dict) -> tf.train.Checkpoint:
        children = {k: trackable(v) if isinstance(v, dict) else v for k, v in node.items()}
        return tf.train.Checkpoint(**children)

    trackable(tree).write(str(tmp_path / "spoilt"))
    with pytest.raises(ValueError, match=words):
        model_garden.load(tmp_path / "spoilt")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "width", "words"),
    [
        (101, 0.25, "missing there: backbone/layer_with_weights-18/"),
        (50, 0.5, r"shape \(5, 7, 7, 3, 64\) there, \(5, 7, 7, 3, 32\) in the model"),
        (18, 1, r"depth=18: .* only \[50, 101, 152\]"),
    ],
)
def test_another_network_is_refused(depth: int, width: float, words: str, published: tuple) -> None:
    with pytest.raises(ValueError, match=words):
        model_garden.load(published[0], depth, width)


def test_basic_blocks_have_no_place_in_the_layout(tmp_path: Path) -> None:
    encoder = ResNet3D(10, width=0.125)
    encoder.build()
    with pytest.raises(ValueError, match="bottlenecks only"):
        model_garden.save(encoder, tmp_path / "never")
    with pytest.raises(ValueError, match="Only a ResNet3D .* not a R2Plus1D"):
        model_garden.save(R2Plus1D(10, 0.125), tmp_path / "never")
    assert not list(tmp_path.iterdir())
