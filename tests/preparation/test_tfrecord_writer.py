"""Streamed records against those that TensorFlow writes, byte by byte."""

import io
from pathlib import Path

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from cvrl_tf.data import schema, shard_index
from cvrl_tf.preparation import tfrecord_writer

# No key may begin with another whole key: protobuf's implementations order those differently.
KEYS = st.text(min_size=4, max_size=4) | st.sampled_from([schema.LABEL_INDEX, schema.VIDEO_ID])
INTS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(width=32, allow_nan=False)
VALUES = st.one_of(
    st.binary(max_size=300),
    INTS,
    FLOATS,
    st.lists(INTS, min_size=1, max_size=300),
    st.lists(FLOATS, min_size=1, max_size=300),
)


def by_tensorflow(context: tfrecord_writer.Context, jpegs: list[bytes]) -> tf.train.SequenceExample:
    example = tf.train.SequenceExample()
    for key, value in context.items():
        feature = example.context.feature[key]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
            continue
        values = value if isinstance(value, list) else [value]
        if isinstance(values[0], float):
            feature.float_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    frames = example.feature_lists.feature_list[schema.FRAMES]
    for jpeg in jpegs:
        frames.feature.add().bytes_list.value.append(jpeg)
    return example


@given(
    st.dictionaries(KEYS, VALUES, min_size=1),
    st.lists(st.binary(max_size=300), max_size=5),
)
def test_bytes_are_those_of_tensorflow(
    context: tfrecord_writer.Context, jpegs: list[bytes]
) -> None:
    frames = tfrecord_writer.Jpegs()
    for jpeg in jpegs:
        frames.append(jpeg)
    shard = io.BytesIO()
    entry = frames.write_record(shard, context)
    expected = by_tensorflow(context, jpegs).SerializeToString(deterministic=True)
    assert shard.getvalue()[12:-4] == expected
    assert (entry.offset, entry.length) == (12, len(expected))
    assert [shard.getvalue()[start : start + size] for start, size, _ in entry.frames] == jpegs


def test_an_empty_list_has_no_type() -> None:
    shard = io.BytesIO()
    with pytest.raises(ValueError, match=r"lists \['image/timestamp'\] of the context are empty"):
        tfrecord_writer.Jpegs().write_record(shard, {schema.TIMES: []})
    assert not shard.getvalue()


def test_files_are_those_of_tensorflow(tmp_path: Path) -> None:
    videos = [
        [b"a" * 200, b"b" * 2**20],
        [b""],
        [bytes(range(256)) * 2**17] * 2,
    ]  # the last: 64 MiB
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for number, jpegs in enumerate(videos):
            about = {schema.NUM_FRAMES: number, schema.VIDEO_ID: b"video %d" % number}
            example = by_tensorflow(about, jpegs)
            writer.write(example.SerializeToString(deterministic=True))
    entries = []
    with (tmp_path / "ours").open("wb") as shard:
        for number, jpegs in enumerate(videos):
            frames = tfrecord_writer.Jpegs()
            for jpeg in jpegs:
                frames.append(jpeg)
            about = {schema.NUM_FRAMES: number, schema.VIDEO_ID: b"video %d" % number}
            entries.append(frames.write_record(shard, about))
        index = shard_index.ShardIndex.of(entries, shard.tell())
    assert index == shard_index.scan(tmp_path / "ours") and index.ids[2] == b"video 2"
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
