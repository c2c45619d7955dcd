"""From records to batches of views, each a function of (seed, epoch, position) alone."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import joblib
import tensorflow as tf
from etils import epath

from cvrl_tf.data import clips as clip_samplers
from cvrl_tf.data import reading, records, schema, views
from cvrl_tf.data.examples import Examples
from cvrl_tf.data.sampling import Sampling

# Examples that are read at the same time, so that a slow file system keeps all cores busy. A
# core decodes an example in some 20 ms, and a bucket answers a few requests in 50 to 100.
_READS_IN_FLIGHT = max(16, 4 * joblib.cpu_count())
_RECORDS_IN_FLIGHT = 8  # whole ones, for servers

# Tests take the records in the order of their ids, training in permutations of it.
ORDER = "ids"


class Pipeline:
    """Views of one split, for training (`train_batches`) or in order, once (`eval_batches`).

    A batch is a dict::

      frames: uint8 [B, V, T, H, W, 3]; V counts clips x crops. Float32 in [0, 1] if the pipeline
        augments them.
      seeds: int32 [B, V, 2], one a view, for the augmentation and for what a task draws.
      positions: int32 [B, V, T], frames, or ticks of 1/fps of a second, before looping.
      seconds: float32 [B, V, T], times of the frames in the video; when it loops they continue.
        Not numbers where the record knows neither times nor a rate.
      label: int32 [B], -1 in unlabeled data.
      weight: float32 [B], 1, or 0 for what only fills up the last batch of `eval_batches`.
      skipped: int64 [B], damaged records that were passed over just before this example; only with
        `skip_damaged`.

    Attributes:
      num_examples: of the split, without those that are left out.
      num_views: of an example.
      labels: names of the classes; empty in unlabeled data.
      class_counts: how many videos of the split have which label.
      skip_damaged: as given.
    """

    def __init__(
        self,
        data_dir: str | Path,
        clips: clip_samplers.ClipSampler,
        crop: views.Crop,
        split: str = "train",
        fps: float | None = None,
        augment: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
        servers: Sequence[str] = (),
        skip_damaged: bool = False,
        leave_out_short: bool = False,
    ) -> None:
        """Reads `dataset_info.json` and the indexes of the shards, no records.

        Args:
          data_dir: what tools/make_tfrecords.py wrote.
          clips: owner of T and the stride.
          crop: owner of H and W.
          split: name of the split.
          fps: see `timeline.Timeline.of`.
          augment: the task's augmentation, if it is to run here, on the host, rather than in the
            training step. The pixels are the same; what goes to the accelerator is four times as
            much.
          servers: addresses of machines that run tools/data_server.py and prepare the training
            batches in turn; they must reach the records under the same path. By default this
            machine does, which resizes faster: one pixel in eight is another there, by 1 of 255.
          skip_damaged: pass over records that can't be read or decoded, which otherwise end the
            run. The batches behind one are then made of other examples.
          leave_out_short: leave out videos of fewer frames than `clips.span`, which would loop. A
            warning says how many.

        Raises:
          FileNotFoundError: no records there, or a shard or its index is missing.
          ValueError: no such split, or nothing is in it or long enough, or an index is not of its
            shard, or frames are to be counted in ticks of `fps`.
        """
        info = schema.DatasetInfo.load(data_dir)
        split_info = info.split(split)
        self.labels = info.labels
        self.class_counts = split_info.class_counts
        self._paths = records.shard_paths(data_dir, split_info)
        if leave_out_short and fps is not None:
            raise ValueError(f"leave_out_short counts frames: leave fps at None, it is {fps}.")
        self._reader = reading.Reader(self._paths, clips.span if leave_out_short else 0)
        self.num_examples = self._reader.num_records
        self._examples = Examples(self._reader, clips, crop, fps, augment)
        self.num_views = self._examples.num_views
        self._clips = clips
        self._crop = crop
        self._fps = fps
        self._augment = augment
        self._servers = servers
        self.skip_damaged = skip_damaged
        self._leave_out_short = leave_out_short
        self._split = split
        self._data = info.name
        self._short_side, self._record_fps = info.short_side, split_info.fps

    def check_labels(self) -> None:
        """Check that each video has a class.

        Raises:
          ValueError: some have none.
        """
        videos = self.num_examples + self._reader.left_out
        if missing := videos - sum(self.class_counts.values()):
            raise ValueError(
                f"{missing} of {videos} videos of split {self._split!r} of "
                f"{self._data!r} are unlabeled; this needs a class of each. Make the records again "
                "with labels, or with --unlabeled=skip to leave these videos out."
            )

    @property
    def summary(self) -> dict[str, Any]:
        """What a reader of results must know, for JSON: data, its name; split; videos, how many
        more are left out, and their order; views of each; and how the clips come about."""
        return {
            "data": self._data,
            "split": self._split,
            "videos": self.num_examples,
            "left_out": self._reader.left_out,
            "order": ORDER,
            "views": self.num_views,
            **dataclasses.asdict(self.sampling),
        }

    @property
    def sampling(self) -> Sampling:
        """What a clip is here."""
        return Sampling(
            num_frames=self._clips.num_frames,
            stride=self._clips.stride,
            fps=self._fps,
            size=self._crop.size,
            short_side=self._short_side,
            record_fps=self._record_fps,
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What determines the views of `eval_batches`, for JSON; records count by size of shard."""
        return {
            "split": self._split,
            "left_out": self._reader.left_out,
            "order": ORDER,
            "shards": {Path(path).name: epath.Path(path).stat().length for path in self._paths},
            "clips": repr(self._clips),
            "crop": repr(self._crop),
            "fps": self._fps,
        }

    def train_batches(
        self,
        global_batch: int,
        seed: int = 0,
        first_step: int = 0,
        context: tf.distribute.InputContext | None = None,
    ) -> tf.data.Dataset:
        """Make endless training batches, each epoch shuffled anew, from `first_step` on.

        The examples of a global batch, and every draw made for them, depend on `seed` and the step
        but not on how many replicas or input workers share the work. An epoch is
        `num_examples // global_batch` steps; other examples are left over in every epoch.

        Args:
          global_batch: examples in a step of all replicas.
          seed: of the run.
          first_step: where a resumed run begins.
          context: says which part of the global batch this worker prepares; None: all of it.
        """
        context = context or tf.distribute.InputContext(num_replicas_in_sync=1)
        numbered = self._training_order(global_batch, seed, first_step)
        resize = views.by_tensorflow if self._servers else views.by_opencv
        return self._batches(
            numbered, global_batch, seed, context, tf.int64.max, self._servers, resize
        )

    def _training_order(self, global_batch: int, seed: int, first_step: int) -> tf.data.Dataset:
        """Positions, which count through all epochs, and the records that stand there, int64 [].

        In each epoch the records stand in another order, uniform over all orders.
        """
        count = self.num_examples
        steps_per_epoch = count // global_batch
        first_epoch, steps_done = divmod(first_step, steps_per_epoch)

        def epoch_of(epoch: tf.Tensor) -> tf.data.Dataset:
            order = reading.order(count, seed, epoch)
            done = tf.where(epoch == first_epoch, steps_done * global_batch, 0)
            places = tf.range(done, steps_per_epoch * global_batch)
            positions = epoch * count + tf.cast(places, tf.int64)
            return tf.data.Dataset.from_tensor_slices((positions, tf.gather(order, places)))

        return tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(epoch_of)

    def video_ids(self, global_batch: int, seed: int, step: int) -> list[str]:
        """Return the ids of the videos of a step of `train_batches`."""
        batch = self._training_order(global_batch, seed, step).take(global_batch)
        numbers = [number for _, number in batch.as_numpy_iterator()]
        return [os.fsdecode(self._reader.ids[number]) for number in numbers]

    def train_damage(self, global_batch: int, seed: int, step: int) -> str | None:
        """Say which record of a step of `train_batches` can't be used, and why; None for none."""
        return self._damage(self._training_order(global_batch, seed, step).take(global_batch), seed)

    def eval_damage(self) -> str | None:
        """Say which is the first record that can't be used, and why; None if there is none."""
        return self._damage(tf.data.Dataset.range(self.num_examples).enumerate(), seed=0)

    def _damage(self, numbered: tf.data.Dataset, seed: int) -> str | None:
        for position, number in numbered:
            try:
                read = self._examples.read(position, number, seed)
                self._examples.decode(position, read, tf.int64.max, seed)
            except tf.errors.InvalidArgumentError as error:
                return self._reader.fault(int(number), error.message)
        return None

    def eval_batches(
        self,
        global_batch: int,
        context: tf.distribute.InputContext | None = None,
        seed: int = 0,
    ) -> tf.data.Dataset:
        """Make batches of each example once, in order. Examples of weight 0 fill the last one.

        Args: as `train_batches`. There are ceil(num_examples / global_batch) steps.
        """
        context = context or tf.distribute.InputContext(num_replicas_in_sync=1)
        steps = -(-self.num_examples // global_batch)
        enough = tf.data.INFINITE_CARDINALITY if self.skip_damaged else steps * global_batch
        numbered = tf.data.Dataset.range(self.num_examples).repeat().take(enough).enumerate()
        batches = self._batches(numbered, global_batch, seed, context, limit=self.num_examples)
        batches = batches.take(steps * context.num_replicas_in_sync // context.num_input_pipelines)
        return records.ending_promptly(batches)

    def views_at(self, position: int) -> tf.Tensor:
        """Return the views of one example of `eval_batches`, uint8 [V, T, H, W, 3].

        Args:
          position: in `eval_batches`, in data without damage.
        """
        if not 0 <= position < self.num_examples:
            raise IndexError(f"No example {position}; the split has {self.num_examples}.")
        number = tf.constant(position, tf.int64)
        read = self._examples.read(number, number, seed=0)
        return self._examples.decode(number, read, tf.int64.max, seed=0)["frames"]

    def _batches(
        self,
        numbered: tf.data.Dataset,
        global_batch: int,
        seed: int,
        context: tf.distribute.InputContext,
        limit: int,
        servers: Sequence[str] = (),
        resize: Callable[..., tf.Tensor] = views.by_tensorflow,
    ) -> tf.data.Dataset:
        """This worker's part of each global batch, in batches for one replica.

        What stands at position `limit` or later has weight 0.
        """
        per_replica = context.get_per_replica_batch_size(global_batch)

        def share(numbered: tf.data.Dataset, size: int, count: int, index: int) -> tf.data.Dataset:
            """Every `count`-th block of `size` records, none of them read yet."""
            if count == 1:
                return numbered
            mine = numbered.enumerate().filter(lambda i, _: i // size % count == index)
            return mine.map(lambda _, item: item)

        def read(place: tf.Tensor, item: tuple[tf.Tensor, ...]) -> tuple:
            whole = item[2] if len(item) > 2 else None
            return place, item[0], self._examples.read(item[0], item[1], seed, whole)

        def decode(place: tf.Tensor, position: tf.Tensor, read: dict) -> tuple[tf.Tensor, dict]:
            return place, self._examples.decode(position, read, limit, seed, resize)

        def examples(sources: tf.data.Dataset, reads: int) -> tf.data.Dataset:
            made = (
                sources.enumerate()
                .map(read, num_parallel_calls=reads, deterministic=True)
                .map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            )
            if self.skip_damaged:
                made = made.ignore_errors().scan(tf.constant(0, tf.int64), _with_gap)
            else:
                made = made.map(lambda _, example: example)
            return made.batch(per_replica, drop_remainder=True)

        workers = context.num_input_pipelines
        numbered = share(numbered, global_batch // workers, workers, context.input_pipeline_id)
        if not servers:
            options = tf.data.Options()
            options.threading.private_threadpool_size = _READS_IN_FLIGHT + joblib.cpu_count()
            here = examples(numbered, _READS_IN_FLIGHT).with_options(options)
            return here.prefetch(tf.data.AUTOTUNE)
        # Each server prepares every n-th batch, so that their order is what it would be here. (With
        # one dispatcher for all of them it would depend on who is faster.)
        turns = [
            examples(
                self._whole(share(numbered, per_replica, len(servers), index)), tf.data.AUTOTUNE
            ).apply(tf.data.experimental.service.distribute("parallel_epochs", f"grpc://{server}"))
            for index, server in enumerate(servers)
        ]
        in_turn = tf.data.Dataset.range(len(turns)).repeat()
        return tf.data.Dataset.choose_from_datasets(turns, in_turn).prefetch(tf.data.AUTOTUNE)

    def _whole(self, numbered: tf.data.Dataset) -> tf.data.Dataset:
        """Adds whole records to positions and numbers: servers can't call Python."""
        return numbered.interleave(
            lambda *item: self._reader.whole(item[1]).map(lambda record: (*item, record)),
            cycle_length=_RECORDS_IN_FLIGHT,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )


def _with_gap(expected: tf.Tensor, numbered: tuple) -> tuple:
    """Notes in an example how many before it are gone, for `Dataset.scan`."""
    number, example = numbered
    return number + 1, {**example, "skipped": number - expected}


def num_classes(data_dir: str | Path) -> int:
    """Return the number of classes of a data set.

    Args:
      data_dir: as of a `Pipeline`.

    Raises:
      ValueError: it is unlabeled.
    """
    labels = schema.DatasetInfo.load(data_dir).labels
    if not labels:
        raise ValueError(f"{str(data_dir)!r} is unlabeled; this task needs classes.")
    return len(labels)
