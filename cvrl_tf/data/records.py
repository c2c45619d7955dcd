"""Reads records in order, and parses them. JPEG bytes stay bytes."""

import os
from collections.abc import Iterable

import tensorflow as tf
from etils import epath

from cvrl_tf.data import schema

# Shards read at the same time. A constant, because the order of the records depends on it.
_INTERLEAVED_SHARDS = 16


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


def located(paths: dict[str, int]) -> tf.data.Dataset:
    """Returns what `in_order` does, as pairs of strings []: the place of a record, and the record.

    There are as many records as there should be. Those that can't be read are empty. (TensorFlow
    reads nothing of a shard behind its first damage.)
    """
    shards = tf.data.Dataset.from_tensor_slices((list(paths), list(paths.values())))
    return shards.flat_map(_located_in_shard)


def _located_in_shard(path: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
    unreadable = tf.data.Dataset.from_tensors(b"").repeat()
    # None if it has vanished: `ignore_errors` would try to open it for ever.
    present = tf.io.matching_files(tf.strings.regex_replace(path, r"([*?\[\]\\])", r"\\\1"))
    records = tf.data.TFRecordDataset(present).ignore_errors().concatenate(unreadable)
    count = tf.cast(count, tf.int64)
    return tf.data.Dataset.zip(tf.data.Dataset.range(count), records).map(
        lambda number, record: (
            tf.strings.join(["record ", tf.strings.as_string(number), " of ", path]),
            record,
        )
    )


def shuffled(paths: dict[str, int], buffer: int, seed: int, epoch: tf.Tensor) -> tf.data.Dataset:
    """Returns what `located` does, in an order that depends on the seed and the epoch alone.

    Shards are read in a random order, several at a time. Then a buffer shuffles the records.

    Args:
      paths: from `shard_paths`.
      buffer: its size in records. As many as there are examples give a uniform shuffle.
      seed: of the run.
      epoch: int64 [].
    """
    key = tf.stack([tf.constant(seed, tf.int64), epoch])
    order = tf.random.experimental.stateless_shuffle(tf.range(len(paths)), seed=key)
    shards = (tf.gather(list(paths), order), tf.gather(list(paths.values()), order))
    records = tf.data.Dataset.from_tensor_slices(shards).interleave(
        _located_in_shard,
        cycle_length=min(_INTERLEAVED_SHARDS, len(paths)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    # Not `Dataset.shuffle`, which takes its seed when the graph is built, so one order for all
    # epochs, and mixes TensorFlow's global seed in.
    shuffled_records = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(records),
        buffer_size=buffer,
        seed=seed,
        seed2=epoch + 1,  # both 0 would mean any
        output_types=[tf.string, tf.string],
        output_shapes=[[], []],
        reshuffle_each_iteration=False,
    )
    return tf.data.experimental.from_variant(shuffled_records, records.element_spec).prefetch(1)


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
        context_features={
            schema.LABEL_INDEX: tf.io.FixedLenFeature([], tf.int64, -1),
            schema.FRAME_RATE: tf.io.FixedLenFeature([], tf.float32, 0.0),
            schema.VIDEO_ID: tf.io.FixedLenFeature([], tf.string, ""),
            schema.TIMES: tf.io.VarLenFeature(tf.int64),
        },
        sequence_features={schema.FRAMES: tf.io.FixedLenSequenceFeature([], tf.string)},
    )
    frames, frame_rate = sequence[schema.FRAMES], context[schema.FRAME_RATE]
    microseconds = context[schema.TIMES].values
    return {
        "frames": frames,
        "times": _seconds(microseconds, tf.size(frames), frame_rate),
        "start": tf.cast(tf.reduce_sum(microseconds[:1]), tf.float32) / 1e6,
        "label": tf.cast(context[schema.LABEL_INDEX], tf.int32),
        "frame_rate": frame_rate,
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
