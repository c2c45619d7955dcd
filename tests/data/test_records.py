"""Records out of their wire format."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from cvrl_tf.data import clips, pipeline, reading, records, schema, shard_index, views


def record(length: int, rate: float | None = None, times: list[int] | None = None) -> bytes:
    """A serialized record of gray frames."""
    example = tf.train.SequenceExample()
    features = example.context.feature
    if rate is not None:
        features[schema.FRAME_RATE].float_list.value.append(rate)
    if times is not None:
        features[schema.TIMES].int64_list.value.extend(times)
    jpeg = tf.io.encode_jpeg(np.full((32, 32, 3), 128, np.uint8)).numpy()
    for _ in range(length):
        example.feature_lists.feature_list[schema.FRAMES].feature.add().bytes_list.value[:] = [jpeg]
    return example.SerializeToString()


@pytest.mark.parametrize(
    ("serialized", "expected"),
    [
        (record(3, 25.0, [0, 40_000, 90_000]), [0, 0.04, 0.09]),  # not index / rate
        (record(3, None, [0, 40_000, 90_000]), [0, 0.04, 0.09]),
        (record(2, 25.0, [3_600_000_000, 3_600_033_367]), [0, 0.033367]),  # an hour into the source
        (record(4, 12.5), [0, 0.08, 0.16, 0.24]),  # records of version 1
        (record(2), [np.nan, np.nan]),
        (record(2, 0.0), [np.nan, np.nan]),
    ],
    ids=["stored", "no rate", "late", "no times", "neither", "rate 0"],
)
def test_times(serialized: bytes, expected: list[float]) -> None:
    for parsed in (
        records.parse(tf.constant(serialized)),
        next(iter(tf.data.Dataset.from_tensors(serialized).map(records.parse))),
    ):
        assert parsed["times"].dtype == tf.float32
        np.testing.assert_allclose(parsed["times"], np.float32(expected), rtol=1e-6)


def test_as_many_times_as_frames() -> None:
    serialized = record(3, 25.0, [0, 40_000])
    with pytest.raises(tf.errors.InvalidArgumentError, match="one value a frame"):
        records.parse(tf.constant(serialized))
    with pytest.raises(tf.errors.InvalidArgumentError, match="one value a frame"):
        next(iter(tf.data.Dataset.from_tensors(serialized).map(records.parse)))


def test_views_of_a_record_without_times(tmp_path: Path) -> None:
    with tf.io.TFRecordWriter(str(tmp_path / "train-00000-of-00001")) as writer:
        for _ in range(2):
            writer.write(record(8))
    shard = tmp_path / "train-00000-of-00001"
    shard_index.scan(shard).save(shard_index.path_of(shard))
    split = schema.SplitInfo({shard.name: 2}, 16, {"0": 2}, {}, {})
    schema.DatasetInfo([], 32, {"train": split}).save(tmp_path)
    for sampler in (clips.UniformClips(4, 2, 2), clips.EvenClips(4, 2, 2)):
        data = pipeline.Pipeline(tmp_path, sampler, views.EvenCrops(16, 16, 1))
        batch = next(iter(data.eval_batches(2)))
        np.testing.assert_array_equal(batch["weight"], [1, 1])
        np.testing.assert_allclose(batch["frames"], 128, atol=1)


@pytest.mark.timeout(60)
def test_a_shard_that_has_vanished_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "a [0-9]*" / "train-00000-of-00001"
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(record(3))
    shard_index.scan(path).save(shard_index.path_of(path))
    reader = reading.Reader({str(path): 1})
    whole = tf.data.Dataset.range(1).flat_map(reader.whole)
    assert [bool(found) for found in whole.as_numpy_iterator()] == [True]
    path.unlink()
    assert list(whole.as_numpy_iterator()) == [b""]
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="record 0 of .* can't be read: .*No such file"
    ):
        reader.record(tf.constant(0, tf.int64))
