"""Records in reading order, and out of their wire format. JPEG bytes stay bytes."""

import os

import tensorflow as tf
from etils import epath

from cvrl_tf.data import schema

# Shards read at the same time. A constant, because the order of the records depends on it.
_INTERLEAVED_SHARDS = 16


def shard_paths(folder: str | os.PathLike[str], split: schema.SplitInfo) -> list[str]:
    """Paths of the shards of a split.

    Raises:
      FileNotFoundError: a shard that `dataset_info.json` names is not there.
    """
    paths = [epath.Path(folder) / name for name in split.shards]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} shards are missing in {str(folder)!r}, "
            f"the first is {missing[0]!r}. Copy them there or make the split again."
        )
    return [os.fspath(path) for path in paths]


def in_order(paths: list[str]) -> tf.data.Dataset:
    """Serialized records, shard after shard, as they were written."""
    return tf.data.TFRecordDataset(paths)


def shuffled(paths: list[str], buffer: int, seed: int, epoch: tf.Tensor) -> tf.data.Dataset:
    """Serialized records of one epoch, in an order that is a function of (seed, epoch) alone.

    Shards are read in a random order, several at a time, and what is read is shuffled in a buffer.

    Args:
      paths: the shards.
      buffer: records in it. As many as there are examples gives a uniform shuffle.
      seed: of the run.
      epoch: int64 [].
    """
    key = tf.stack([tf.constant(seed, tf.int64), epoch])
    order = tf.random.experimental.stateless_shuffle(tf.constant(paths), seed=key)
    records = tf.data.Dataset.from_tensor_slices(order).interleave(
        tf.data.TFRecordDataset,
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
        output_types=[tf.string],
        output_shapes=[[]],
        reshuffle_each_iteration=False,
    )
    spec = tf.TensorSpec([], tf.string)
    return tf.data.experimental.from_variant(shuffled_records, spec).prefetch(1)


def parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """One record, by name.

    Args:
      serialized: string [], a `tf.train.SequenceExample` in the layout of `schema`.

    Returns:
      frames: string [L], JPEGs in presentation order.
      label: int32 [], -1 in unlabelled data.
      frame_rate: float32 [], frames per second, 0 where unknown.
      video_id: string [].
    """
    context, sequence = tf.io.parse_single_sequence_example(
        serialized,
        context_features={
            schema.LABEL_INDEX: tf.io.FixedLenFeature([], tf.int64, -1),
            schema.FRAME_RATE: tf.io.FixedLenFeature([], tf.float32, 0.0),
            schema.VIDEO_ID: tf.io.FixedLenFeature([], tf.string, ""),
        },
        sequence_features={schema.FRAMES: tf.io.FixedLenSequenceFeature([], tf.string)},
    )
    return {
        "frames": sequence[schema.FRAMES],
        "label": tf.cast(context[schema.LABEL_INDEX], tf.int32),
        "frame_rate": context[schema.FRAME_RATE],
        "video_id": context[schema.VIDEO_ID],
    }
