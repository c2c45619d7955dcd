"""What a run is told besides its data, task and budget, in groups."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras as keras

from cvrl_tf.data.pipeline import Pipeline
from cvrl_tf.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class Optimization:
    """How gradients become steps.

    Attributes:
      optimizer: makes a Keras optimizer from `learning_rate`.
      learning_rate: makes a rate or a schedule from `steps_per_epoch`, `epochs` and `global_batch`;
        see `optim.schedules`.
    """

    optimizer: Callable[..., keras.optimizers.Optimizer]
    learning_rate: Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Validation:
    """What is measured during training.

    Attributes:
      data: test views; None for tasks without a test.
      batch: examples in a test step; the run's global batch if None.
      every: epochs between tests; there is always one at the end.
      monitors: callbacks: Keras's own, such as `EarlyStopping`, and those that add to the metrics
        of an epoch, whose names their `metric_names` says; see `evaluation.monitor`.
      cell: which figure of the paper the run measures, such as "1/CVRL" or "4/TA"; see
        `reports.tables`.
    """

    data: Pipeline | None = None
    batch: int | None = None
    every: int = 1
    monitors: Sequence[keras.callbacks.Callback] = ()
    cell: str | None = None

    def arguments(
        self, strategy: tf.distribute.Strategy, batch: int, epochs: int
    ) -> dict[str, Any]:
        """Return what Keras's `fit` must know of the test.

        Args:
          strategy: of the run.
          batch: examples in a test step.
          epochs: of the run.
        """
        data = self.data
        if data is None:
            return {}
        tested = [e for e in range(1, epochs + 1) if e % self.every == 0 or e == epochs]
        return {
            "validation_steps": -(-data.num_examples // batch),
            "validation_freq": tested,
            "validation_data": strategy.distribute_datasets_from_function(
                lambda context: data.eval_batches(batch, context).repeat()
            ),
        }

    def check_labels(self, task: Task, train_data: Pipeline) -> None:
        """Raise a ValueError if the task needs classes and a video has none."""
        if task.kind == "classify":
            for data in filter(None, (train_data, self.data)):
                data.check_labels()


@dataclasses.dataclass(frozen=True)
class Checkpointing:
    """What is loaded and what is kept.

    Attributes:
      initial: whose encoder a new run begins with, see `checkpoints.resolve`; every tensor must
        match. None for random weights.
      every: steps between checkpoints; there is also one after each epoch.
      keep: how many of the latest stay.
      best_metric: the best epoch's checkpoint is kept too, in `best`: by one of the task's
        metrics, such as "loss", or of its test, such as "val_top1". None for no such checkpoint.
      extend: let a run that resumes have more epochs than before. From its step on, the learning
        rate is then that of a run of so many epochs.
    """

    initial: str | Path | None = None
    every: int = 1000
    keep: int = 3
    best_metric: str | None = None
    extend: bool = False


@dataclasses.dataclass(frozen=True)
class Execution:
    """How the steps are computed.

    Attributes:
      strategy: which devices take part; see `distribution.strategy`.
      seed: of initial weights, data order and augmentation.
      precision: Keras's policy: "float32", "mixed_bfloat16" or "mixed_float16". Weights, losses and
        statistics are float32 in all of them.
      jit_compile: compile the training step by XLA.
      steps_per_execution: steps that the accelerator makes before the host hears of them.
      log_every: steps between log lines.
    """

    strategy: tf.distribute.Strategy
    seed: int = 0
    precision: str = "float32"
    jit_compile: bool = False
    steps_per_execution: int = 1
    log_every: int = 50

    @contextlib.contextmanager
    def policy(self) -> Iterator[None]:
        """Build layers of this precision; Keras's global policy of before comes back."""
        before = keras.mixed_precision.global_policy()
        keras.mixed_precision.set_global_policy(self.precision)
        try:
            yield
        finally:
            keras.mixed_precision.set_global_policy(before)
