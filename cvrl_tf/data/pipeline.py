"""From records to batches of views, each a function of (seed, epoch, position) alone."""

from pathlib import Path
from typing import Protocol

import tensorflow as tf

from cvrl_tf.data import records, schema, views

# Which draw a seed is for; folded into the seed of the example.
_CLIPS, _CROPS, _PHOTOMETRIC = range(3)


class ClipSampler(Protocol):
    """What `clips` holds: frame indices [V, T] from a video's length and a seed."""

    num_clips: int

    def __call__(self, length: tf.Tensor, seed: tf.Tensor) -> tf.Tensor: ...


class Pipeline:
    """Views of one split, for training (`stream`) or in order, once (`once`).

    A batch is a dict:
      frames: uint8 [B, V, T, H, W, 3]; V counts clips x crops.
      seeds: int32 [B, V, 2], one a view, for the photometric augmentation.
      label: int32 [B], -1 in unlabelled data.
      weight: float32 [B], 1, or 0 for what only fills up the last batch of `once`.
    """

    def __init__(
        self,
        data_dir: str | Path,
        clips: ClipSampler,
        crop: views.Crop,
        split: str = "train",
        shuffle_buffer: int = 256,
    ) -> None:
        """Reads `dataset_info.json`, no records.

        Args:
          data_dir: what tools/make_tfrecords.py wrote.
          clips: owner of T and the stride.
          crop: owner of H and W.
          split: name of the split.
          shuffle_buffer: see `records.shuffled`. Records are held as JPEGs, so a video of 300
            frames at 340x256 takes about 5 MB.

        Raises:
          FileNotFoundError: no records there, or a shard is missing.
          ValueError: no such split, or it is empty.
        """
        self.info = schema.DatasetInfo.load(data_dir)
        split_info = self.info.split(split)
        self.num_examples = split_info.num_examples
        self.num_views = clips.num_clips * crop.num_crops
        self._paths = records.shard_paths(data_dir, split_info)
        self._clips = clips
        self._crop = crop
        self._shuffle_buffer = shuffle_buffer

    def stream(
        self, global_batch: int, seed: int, first_step: int, context: tf.distribute.InputContext
    ) -> tf.data.Dataset:
        """Endless training batches, each epoch newly shuffled, from `first_step` on.

        The examples of a global batch, and every draw made for them, depend on `seed` and the step
        but not on how many replicas or input workers share the work. An epoch is
        `num_examples // global_batch` steps; other examples are left over in every epoch.

        Args:
          global_batch: examples in a step of all replicas.
          seed: of the run.
          first_step: where a resumed run goes on.
          context: says which part of the global batch this worker prepares.
        """
        steps_per_epoch = self.num_examples // global_batch
        first_epoch, steps_done = divmod(first_step, steps_per_epoch)

        def epoch_of(epoch: tf.Tensor) -> tf.data.Dataset:
            serialized = records.shuffled(self._paths, self._shuffle_buffer, seed, epoch)
            numbered = serialized.enumerate(epoch * self.num_examples)
            done = tf.where(epoch == first_epoch, steps_done * global_batch, 0)
            return numbered.take(steps_per_epoch * global_batch).skip(tf.cast(done, tf.int64))

        numbered = tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(epoch_of)
        return self._batches(numbered, global_batch, seed, context, limit=tf.int64.max)

    def once(
        self, global_batch: int, context: tf.distribute.InputContext, seed: int = 0
    ) -> tf.data.Dataset:
        """Each example once, in order; the last batch is filled up with weight 0.

        Args: as `stream`. There are ceil(num_examples / global_batch) steps.
        """
        steps = -(-self.num_examples // global_batch)
        numbered = records.in_order(self._paths).repeat().take(steps * global_batch).enumerate()
        return self._batches(numbered, global_batch, seed, context, limit=self.num_examples)

    def _batches(
        self,
        numbered: tf.data.Dataset,
        global_batch: int,
        seed: int,
        context: tf.distribute.InputContext,
        limit: int,
    ) -> tf.data.Dataset:
        """This worker's part of each global batch, in batches for one replica.

        What stands at position `limit` or later has weight 0.
        """
        if context.num_input_pipelines > 1:
            # Every worker reads all records but decodes only its own.
            share = global_batch // context.num_input_pipelines
            blocks = numbered.batch(share, drop_remainder=True)
            mine = blocks.shard(context.num_input_pipelines, context.input_pipeline_id)
            numbered = mine.unbatch()
        examples = numbered.map(
            lambda position, serialized: {
                **self._example(position, serialized, seed),
                "weight": tf.cast(position < limit, tf.float32),
            },
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        per_replica = context.get_per_replica_batch_size(global_batch)
        return examples.batch(per_replica, drop_remainder=True).prefetch(tf.data.AUTOTUNE)

    def _example(self, position: tf.Tensor, serialized: tf.Tensor, seed: int) -> dict:
        record = records.parse(serialized)
        key = tf.stack([tf.constant(seed, tf.int64), position])
        fold_in = tf.random.experimental.stateless_fold_in

        def draw(purpose: int, count: int) -> tf.Tensor:
            """Independent seeds [count, 2] for one purpose."""
            return tf.random.stateless_uniform(
                [count, 2], fold_in(key, purpose), minval=None, maxval=None, dtype=tf.int32
            )

        indices = self._clips(tf.size(record["frames"]), draw(_CLIPS, 1)[0])
        seeds = draw(_CROPS, self._clips.num_clips)
        return {
            "frames": views.extract(record["frames"], indices, self._crop, seeds),
            "seeds": draw(_PHOTOMETRIC, self.num_views),
            "label": record["label"],
        }


def num_classes(data_dir: str | Path) -> int:
    """Number of classes of a data set.

    Raises:
      ValueError: it is unlabelled.
    """
    labels = schema.DatasetInfo.load(data_dir).labels
    if not labels:
        raise ValueError(f"{str(data_dir)!r} is unlabelled; this task needs classes.")
    return len(labels)
