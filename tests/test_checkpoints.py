"""Checkpoints are read whole or refused, with words that say what does not match."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from conftest import sampling

from cvrl_tf import checkpoints
from cvrl_tf.augment.chain import Chain, ViewChains
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.pretext.contrastive import ContrastiveLearner

KERNEL = "encoder/stem/conv/kernel"
MEAN = "encoder/blocks/2/shortcut/norm/moving_mean"


def small_encoder(depth: int = 10, width: float = 0.125, seed: int = 0) -> ResNet3D:
    keras.utils.set_random_seed(seed)
    encoder = ResNet3D(depth, width)
    encoder.build()
    return encoder


def small_head(seed: int = 0) -> ProjectionHead:
    keras.utils.set_random_seed(seed)
    head = ProjectionHead(hidden_dim=6, num_hidden=2, output_dim=3)
    head.build((None, 4))
    return head


def make_distinct(model: keras.Model) -> dict[str, np.ndarray]:
    """Sets each variable to values that no other has, and returns them by key."""
    values = {}
    variables = checkpoints.keys_of(model, "root")
    assert len(variables) == len(model.variables)
    for number, (key, variable) in enumerate(sorted(variables.items())):
        values[key] = np.random.default_rng(number).uniform(0.5, 1.5, variable.shape).astype("f4")
        variable.assign(values[key])
    return values


def assert_values(model: keras.Model, values: dict[str, np.ndarray]) -> None:
    variables = checkpoints.keys_of(model, "root")
    assert variables.keys() == values.keys()
    for key, variable in variables.items():
        np.testing.assert_array_equal(variable, values[key], err_msg=key)


def features_of(encoder: keras.Model) -> np.ndarray:
    clips = np.random.default_rng(0).uniform(size=(2, 4, 32, 32, 3)).astype("f4")
    return encoder(clips, training=False).numpy()


def save_run(folder: Path, encoder: keras.Model, number: int = 7, **others: tf.Module) -> str:
    """As the runner does; returns the prefix."""
    folder.mkdir(exist_ok=True)
    checkpoints.save_encoder_config(encoder, sampling(4, 32), folder)
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(encoder=encoder, **others),
        str(folder / "checkpoints"),
        max_to_keep=3,
        checkpoint_name="ckpt",
    )
    return manager.save(number)


def tensors_of(prefix: str) -> dict[str, np.ndarray]:
    """What a checkpoint holds of its encoder, by key without the suffix."""
    reader = tf.train.load_checkpoint(prefix)
    return {
        key.removesuffix(checkpoints.VALUE): reader.get_tensor(key)
        for key in reader.get_variable_to_shape_map()
        if key.startswith("encoder/")
    }


def write_tensors(tensors: dict[str, np.ndarray], prefix: Path) -> str:
    """A checkpoint of exactly these tensors."""
    root = tf.train.Checkpoint()
    for key, value in tensors.items():
        node = root
        *parents, name = key.split("/")
        for parent in parents:
            if not hasattr(node, parent):
                setattr(node, parent, tf.Module())
            node = getattr(node, parent)
        setattr(node, name, tf.Variable(value))
    return root.write(str(prefix))


# Keys


@pytest.mark.parametrize("depth", [10, 50])
def test_keys_are_those_of_an_encoders_checkpoint(tmp_path: Path, depth: int) -> None:
    encoder = small_encoder(depth)
    prefix = tf.train.Checkpoint(encoder=encoder).write(str(tmp_path / "ckpt"))
    assert_keys(encoder, "encoder", prefix)


def test_keys_are_those_of_a_heads_checkpoint(tmp_path: Path) -> None:
    head = small_head()
    prefix = tf.train.Checkpoint(head=head).write(str(tmp_path / "ckpt"))
    assert_keys(head, "head", prefix)


def test_keys_of_what_is_shared_are_the_shortest(tmp_path: Path) -> None:
    root, shared = tf.Module(), tf.Variable(1.0)
    root.near, root.shy = tf.Module(), tf.Module()
    root.near.shared, root.shy.inner = shared, tf.Module()
    root.shy.inner.shared = shared
    prefix = tf.train.Checkpoint(model=root).write(str(tmp_path / "ckpt"))
    stored = tf.train.load_checkpoint(prefix).get_variable_to_shape_map()
    (key,) = checkpoints.keys_of(root, "model")
    assert key in stored and key.startswith("model/near/shared/")


def assert_keys(model: keras.Model, name: str, prefix: str) -> None:
    stored = tf.train.load_checkpoint(prefix).get_variable_to_shape_map()
    stored = {key: tuple(shape) for key, shape in stored.items() if key.startswith(f"{name}/")}
    found = checkpoints.keys_of(model, name)
    assert {key: tuple(variable.shape) for key, variable in found.items()} == stored
    assert len(found) == len(model.variables)
    assert {id(v) for v in found.values()} == {id(v) for v in model.variables}


# Loading


@pytest.mark.parametrize("depth", [10, 50])
def test_initialize_loads_every_tensor(tmp_path: Path, depth: int) -> None:
    encoder = small_encoder(depth)
    values = make_distinct(encoder)
    prefix = save_run(tmp_path / "run", encoder)
    other = small_encoder(depth, seed=1)
    assert checkpoints.initialize(other, tmp_path / "run") == prefix
    assert_values(other, values)


def test_initialize_takes_one_root_of_a_run(tmp_path: Path) -> None:
    """A run's checkpoint also holds a head, and an optimizer with slots for both."""
    encoder, head = small_encoder(), small_head()
    optimizer = keras.optimizers.legacy.SGD(0.1, momentum=0.9)
    variables = encoder.trainable_variables + head.trainable_variables
    optimizer.apply_gradients([(tf.ones_like(v), v) for v in variables])
    values, values_of_head = make_distinct(encoder), make_distinct(head)
    save_run(tmp_path / "run", encoder, head=head, optimizer=optimizer)
    others = small_encoder(seed=1), small_head(seed=1)
    checkpoints.initialize(others[0], tmp_path / "run")
    checkpoints.initialize(others[1], tmp_path / "run", name="head")
    assert_values(others[0], values)
    assert_values(others[1], values_of_head)


