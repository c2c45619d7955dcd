"""The one training loop: strategy, data, task, `fit`, callbacks; resumes where it stopped."""

import contextlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import tensorflow as tf
import tf_keras as keras

from cvrl_tf import checkpoints
from cvrl_tf.training import callbacks, run_folder

_VIEWS_SHOWN, _FRAMES_SHOWN = 8, 8


class Data(Protocol):
    """What the runner needs of `data.pipeline.Pipeline`."""

    num_examples: int
    labels: list[str]

    @property
    def summary(self) -> dict[str, Any]: ...

    def train_batches(
        self,
        global_batch: int,
        seed: int = 0,
        first_step: int = 0,
        context: tf.distribute.InputContext | None = None,
    ) -> tf.data.Dataset: ...

    def eval_batches(
        self, global_batch: int, context: tf.distribute.InputContext
    ) -> tf.data.Dataset: ...

    def video_ids(self, global_batch: int, seed: int, step: int) -> list[str]: ...

    def train_damage(self, global_batch: int, seed: int, step: int) -> str | None: ...

    def eval_damage(self) -> str | None: ...


# What TensorFlow raises in a worker when it does not hear from another.
_GONE = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


class Run:
    """A training run in its folder. Building one checks everything; `fit` does the long work.

    The folder holds:
      config.gin          the parameters in force (written by `cvrl_tf.train`)
      run.json            package versions, seed, batch, steps
      encoder.json        architecture of the encoder, for export and evaluation
      views.png           the views of the first batch
      metrics.jsonl       one line every `log_every` steps and one an epoch
      tensorboard/        the same, for TensorBoard, and the views of the first batch
      checkpoints/        {encoder, head or classifier, optimizer with its step, progress}
      best/               the checkpoint of the best epoch, if `best_metric` is given
    """

    def __init__(
        self,
        model_dir: str | Path,
        strategy: tf.distribute.Strategy,
        train_data: Data,
        task: Callable[[], keras.Model],
        optimizer: Callable[..., keras.optimizers.Optimizer],
        learning_rate: Callable[..., Any],
        global_batch: int,
        epochs: int,
        eval_data: Data | None = None,
        eval_batch: int | None = None,
        eval_every: int = 1,
        cell: str | None = None,
        initial_checkpoint: str | Path | None = None,
        checkpoint_every: int = 1000,
        keep_checkpoints: int = 3,
        best_metric: str | None = None,
        log_every: int = 50,
        seed: int = 0,
        precision: str = "float32",
        jit_compile: bool = False,
        steps_per_execution: int = 1,
        monitors: Sequence[keras.callbacks.Callback] = (),
    ) -> None:
        """Args:
          model_dir: folder of the run. If it holds a checkpoint, the run resumes from it.
          strategy: from `distribution.strategy`.
          train_data: training views.
          task: builds the model, which has `encoder`, `augment`, `checkpoint_roots` and a
            `train_step`.
          optimizer: builds the optimizer from `learning_rate`; any of Keras.
          learning_rate: builds the schedule from `steps_per_epoch`, `epochs`, `global_batch`.
          global_batch: examples in a step of all replicas together.
          epochs: passes over the training split; what does not fill a batch is left over.
          eval_data: test views, or None for tasks without a test.
          eval_batch: examples in a test step; `global_batch` if None.
          eval_every: epochs between tests; there is always one at the end.
          cell: which figure of the paper the run measures, such as "1/CVRL" or "4/TA"; see
            `reports.tables`.
          initial_checkpoint: whose encoder a new run begins with; every tensor must match.
          checkpoint_every: steps between checkpoints; there is also one after each epoch.
          keep_checkpoints: how many of the latest stay.
          best_metric: the best epoch's checkpoint is kept too, in `best`: by one of the task's
            metrics, such as "loss", or of its test, such as "val_top1".
          log_every: steps between log lines.
          seed: of initial weights, data order and augmentation.
          precision: policy of Keras: "float32", "mixed_bfloat16" or "mixed_float16". Weights,
            losses and statistics are float32 in all of them.
          jit_compile: compile the training step by XLA.
          steps_per_execution: steps that the accelerator makes before the host hears of them.
          monitors: add to the metrics of an epoch, whose names their `metric_names` says; see
            `evaluation.monitor`.

        Raises:
          ValueError: the batch does not suit the replicas or the data; a checkpoint does not match.
          FileNotFoundError: `initial_checkpoint` is not there.
        """
        self.model_dir = Path(model_dir)
        self.strategy = strategy
        self._train_data, self._eval_data = train_data, eval_data
        self.global_batch, self._epochs, self._seed = global_batch, epochs, seed
        self._eval_batch, self._eval_every = eval_batch or global_batch, eval_every
        self._cell, self._initial_checkpoint = cell, initial_checkpoint
        self._checkpoint_every, self._log_every = checkpoint_every, log_every
        self.steps_per_epoch = self._checked_steps_per_epoch()

        keras.utils.set_random_seed(seed)
        keras.mixed_precision.set_global_policy(precision)
        with strategy.scope():
            self.model = task()
            self._schedule = learning_rate(
                steps_per_epoch=self.steps_per_epoch, epochs=epochs, global_batch=global_batch
            )
            self.model.compile(
                optimizer(learning_rate=self._schedule),
                jit_compile=jit_compile,
                steps_per_execution=steps_per_execution,
            )
            _create_slots(self.model)
            self._progress = checkpoints.Progress(seed, self.steps_per_epoch)
        self._monitors = monitors
        self._best_metric = self._checked_metric(best_metric)
        self._manager = self._checkpoint_manager("checkpoints", keep_checkpoints)
        self._best_manager = self._checkpoint_manager("best", 1)
        folder = self.model_dir / "checkpoints"
        latest = self._manager.latest_checkpoint or tf.train.latest_checkpoint(folder)
        if latest:
            self._manager.checkpoint.restore(latest).assert_existing_objects_matched()
            self._progress.check(seed, self.steps_per_epoch)
            print(f"Resuming from {latest}.")
        elif initial_checkpoint:
            used = checkpoints.initialize(self.model.encoder, initial_checkpoint)
            checkpoints.check_architecture(self.model.encoder, initial_checkpoint)
            print(f"Encoder initialized from {used}.")

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.model.optimizer.iterations.numpy())

    @property
    def _is_chief(self) -> bool:
        resolver = self.strategy.cluster_resolver
        return resolver is None or resolver.task_type in (None, "", "chief") or not resolver.task_id

    @property
    def _num_workers(self) -> int:
        resolver = self.strategy.cluster_resolver
        return len(resolver.cluster_spec().as_dict().get("worker", [0])) if resolver else 1

    def _checked_steps_per_epoch(self) -> int:
        replicas, examples = self.strategy.num_replicas_in_sync, self._train_data.num_examples
        for name, batch in (("global_batch", self.global_batch), ("eval_batch", self._eval_batch)):
            if batch % replicas or not batch:
                nearest = max(batch // replicas, 1) * replicas
                raise ValueError(
                    f"{name}={batch} can't be shared evenly by {replicas} replicas; "
                    f"take a multiple, such as {nearest}."
                )
        if self.global_batch > examples:
            raise ValueError(
                f"global_batch={self.global_batch} is more than the {examples} training examples; "
                "take a smaller batch or more data."
            )
        return examples // self.global_batch

    def _checked_metric(self, name: str | None) -> str | None:
        known = [metric.name for metric in self.model.metrics]
        if self._eval_data is not None:
            known += [f"val_{name}" for name in known]
        known += [name for monitor in self._monitors for name in monitor.metric_names]
        if name is not None and name not in known:
            raise ValueError(f"best_metric={name!r}: there is only {', '.join(known)}.")
        return name

    def _checkpoint_manager(self, name: str, keep: int) -> tf.train.CheckpointManager:
        # All workers must take part in writing; the others' copies go where nobody looks.
        folder = self.model_dir / name if self._is_chief else tempfile.mkdtemp(prefix="cvrl_tf_")
        checkpoint = tf.train.Checkpoint(
            **self.model.checkpoint_roots,
            optimizer=self.model.optimizer,
            progress=self._progress,
            metrics=self.model.metrics,
        )
        return tf.train.CheckpointManager(
            checkpoint,
            str(folder),
            max_to_keep=keep,
            checkpoint_name="ckpt",
        )

    def fit(self) -> None:
        """Trains to the end, from wherever the run stands.

        Ctrl-C saves (not with several workers), and so does SIGTERM at the end of the step, with
        the exit code 75; the same command goes on.

        Raises:
          Stopped: the run can't go on, or another process trains in this folder.
        """
        with run_folder.locked(self.model_dir) if self._is_chief else contextlib.nullcontext():
            self._fit_from_here()

    def _fit_from_here(self) -> None:
        done, steps_of_epoch = divmod(self.step, self.steps_per_epoch)
        if done >= self._epochs:
            print(f"All {self._epochs} epochs are done already.")
            return
        if self._is_chief:
            run_folder.discard_after(self.model_dir, self.step)
            self._write_facts()
        watchers = self._watchers()
        try:
            if self._is_chief and not self.step:
                self._show_views()
            if steps_of_epoch:
                seen = callbacks.ResumedMetrics([m.get_weights() for m in self.model.metrics])
                left = self.steps_per_epoch - steps_of_epoch
                self._fit(done, done + 1, left, [seen, *watchers])
                done += 1
            self._fit(done, self._epochs, self.steps_per_epoch, watchers)
        except tf.errors.InvalidArgumentError as error:
            damage = self._damage()
            if damage is None:
                raise
            raise run_folder.Stopped(
                f"Damaged data at step {self.step}: {damage}\nThe same command goes on from the "
                "last checkpoint. Look for more with tools/check_tfrecords.py and make the shard "
                "again, or pass over what is damaged: --gin_param='pipeline.Pipeline."
                "skip_damaged=True'."
            ) from error
        except _GONE as error:
            if self._num_workers == 1:
                raise
            reason = error.message.partition("aborted by: ")[2] or error.message
            saved = tf.train.latest_checkpoint(self.model_dir / "checkpoints")
            raise run_folder.Stopped(
                f"Another of the {self._num_workers} workers is gone; look into its log. "
                + " ".join(reason.splitlines()[:2])
                + "\nStarted again with the same command, all workers go on from "
                f"{saved or 'the beginning'}."
            ) from error
        except KeyboardInterrupt:
            if self._num_workers > 1:  # all would have to save together
                sys.exit(
                    f"\nStopped at step {self.step}; the workers go on from the last checkpoint."
                )
            if self.step % self.steps_per_epoch == 0:  # see `callbacks.Checkpoints`
                latest = self._manager.latest_checkpoint or "the beginning"
                sys.exit(
                    f"\nStopped at step {self.step}, at the end of an epoch, before its test was "
                    f"done; the same command goes on from {latest}."
                )
            saved = self._manager.save(self.step)
            sys.exit(f"\nStopped at step {self.step}; saved {saved}. The same command goes on.")

    def _damage(self) -> str | None:
        """Which record of the present step, or else of the test data, can't be used, and why."""
        found = self._train_data.train_damage(self.global_batch, self._seed, self.step)
        if found is None and self._eval_data is not None:
            found = self._eval_data.eval_damage()
        return found

    def _watchers(self) -> list[keras.callbacks.Callback]:
        """In the order in which they are to act."""
        watchers: list[keras.callbacks.Callback] = [
            *self._monitors,
            callbacks.NotFinite(
                self.model_dir / "not_finite.json" if self._is_chief else None,
                self._learning_rate,
                lambda step: self._train_data.video_ids(self.global_batch, self._seed, step),
            ),
        ]
        if self._is_chief:
            clips = self.global_batch * self._views_spec().shape[1]
            watchers.append(
                callbacks.MetricsLog(
                    self.model_dir, self._log_every, self._learning_rate, self.global_batch, clips
                )
            )
        watchers.append(
            callbacks.Checkpoints(
                self._manager,
                self._checkpoint_every,
                self.steps_per_epoch,
                self._best_manager,
                self._best_metric,
                self._progress.best,
            )
        )
        watchers.append(
            callbacks.Preemption(self._manager, self.steps_per_epoch, self._num_workers)
        )
        return watchers

    def _learning_rate(self, step: int) -> float:
        return float(self._schedule(step) if callable(self._schedule) else self._schedule)

    def _fit(self, first: int, last: int, steps: int, watchers: list) -> None:
        """Epochs [first, last) of `steps` steps each."""
        if first == last:
            return
        first_step = self.step

        def train(context: tf.distribute.InputContext) -> tf.data.Dataset:
            return self._train_data.train_batches(
                self.global_batch, self._seed, first_step, context
            )

        validation: dict[str, Any] = {}
        if self._eval_data is not None:
            data, batch = self._eval_data, self._eval_batch
            validation["validation_steps"] = -(-data.num_examples // batch)
            validation["validation_freq"] = [
                epoch
                for epoch in range(1, self._epochs + 1)
                if epoch % self._eval_every == 0 or epoch == self._epochs
            ]
            validation["validation_data"] = self.strategy.distribute_datasets_from_function(
                lambda context: data.eval_batches(batch, context).repeat()
            )
        self.model.fit(
            self.strategy.distribute_datasets_from_function(train),
            initial_epoch=first,
            epochs=last,
            steps_per_epoch=steps,
            callbacks=watchers,
            verbose=1 if self._is_chief else 0,
            **validation,
        )

    def _write_facts(self) -> None:
        clip, data = tuple(self._views_spec().shape[2:]), self._train_data.summary
        facts = {name: data[name] for name in checkpoints.SAMPLING} | self.model.facts
        if "classifier" in self.model.checkpoint_roots:
            facts["labels"] = self._train_data.labels
        checkpoints.save_encoder_config(self.model.encoder, clip, self.model_dir, **facts)
        run_folder.write_facts(
            self.model_dir,
            seed=self._seed,
            strategy=type(self.strategy).__name__,
            replicas=self.strategy.num_replicas_in_sync,
            global_batch=self.global_batch,
            steps_per_epoch=self.steps_per_epoch,
            epochs=self._epochs,
            cell=self._cell,
            initial_checkpoint=self._initial_checkpoint and str(self._initial_checkpoint),
            train=data,
            test=self._eval_data.summary if self._eval_data is not None else None,
        )

    def _show_views(self) -> None:
        """The first examples of the first batch, a row of frames for each view, as a picture in the
        folder and for TensorBoard."""
        number = min(_VIEWS_SHOWN, self.global_batch)  # a batch of fewer begins with the same ones
        batch = next(iter(self._train_data.train_batches(number, self._seed)))
        views = self.model.augment(batch["frames"], batch["seeds"])
        frames = tf.reshape(views, batch["frames"].shape)
        times = tf.cast(
            tf.linspace(0, frames.shape[2] - 1, min(_FRAMES_SHOWN, frames.shape[2])), tf.int32
        )
        rows = tf.transpose(tf.gather(frames, times, axis=2), [0, 1, 3, 2, 4, 5])  # N V H T W 3
        shape = rows.shape
        strips = tf.reshape(rows, [shape[0], shape[1] * shape[2], shape[3] * shape[4], 3])
        with tf.summary.create_file_writer(str(self.model_dir / "tensorboard")).as_default(0):
            tf.summary.image("views of the first batch", strips, max_outputs=_VIEWS_SHOWN)
        sheet = tf.reshape(strips, [-1, *strips.shape[2:]])
        png = tf.io.encode_png(tf.image.convert_image_dtype(sheet, tf.uint8, saturate=True))
        (self.model_dir / "views.png").write_bytes(png.numpy())

    def _views_spec(self) -> tf.TensorSpec:
        """Of the training views, [B, V, T, H, W, 3]."""
        return self._train_data.train_batches(self.global_batch).element_spec["frames"]


def _create_slots(model: keras.Model) -> None:
    """Creates the optimizer's variables, so that restoring can assert that all of them matched."""
    optimizer = model.optimizer
    if isinstance(optimizer, keras.optimizers.legacy.Optimizer):
        optimizer._create_all_weights(model.trainable_variables)
    else:
        optimizer.build(model.trainable_variables)
