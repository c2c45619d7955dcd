"""Reads records in order, and parses them. JPEG bytes stay bytes."""

import os
from collections.abc import Iterable

import tensorflow as tf
from etils import epath

from cvrl_tf.data import schema

_CONTEXT = {
    schema.LABEL_INDEX: tf.io.FixedLenFeature([], tf.int64, -1),
    schema.FRAME_RATE: tf.io.FixedLenFeature([], tf.float32, 0.0),
    schema.VIDEO_ID: tf.io.FixedLenFeature([], tf.string, ""),
    schema.TIMES: tf.io.VarLenFeature(tf.int64),
}


def shard_paths(folder: str | os.PathLike[str], split: schema.SplitInfo) -> dict[str, int]:
    """Returns the paths of the shards of a split, and how many records each has.

    Raises:
      FileNotFoundError: a shard that `dataset_info.json` names is not there.
    """
    paths = {epath.Path(folder) / name: count for name, count in split.shards.items()}
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} shards are missing in {str(folder)!r}, "
            f"the first is {missing[0]!r}. Copy them there or make the split again."
        )
    return {os.fspath(path): count for path, count in paths.items()}


def in_order(paths: Iterable[str]) -> tf.data.Dataset:
    """Returns serialized records, shard after shard, as they were written."""
    return tf.data.TFRecordDataset(list(paths))


def ending_promptly(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the same data set without tf.data's tuning of parallelism. Use it where data ends.

    The thread that tunes may miss the end of the data. Then everything waits for its next turn,
    which takes as long again as all before (up to a minute). Without tuning, AUTOTUNE means one
    call per core, up to 16.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parses one record.

    Args:
      serialized: string [], a `tf.train.SequenceExample` in the layout of `schema`.

    Returns:
      A dict by name:
        frames: string [L], JPEGs in presentation order.
        times: float32 [L], seconds from the first stored frame. Index / frame_rate where the
          record has no times; NaN where it has no frame rate either.
        start: float32 [], seconds into the source of that frame; 0 where the record has no times.
        label: int32 [], -1 in unlabeled data.
        frame_rate: float32 [], frames per second, 0 where unknown.
        video_id: string [].

    Raises:
      InvalidArgumentError: this is no record, or it has not as many times as frames.
    """
    context, sequence = tf.io.parse_single_sequence_example(
        serialized,
        _CONTEXT,
        {schema.FRAMES: tf.io.FixedLenSequenceFeature([], tf.string)},
    )
    frames = sequence[schema.FRAMES]
    return {"frames": frames, **_facts(context, tf.size(frames))}


def parse_context(serialized: tf.Tensor, length: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parses the context of a record: what `parse` returns, but for the frames.

    Args:
      serialized: string [], a `tf.train.SequenceExample` with a context alone.
      length: int32 [], L.
    """
    context, _ = tf.io.parse_single_sequence_example(serialized, _CONTEXT)
    return _facts(context, length)


def _facts(context: dict[str, tf.Tensor], length: tf.Tensor) -> dict[str, tf.Tensor]:
    rate, microseconds = context[schema.FRAME_RATE], context[schema.TIMES].values
    return {
        "times": _seconds(microseconds, length, rate),
        "start": tf.cast(tf.reduce_sum(microseconds[:1]), tf.float32) / 1e6,
        "label": tf.cast(context[schema.LABEL_INDEX], tf.int32),
        "frame_rate": rate,
        "video_id": context[schema.VIDEO_ID],
    }


def _seconds(microseconds: tf.Tensor, length: tf.Tensor, frame_rate: tf.Tensor) -> tf.Tensor:
    """Returns the times of frames as `parse` has them.

    Args:
      microseconds: int64 [L] into the source, or [0] where the record has none.
      length: int32 [], L.
      frame_rate: float32 [], 0 where unknown.
    """
    stored = tf.size(microseconds)
    fits = tf.debugging.Assert(
        (stored == 0) | (stored == length),
        [f"{schema.TIMES} must have one value a frame: values, frames:", stored, length],
    )
    with tf.control_dependencies([fits]):
        # In int64: float32 holds seconds to the microsecond only near the first frame.
        elapsed = tf.cast(microseconds - microseconds[:1], tf.float32) / 1e6
    rate = tf.where(frame_rate > 0, frame_rate, float("nan"))
    counted = tf.cast(tf.range(length), tf.float32) / rate
    return tf.concat([elapsed, counted[stored:]], 0)  # one of them is empty