def test_load_encoder_gives_the_same_features(tmp_path: Path) -> None:
    encoder = ResNet3D(
        10,
        0.25,
        temporal_kernels=(3, 1, 1, 3),
        stem_kernel=(3, 5, 5),
        stem_strides=(1, 2, 2),
        stem_pool=False,
    )
    encoder.build()
    make_distinct(encoder)
    save_run(tmp_path / "run", encoder)
    loaded = checkpoints.load_encoder(tmp_path / "run")
    content = checkpoints.SavedRun.open(tmp_path / "run")
    np.testing.assert_allclose(features_of(loaded), features_of(encoder), rtol=1e-6)
    assert content.sampling == sampling(4, 32)
    assert loaded.get_config() == encoder.get_config()


def test_building_with_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    """So 'the random encoder' of the probe is the one that the run began with."""
    encoder = small_encoder(seed=3)
    save_run(tmp_path / "run", encoder)
    keras.utils.set_random_seed(3)
    again = checkpoints.SavedRun.open(tmp_path / "run").new_encoder()
    for one, other in zip(encoder.variables, again.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    keras.utils.set_random_seed(4)
    other = checkpoints.SavedRun.open(tmp_path / "run").new_encoder()
    assert np.any(other.variables[0].numpy() != encoder.variables[0].numpy())


@pytest.mark.parametrize("head_first", [False, True])
def test_a_task_builds_the_encoder_that_building_it_alone_gives(head_first: bool) -> None:
    keras.utils.set_random_seed(3)
    head = ProjectionHead(6, 2, 3) if head_first else None
    encoder = ResNet3D(10, 0.125)
    ContrastiveLearner(encoder, head or ProjectionHead(6, 2, 3), ViewChains([Chain()]))
    alone = small_encoder(seed=3)
    for one, other in zip(encoder.variables, alone.variables, strict=True):
        np.testing.assert_array_equal(one, other)


# Refusals


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    encoder = small_encoder()
    return tensors_of(save_run(tmp_path_factory.mktemp("stored") / "run", encoder))


def test_the_same_tensors_are_accepted(stored: dict[str, np.ndarray], tmp_path: Path) -> None:
    """What `write_tensors` makes is a checkpoint, so that the refusals below are of their fault."""
    encoder = small_encoder(seed=1)
    checkpoints.initialize(encoder, write_tensors(stored, tmp_path / "ckpt"))
    np.testing.assert_array_equal(encoder.stem.conv.kernel, stored[KERNEL])


def refusal(encoder: keras.Model, prefix: str) -> str:
    before = [variable.numpy() for variable in encoder.variables]
    with pytest.raises(ValueError) as refused:
        checkpoints.initialize(encoder, prefix)
    for variable, was in zip(encoder.variables, before, strict=True):
        np.testing.assert_array_equal(variable, was)  # nothing is half loaded
    assert repr(prefix) in str(refused.value)
    return str(refused.value)


def test_a_missing_tensor(stored: dict[str, np.ndarray], tmp_path: Path) -> None:
    fewer = {key: value for key, value in stored.items() if key != MEAN}
    message = refusal(small_encoder(), write_tensors(fewer, tmp_path / "ckpt"))
    assert f"1 differences:\n  missing there: {MEAN}" in message


def test_an_unknown_tensor(stored: dict[str, np.ndarray], tmp_path: Path) -> None:
    more = {**stored, "encoder/blocks/2/gate/kernel": np.zeros(3, "f4")}
    message = refusal(small_encoder(), write_tensors(more, tmp_path / "ckpt"))
    assert "1 differences:\n  not in the model: encoder/blocks/2/gate/kernel" in message


def test_a_tensor_of_another_shape(stored: dict[str, np.ndarray], tmp_path: Path) -> None:
    other = {**stored, KERNEL: np.zeros((3, 7, 7, 3, 8), "f4")}
    message = refusal(small_encoder(), write_tensors(other, tmp_path / "ckpt"))
    line = f"shape (3, 7, 7, 3, 8) there, (5, 7, 7, 3, 8) in the model: {KERNEL}"
    assert f"1 differences:\n  {line}" in message


def test_another_depth(stored: dict[str, np.ndarray], tmp_path: Path) -> None:
    message = refusal(small_encoder(18), write_tensors(stored, tmp_path / "ckpt"))
    assert "another depth or width" in message
    assert "missing there: encoder/blocks/4/convs/0/conv/kernel\n" in message
    assert len(message.splitlines()) == 12 and " more" in message


def test_another_width(stored: dict[str, np.ndarray], tmp_path: Path) -> None:
    prefix = write_tensors(stored, tmp_path / "ckpt")
    message = refusal(small_encoder(width=0.25), prefix)
    assert "shape (8,) there, (16,) in the model: encoder/blocks/0" in message


def test_another_root(tmp_path: Path) -> None:
    prefix = save_run(tmp_path / "run", small_encoder())
    with pytest.raises(ValueError, match="missing there: head/"):
        checkpoints.initialize(small_head(), prefix, name="head")


# Paths


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two checkpoints, 7 and then 9."""
    encoder = small_encoder()
    folder = tmp_path / "run"
    folder.mkdir()
    checkpoints.save_encoder_config(encoder, sampling(4, 32), folder)
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(encoder=encoder),
        str(folder / "checkpoints"),
        max_to_keep=3,
        checkpoint_name="ckpt",
    )
    for number in (7, 9):
        manager.save(number)
    return folder


def test_resolve(run: Path) -> None:
    latest = str(run / "checkpoints" / "ckpt-9")
    assert checkpoints.resolve(run) == latest
    assert checkpoints.resolve(str(run)) == latest
    assert checkpoints.resolve(run / "checkpoints") == latest
    first = str(run / "checkpoints" / "ckpt-7")
    assert checkpoints.resolve(first) == first


def test_resolve_a_run_that_was_moved(run: Path, tmp_path: Path) -> None:
    moved = shutil.move(run, tmp_path / "elsewhere")
    assert checkpoints.resolve(moved) == str(tmp_path / "elsewhere" / "checkpoints" / "ckpt-9")


@pytest.mark.parametrize("name", ["", "nothing", "run/checkpoints/ckpt-8", "run/encoder.json"])
def test_resolve_nothing(run: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match="No checkpoint at .*give a run's folder"):
        checkpoints.resolve(tmp_path / name)


def test_an_encoder_of_unknown_architecture(run: Path) -> None:
    (run / checkpoints.ENCODER_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=r"No encoder\.json"):
        checkpoints.load_encoder(run)
