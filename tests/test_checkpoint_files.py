"""Checkpoints are whole or passed over, and the state file is no single point of failure."""

from pathlib import Path

import pytest
import tensorflow as tf

from cvrl_tf import checkpoint_files
from cvrl_tf.checkpoint_files import Saver


@pytest.fixture
def saver(tmp_path: Path) -> Saver:
    """Has saved the steps 1 to 4 and kept three."""
    variable = tf.Variable(tf.random.uniform([1000]))
    saver = Saver(tf.train.Checkpoint(value=variable), tmp_path / "checkpoints", keep=3)
    for step in range(1, 5):
        variable.assign_add(tf.ones([1000]))
        assert saver.save(step) == str(tmp_path / "checkpoints" / f"ckpt-{step}")
    return saver


def test_the_latest_are_kept_and_tensorflow_knows(saver: Saver, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint",
        *(f"ckpt-{i}.{part}" for i in (2, 3, 4) for part in ("data-00000-of-00001", "index")),
    ]
    assert (
        tf.train.latest_checkpoint(folder)
        == checkpoint_files.latest(folder)
        == str(folder / "ckpt-4")
    )
    listed = tf.train.get_checkpoint_state(str(folder)).all_model_checkpoint_paths
    assert [Path(path).name for path in listed] == ["ckpt-2", "ckpt-3", "ckpt-4"]
    fresh = tf.train.Checkpoint(value=tf.Variable(tf.zeros([1000])))
    manager = tf.train.CheckpointManager(fresh, str(folder), max_to_keep=3)
    fresh.restore(manager.latest_checkpoint).assert_consumed()


def test_a_step_is_saved_once(saver: Saver, tmp_path: Path) -> None:
    before = checkpoint_files.stamp(str(tmp_path / "checkpoints" / "ckpt-4"))
    saver.save(4)
    assert checkpoint_files.stamp(str(tmp_path / "checkpoints" / "ckpt-4")) == before


def test_the_newest_whole_one(
    saver: Saver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "checkpoints"
    assert checkpoint_files.newest(folder) == str(folder / "ckpt-4")
    data = folder / "ckpt-4.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    assert checkpoint_files.newest(folder) == str(folder / "ckpt-3")
    (folder / "checkpoint").write_text("")
    (folder / "ckpt-3.index").unlink()
    assert checkpoint_files.newest(folder) == str(folder / "ckpt-2")
    said = caplog.text
    assert "ckpt-4: " in said and "checkpoint: it names no checkpoint" in said and "ckpt-2" in said
    (folder / "ckpt-2.index").write_bytes(b"")
    with pytest.raises(ValueError, match="No checkpoint in .* can be read(.|\n)*Restore"):
        checkpoint_files.newest(folder)


def test_no_sign_of_a_checkpoint(tmp_path: Path) -> None:
    assert checkpoint_files.newest(tmp_path) is None
    assert checkpoint_files.newest(tmp_path / "nothing") is None


def test_a_save_that_fails_leaves_the_last_one(saver: Saver, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    (folder / "ckpt-5_temp").write_text("in the way of the folder that TensorFlow makes")
    with pytest.raises(tf.errors.OpError):
        saver.save(5)
    assert checkpoint_files.newest(folder) == str(folder / "ckpt-4")


@pytest.mark.parametrize(
    ("name", "step"),
    [("ckpt-12", 12), ("ckpt-3.index", 3), ("ckpt-7.data-00000-of-00001", 7), ("model", -1)],
)
def test_steps_of_names(name: str, step: int) -> None:
    assert checkpoint_files.step_of(name) == step
