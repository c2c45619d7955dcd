"""The one training loop: strategy, data, task, `fit`, callbacks; resumes where it stopped."""

import contextlib
import inspect
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import tensorflow as tf
import tf_keras as keras
from etils import epath

from cvrl_tf import checkpoint_files, checkpoints, distribution, files, output
from cvrl_tf.checkpoint_files import Saver
from cvrl_tf.checkpoints import SavedRun
from cvrl_tf.data.pipeline import Pipeline
from cvrl_tf.tasks.task import Task
from cvrl_tf.training import (
    callbacks,
    checks,
    failures,
    monitors,
    resumption,
    run_folder,
    view_sheet,
)
from cvrl_tf.training.progress import Progress, create_slots
from cvrl_tf.training.settings import Checkpointing, Execution, Optimization, Validation


class Run:
    """A training run in its folder. Building one checks everything; `fit` does the long work.

    The folder holds:
      config.gin          the parameters in force
      run.json            task, data, package versions, seed, batch, steps
      encoder.json        architecture of the encoder and its clips, for export and evaluation
      views.png           the clips of the first batch
      metrics.jsonl       one line every `log_every` steps and one an epoch
      tensorboard/        the same, for TensorBoard, and the clips of the first batch
      checkpoints/        the task's `checkpoint_roots`, optimizer with its step, progress
      best/               the checkpoint of the best epoch, if `best_metric` is given
      aside/              what a start would have overwritten or logged again; see `run_folder`
    """

    def __init__(
        self,
        model_dir: str | Path,
        train_data: Pipeline,
        task: Callable[[], Task],
        optimization: Optimization,
        global_batch: int,
        epochs: int,
        validation: Validation,
        checkpointing: Checkpointing,
        execution: Execution,
    ) -> None:
        """Args:
          model_dir: folder of the run. If it holds a checkpoint, the run resumes from it.
          train_data: training views.
          task: builds the model.
          optimization: optimizer and learning rate.
          global_batch: examples in a step of all replicas.
          epochs: passes over the training split; what does not fill a batch is left over.
          validation: what is measured during training.
          checkpointing: what is loaded and what is kept.
          execution: devices, seed, precision.

        Raises:
          ValueError: the batch does not suit the replicas or the data; a checkpoint does not match.
          FileNotFoundError: the initial checkpoint is not there.
        """
        self.model_dir = Path(model_dir)
        self.strategy = execution.strategy
        self._is_chief = distribution.is_chief(self.strategy)
        self._num_workers = distribution.num_workers(self.strategy)
        self._train_data, self._tests, self._execution = train_data, validation, execution
        self.global_batch, self._epochs, self._seed = global_batch, epochs, execution.seed
        self._eval_batch = validation.batch or global_batch
        self._checkpointing = checkpointing
        self.steps_per_epoch = checks.steps_per_epoch(
            global_batch,
            self._eval_batch,
            self.strategy.num_replicas_in_sync,
            train_data.num_examples,
        )

        # Keras draws initial weights from its global seed; there is no other way to give it one.
        keras.utils.set_random_seed(execution.seed)
        with execution.policy(), self.strategy.scope():
            self.model = task()
            self.model.total_steps = self._last_step
            self._schedule = optimization.learning_rate(
                steps_per_epoch=self.steps_per_epoch, epochs=epochs, global_batch=global_batch
            )
            self.model.compile(
                optimization.optimizer(learning_rate=self._schedule),
                jit_compile=execution.jit_compile,
                steps_per_execution=execution.steps_per_execution,
            )
            create_slots(self.model)
            self._progress = Progress(self._seed, self.steps_per_epoch)
        checks.learnable(self.model, global_batch, train_data)
        checks.learning_rate(self._learning_rate, self._last_step)
        metrics = checks.metric_names(self.model, validation)
        checks.best_metric(checkpointing.best_metric, metrics)
        monitors.check(validation.monitors, metrics)
        self._saver = self._new_saver("checkpoints", checkpointing.keep)
        self._best_saver = self._new_saver("best", 1)
        validation.check_labels(self.model, train_data)
        self._initial: str | None = None
        self._extended_from: int | None = None
        self._restore(checkpoint_files.newest(self.model_dir / "checkpoints"))

    def _restore(self, newest: str | None) -> None:
        """Load the newest whole checkpoint of the run, or what a new run begins with."""
        self._restored = newest
        if newest:
            self._check_resumption()
            self._saver.checkpoint.restore(newest).assert_existing_objects_matched()
            self._progress.check(self._seed, self.steps_per_epoch)
            self._initial = run_folder.facts(self.model_dir).get("initial_checkpoint")
            if not callable(self._schedule):  # the checkpoint has the rate as a variable
                self.model.optimizer.learning_rate = self._schedule
            print(f"Resuming from {newest}.")
            if self._extended_from:
                rates = [self._learning_rate(at) for at in (self.step, self._last_step - 1)]
                resumption.say_extension(self._extended_from, self._epochs, *rates)
            return
        if self._checkpointing.initial:
            self._initial = checkpoints.initialize(self.model.encoder, self._checkpointing.initial)
            if checkpoints.encoder_file(self._initial).is_file():
                SavedRun.open(self._initial).check(self.model.encoder)
            print(f"Encoder initialized from {self._initial}.")
        self.model.on_begin()

    def _check_resumption(self) -> None:
        """Raise a ValueError if the run in the folder is of other settings."""
        extend, initial = self._checkpointing.extend, self._checkpointing.initial
        self._extended_from = resumption.check(self.model_dir, self._facts, extend, initial)

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.model.optimizer.iterations.numpy())

    @property
    def _last_step(self) -> int:
        return self._epochs * self.steps_per_epoch

    def _new_saver(self, name: str, keep: int) -> Saver:
        # All workers must take part in writing; the others' copies go where nobody looks.
        folder = self.model_dir / name if self._is_chief else tempfile.mkdtemp(prefix="cvrl_tf_")
        checkpoint = tf.train.Checkpoint(
            **self.model.checkpoint_roots,
            optimizer=self.model.optimizer,
            progress=self._progress,
            metrics=self.model.metrics,
        )
        return Saver(checkpoint, folder, keep)

    def fit(self, config: str | None = None) -> None:
        """Train to the end, from wherever the run stands.

        Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 save at the end of the step and exit, and so does a
        closed standard output; see `callbacks.Preemption`. Interrupted runs resume: rerun the same
        command.

        Args:
          config: the parameters in force, for `config.gin`.

        Raises:
          Stopped: the run has to stop, or another process trains in this folder.
        """
        with (
            failures.explained(
                lambda: self.step, self._damage, self._num_workers, self._latest_saved
            ),
            run_folder.locked(self.model_dir) if self._is_chief else contextlib.nullcontext(),
        ):
            self._restore_again()
            self._fit_from_here(config)

    def _restore_again(self) -> None:
        """Load the newest checkpoint if, before the folder was locked, another run wrote one."""
        try:
            newest = checkpoint_files.newest(self.model_dir / "checkpoints")
            if newest != self._restored:
                self._restore(newest)
        except ValueError as error:
            raise failures.Stopped(str(error)) from error

    def _fit_from_here(self, config: str | None) -> None:
        done, steps_of_epoch = divmod(self.step, self.steps_per_epoch)
        if done >= self._epochs:
            print(f"All {self._epochs} epochs are done already. For more: --extend_to=EPOCHS.")
            return
        facts = {} if self._extended_from else run_folder.facts(self.model_dir)
        if end := monitors.ended(facts, self._tests.monitors, self.step):
            print(end)
            return
        if self._is_chief:
            run_folder.set_aside(self.model_dir, self.step)
            self._write_facts(config)
        watchers = self._callbacks()
        try:
            if self._is_chief and not self.step:
                view_sheet.write_first(
                    self.model, self._train_data, self.global_batch, self._seed, self.model_dir
                )
            if steps_of_epoch:
                seen = callbacks.ResumedMetrics([m.get_weights() for m in self.model.metrics])
                self._fit(done, done + 1, self.steps_per_epoch - steps_of_epoch, [seen, *watchers])
                done += 1
            if not self.model.stop_training:
                self._fit(done, self._epochs, self.steps_per_epoch, watchers)
            if self.step < self._last_step:
                self._note_early_end()
        except OSError:
            if not output.is_closed():
                raise
            self._end_unread()

    def _end_unread(self) -> NoReturn:
        """Nobody reads the output: save if that can be done here, and exit as after SIGTERM."""
        if self._num_workers == 1 and self.step % self.steps_per_epoch:
            self._saver.save(self.step)
        output.say("")
        sys.exit(callbacks.PREEMPTED)

    def _note_early_end(self) -> None:
        """A monitor wanted no more steps: let the same command know that, and say so."""
        done = self.step // self.steps_per_epoch
        end = monitors.early_end(self._tests.monitors, self.step, done, self._epochs)
        if self._is_chief:
            run_folder.write_facts(self.model_dir, **self._facts, ended_early=end)
        print(end["text"])

    def _latest_saved(self) -> str | None:
        return checkpoint_files.latest(self.model_dir / "checkpoints")

    def _damage(self) -> str | None:
        """Which record of the present step, or else of the test data, can't be used, and why."""
        found = self._train_data.train_damage(self.global_batch, self._seed, self.step)
        if found is None and self._tests.data is not None:
            found = self._tests.data.eval_damage()
        return found

    def _callbacks(self) -> list[keras.callbacks.Callback]:
        """In the order in which they are to act."""
        watchers: list[keras.callbacks.Callback] = [
            *monitors.of_worker(self._tests.monitors, self._is_chief),
            callbacks.NotFinite(
                self.model_dir / run_folder.NOT_FINITE_FILE if self._is_chief else None,
                self._learning_rate,
                lambda step: self._train_data.video_ids(self.global_batch, self._seed, step),
            ),
        ]
        if self._is_chief:
            clips = self.global_batch * self._train_data.num_views
            every = self._execution.log_every
            watchers.append(
                callbacks.MetricsLog(
                    self.model_dir, every, self._learning_rate, self.global_batch, clips
                )
            )
        watchers.append(
            callbacks.Checkpoints(
                self._saver,
                self._checkpointing.every,
                self.steps_per_epoch,
                callbacks.Best(
                    self._best_saver, self._checkpointing.best_metric, self._progress.best
                ),
            )
        )
        watchers.append(callbacks.Preemption(self._saver, self.steps_per_epoch, self._num_workers))
        return watchers

    def _learning_rate(self, step: int) -> float:
        return float(self._schedule(step) if callable(self._schedule) else self._schedule)

    def _fit(self, first: int, last: int, steps: int, watchers: list) -> None:
        """Epochs [first, last) of `steps` steps each."""
        if first == last:
            return
        first_step = self.step
        if first_step:
            monitors.continue_logs(self._tests.monitors)

        def train(context: tf.distribute.InputContext) -> tf.data.Dataset:
            data, batch = self._train_data, self.global_batch
            return data.train_batches(batch, self._seed, first_step, context)

        self.model.fit(
            self.strategy.distribute_datasets_from_function(train),
            initial_epoch=first,
            epochs=last,
            steps_per_epoch=steps,
            callbacks=watchers,
            verbose=1 if self._is_chief else 0,
            **self._tests.arguments(self.strategy, self._eval_batch, self._epochs),
        )

    def _write_facts(self, config: str | None) -> None:
        if config is not None:
            files.write_text(epath.Path(self.model_dir / run_folder.CONFIG_FILE), config)
        facts = self.model.export_facts
        if "classifier" in self.model.checkpoint_roots:
            facts["labels"] = self._train_data.labels
        sampling = self._train_data.sampling
        checkpoints.save_encoder_config(self.model.encoder, sampling, self.model_dir, **facts)
        run_folder.write_facts(self.model_dir, **self._facts)

    @property
    def _facts(self) -> dict[str, Any]:
        """What `run.json` says of the run."""
        data, best_metric = self._tests.data, self._checkpointing.best_metric
        return dict(
            task=inspect.unwrap(type(self.model)).__name__,
            kind=self.model.kind,
            metric_names=[metric.name for metric in self.model.metrics],
            seed=self._seed,
            strategy=type(self.strategy).__name__,
            replicas=self.strategy.num_replicas_in_sync,
            global_batch=self.global_batch,
            steps_per_epoch=self.steps_per_epoch,
            epochs=self._epochs,
            cell=self._tests.cell,
            initial_checkpoint=self._initial,
            train=self._train_data.summary,
            test=data.summary if data is not None else None,
            settings=resumption.settings(
                self.model,
                self._train_data,
                self._schedule,
                self._execution.precision,
                best_metric,
            ),
        )
