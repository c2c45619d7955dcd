"""From records to batches of views, each a function of (seed, epoch, position) alone."""

from collections.abc import Callable, Sequence
from pathlib import Path

import tensorflow as tf

from cvrl_tf.data import clips as clip_samplers
from cvrl_tf.data import records, schema, views

# Which draw a seed is for; folded into the seed of the example.
_CLIPS, _CROPS, _PHOTOMETRIC = range(3)


class Pipeline:
    """Views of one split, for training (`stream`) or in order, once (`once`).

    A batch is a dict:
      frames: uint8 [B, V, T, H, W, 3]; V counts clips x crops. Float32 in [0, 1] if the pipeline
        augments them.
      seeds: int32 [B, V, 2], one a view, for the photometric augmentation.
      label: int32 [B], -1 in unlabelled data.
      weight: float32 [B], 1, or 0 for what only fills up the last batch of `once`.
    """

    def __init__(
        self,
        data_dir: str | Path,
        clips: clip_samplers.ClipSampler,
        crop: views.Crop,
        split: str = "train",
        shuffle_buffer: int = 256,
        fps: float | None = None,
        augment: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
        servers: Sequence[str] = (),
    ) -> None:
        """Reads `dataset_info.json`, no records.

        Args:
          data_dir: what tools/make_tfrecords.py wrote.
          clips: owner of T and the stride.
          crop: owner of H and W.
          split: name of the split.
          shuffle_buffer: see `records.shuffled`. Records are held as JPEGs, so a video of 300
            frames at 340x256 takes about 8 MB.
          fps: see `clips.at_rate`.
          augment: the task's augmentation, if it is to run here, on the host, rather than in the
            training step. The pixels are the same; what goes to the accelerator is four times as
            much.
          servers: addresses of machines that run tools/data_server.py and prepare the training
            batches in turn; they must reach the records under the same path. By default this
            machine does.

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
        self._fps = fps
        self._augment = augment
        self._servers = servers

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
        return self._batches(
            numbered, global_batch, seed, context, limit=tf.int64.max, servers=self._servers
        )

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
        servers: Sequence[str] = (),
    ) -> tf.data.Dataset:
        """This worker's part of each global batch, in batches for one replica.

        What stands at position `limit` or later has weight 0.
        """
        per_replica = context.get_per_replica_batch_size(global_batch)

        def share(numbered: tf.data.Dataset, size: int, count: int, index: int) -> tf.data.Dataset:
            """Every `count`-th block of `size` records, none of them decoded yet."""
            if count == 1:
                return numbered
            mine = numbered.enumerate().filter(lambda i, _: i // size % count == index)
            return mine.map(lambda _, record: record)

        def decoded(numbered: tf.data.Dataset) -> tf.data.Dataset:
            examples = numbered.map(
                lambda position, serialized: {
                    **self._example(position, serialized, seed),
                    "weight": tf.cast(position < limit, tf.float32),
                },
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            return examples.batch(per_replica, drop_remainder=True)

        workers = context.num_input_pipelines
        numbered = share(numbered, global_batch // workers, workers, context.input_pipeline_id)
        if not servers:
            return decoded(numbered).prefetch(tf.data.AUTOTUNE)
        # Each server prepares every n-th batch, so that their order is what it would be here. (With
        # one dispatcher for all of them it would depend on who is faster.)
        turns = [
            decoded(share(numbered, per_replica, len(servers), index)).apply(
                tf.data.experimental.service.distribute("parallel_epochs", f"grpc://{server}")
            )
            for index, server in enumerate(servers)
        ]
        in_turn = tf.data.Dataset.range(len(turns)).repeat()
        return tf.data.Dataset.choose_from_datasets(turns, in_turn).prefetch(tf.data.AUTOTUNE)

    def _example(self, position: tf.Tensor, serialized: tf.Tensor, seed: int) -> dict:
        record = records.parse(serialized)
        key = tf.stack([tf.constant(seed, tf.int64), position])
        fold_in = tf.random.experimental.stateless_fold_in

        def draw(purpose: int, count: int) -> tf.Tensor:
            """Independent seeds [count, 2] for one purpose."""
            return tf.random.stateless_uniform(
                [count, 2], fold_in(key, purpose), minval=None, maxval=None, dtype=tf.int32
            )

        indices = clip_samplers.at_rate(
            self._clips,
            tf.size(record["frames"]),
            draw(_CLIPS, 1)[0],
            record["frame_rate"],
            self._fps,
        )
        crop_seeds = draw(_CROPS, self._clips.num_clips)
        frames = views.extract(record["frames"], indices, self._crop, crop_seeds)
        seeds = draw(_PHOTOMETRIC, self.num_views)
        if self._augment is not None:
            frames = self._augment(frames[tf.newaxis], seeds[tf.newaxis])
        return {"frames": frames, "seeds": seeds, "label": record["label"]}


def num_classes(data_dir: str | Path) -> int:
    """Number of classes of a data set.

    Raises:
      ValueError: it is unlabelled.
    """
    labels = schema.DatasetInfo.load(data_dir).labels
    if not labels:
        raise ValueError(f"{str(data_dir)!r} is unlabelled; this task needs classes.")
    return len(labels)
