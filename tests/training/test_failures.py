"""Errors of the input are told in words, also where the damage is gone once one looks for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import tensorflow as tf
from conftest import ramp_video, write_records

from cvrl_tf.data import clips, pipeline, shard_index, views
from cvrl_tf.training import failures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_records(tmp_path / "some records", [ramp_video(6, 32, 32)] * 4, num_shards=1)


@pytest.fixture(params=["vanished", "damaged"])
def data(folder: Path, request: pytest.FixtureRequest) -> Iterator[pipeline.Pipeline]:
    """Of a shard that can't be read, or in which a frame of the last record is damaged."""
    shard = folder / "train-00000-of-00001"
    found = pipeline.Pipeline(folder, clips.EvenClips(6, 1, 1), views.EvenCrops(16, 16, 1))
    if request.param == "vanished":
        shard.unlink()
    else:
        place = int(shard_index.scan(shard).frames["offset"][-1]) + 50
        content = bytearray(shard.read_bytes())
        content[place] ^= 1
        shard.write_bytes(content)
    yield found


def test_what_was_unreadable_for_a_moment_is_named(data: pipeline.Pipeline, folder: Path) -> None:
    with (
        pytest.raises(
            failures.Stopped,
            match=rf"At step 7, record \d of {folder}/train-00000-of-00001 could not be read, al",
        ),
        failures.explained(lambda: 7, lambda: None, 1, lambda: None),
    ):
        list(data.eval_batches(2).as_numpy_iterator())


def test_what_is_unreadable_still_is_named(data: pipeline.Pipeline, folder: Path) -> None:
    with (
        pytest.raises(
            failures.Stopped, match=rf"(?s)step 7: record \d of {folder}.*check_tfrecords"
        ),
        failures.explained(lambda: 7, data.eval_damage, 1, lambda: None),
    ):
        list(data.eval_batches(2).as_numpy_iterator())


def test_a_whole_record_that_vanished_is_named(folder: Path) -> None:
    """As a data server reads it."""
    data = pipeline.Pipeline(folder, clips.EvenClips(6, 1, 1), views.EvenCrops(16, 16, 1))
    numbered = tf.data.Dataset.range(2).enumerate()
    examples = data._whole(numbered).map(
        lambda position, number, whole: data._examples.read(position, number, 0, whole)
    )
    assert len(list(examples)) == 2
    (folder / "train-00000-of-00001").unlink()
    with (
        pytest.raises(failures.Stopped, match=rf"record 0 of {folder}/train-00000-of-00001 could"),
        failures.explained(lambda: 7, lambda: None, 1, lambda: None),
    ):
        list(examples)
