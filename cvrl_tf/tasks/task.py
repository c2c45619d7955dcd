"""What all tasks share: the training step, its metrics, and how it notices that it went wrong."""

import abc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import tensorflow as tf
import tf_keras as keras

from cvrl_tf.augment.chain import ViewChains
from cvrl_tf.losses import weight_decay as decay

NEVER = -1

# Folded into the seed of an example for what a task draws; augmentations count from 0.
_TASK_DRAWS = 1 << 16

Batch = dict[str, tf.Tensor]


class StepState:
    """What a training step notes for the host to ask for now and then; no weights of the model.

    Attributes:
      first_bad_step: int64 [], first step whose loss or gradient was not finite, or `NEVER`.
      input_seconds: float32 [], seconds that training waited for input since it was last set to 0.
      stop: float32 [], above 0 once a worker wants all to stop after a step: a host sets its own,
        and the next step adds up those of all replicas.
    """

    def __init__(self) -> None:
        once = tf.VariableAggregation.ONLY_FIRST_REPLICA
        self.first_bad_step = tf.Variable(NEVER, False, dtype=tf.int64, aggregation=once)
        self.input_seconds = tf.Variable(0.0, False, aggregation=once)
        self.stop = tf.Variable(0.0, False, aggregation=once)


class Task(keras.Model, abc.ABC):
    """A model with one training step, whatever the number of replicas.

    Attributes:
      augment: uint8 views [B, V, T, H, W, 3] to float32 frames [B * V, T, H, W, 3], in training.
      kind: "pretrain" or "classify": what a run of the task is good for.
      min_batch: the fewest examples in a global batch of which there is anything to learn; more
        than 1 where examples are compared with one another.
      total_steps: of the whole training, for `after_step`; set by the run, None outside of one.
      step_state: what a step notes for the host.
    """

    augment: ViewChains
    kind: ClassVar[str]
    min_batch: ClassVar[int] = 1
    train_function: Any

    def __init__(self, metrics: Iterable[str], weight_decay: float) -> None:
        """Args:
        metrics: names of what `gradients` measures.
        weight_decay: factor of the L2 loss on the kernels that are trained.
        """
        super().__init__()
        self._weight_decay = weight_decay
        self.total_steps: int | None = None
        # Results of metrics are of all replicas; Keras would add them up over hosts once more.
        self.distribute_reduction_method = "first"
        names = ("loss", *metrics, "weight_decay", "gradient_norm")
        self._means = {name: keras.metrics.Mean(name=name) for name in names}
        self._skipped = keras.metrics.Sum(name="skipped_records")
        self.step_state = StepState()

    @property
    def export_facts(self) -> dict[str, Any]:
        """What users of the checkpoints must know besides the encoder, for JSON."""
        return {}

    @property
    def undecayed(self) -> Sequence[tf.Variable]:
        """Kernels that weight decay spares, such as a memory or prototypes."""
        return ()

    def weight_decay_loss(self) -> tf.Tensor:
        """Compute the L2 loss on the kernels that are trained, float32 []."""
        spared = {variable.ref() for variable in self.undecayed}
        kernels = decay.kernels(self.trainable_variables)
        return self._weight_decay * decay.l2(v for v in kernels if v.ref() not in spared)

    def on_begin(self) -> None:
        """Prepare a new run, once the initial weights are there; a resumed run does not call it."""

    def after_step(self, step: tf.Tensor, total_steps: int | None) -> None:
        """Update what is no weight, such as a momentum encoder or a queue; part of the step.

        Args:
          step: int64 [], optimizer steps done, this one included.
          total_steps: see the class.
        """

    def shown(self, batch: Batch) -> tuple[tf.Tensor, list[str]]:
        """Return what the encoder sees in training, for people to look at.

        Args:
          batch: of `data.pipeline`.

        Returns:
          Clips, float32 [B, K, T, H, W, 3] in [0, 1], and what is to be told of each of the B * K.
        """
        frames = batch["frames"]
        clips = tf.reshape(self.augment(frames, batch["seeds"]), frames.shape)
        return clips, [
            f"video {v + 1}" for v in range(clips.shape[0]) for _ in range(clips.shape[1])
        ]

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [*self._means.values(), self._skipped]

    @abc.abstractmethod
    def compute_losses(
        self, batch: Batch, training: bool
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Compute this replica's part of the objective, and its metrics."""

    def gradients(self, batch: Batch) -> tuple[tf.Tensor, list, dict]:
        """Compute this replica's part of the objective, float32 [], gradients and metrics.

        Summed over the replicas, objective and gradients are those of the mean over the global
        batch.
        """
        with tf.GradientTape() as tape:
            objective, metrics = self.compute_losses(batch, training=True)
            scaled = self.scaled(objective)
        return objective, self.unscaled(tape.gradient(scaled, self.trainable_variables)), metrics

    def scaled(self, objective: tf.Tensor) -> tf.Tensor:
        """Scale an objective to differentiate: small gradients of float16 would be 0."""
        mixed = isinstance(self.optimizer, keras.mixed_precision.LossScaleOptimizer)
        return self.optimizer.get_scaled_loss(objective) if mixed else objective

    def unscaled(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """Return the gradients of the objective from those of `scaled`."""
        mixed = isinstance(self.optimizer, keras.mixed_precision.LossScaleOptimizer)
        return self.optimizer.get_unscaled_gradients(gradients) if mixed else gradients

    def train_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        objective, gradients, metrics = self.gradients(batch)
        replicas = tf.distribute.get_replica_context()
        objective, stop, *gradients = replicas.all_reduce(
            "sum", [objective, tf.identity(self.step_state.stop), *gradients]
        )
        self.step_state.stop.assign(stop)
        norm = tf.linalg.global_norm(gradients)
        self._watch(objective, norm)
        # Too large a loss scale, which comes and goes, would leave no mean.
        metrics["gradient_norm"] = tf.where(tf.math.is_finite(norm), norm, 0.0)
        # They are summed already, as the norm wants them.
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True),
            experimental_aggregate_gradients=False,
        )
        self.after_step(self.optimizer.iterations, self.total_steps)
        for name, value in metrics.items():
            self._means[name].update_state(value)
        logs = {name: self._means[name].result() for name in metrics}
        if "skipped" in batch:
            self._skipped.update_state(batch["skipped"])
            logs["skipped_records"] = self._skipped.result()
        return logs

    def _watch(self, objective: tf.Tensor, gradient_norm: tf.Tensor) -> None:
        """Notes the first step that is not finite; a host that looks later still learns which."""
        finite = tf.math.is_finite(objective)
        if not isinstance(self.optimizer, keras.mixed_precision.LossScaleOptimizer):
            finite &= tf.math.is_finite(gradient_norm)  # that one lowers its scale instead
        noted = self.step_state.first_bad_step
        step = tf.cast(self.optimizer.iterations, tf.int64)
        noted.assign(tf.where(~finite & (noted == NEVER), step, noted))

    def make_train_function(self, force: bool = False) -> Any:
        """Make Keras's training function, with a clock at the iterator."""
        if self.train_function is None or force:
            train = super().make_train_function(force)

            def timed(iterator: Iterator) -> Any:
                return train(_TimedIterator(iterator, self.step_state.input_seconds))

            eager = self.run_eagerly
            self.train_function = timed if eager else tf.function(timed, autograph=False)
        return self.train_function


class _TimedIterator:
    """Adds the seconds that `next` takes to a variable."""

    def __init__(self, iterator: Iterator, seconds: tf.Variable) -> None:
        self._iterator, self._seconds = iterator, seconds

    def __next__(self) -> Any:
        begin = tf.timestamp()
        with tf.control_dependencies([begin]):
            batch = next(self._iterator)
        with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
            self._seconds.assign_add(tf.cast(tf.timestamp() - begin, tf.float32))
        return batch


def draws(
    batch: Batch,
    sample: Callable[[tf.Tensor], tf.Tensor],
    purpose: int = 0,
    dtype: tf.DType = tf.float32,
) -> tf.Tensor:
    """Draw something for each example: the same whenever it is asked for, wherever it is computed.

    So `embed`, which may see an example twice and in parts, and `losses` agree on what was drawn,
    and a resumed run draws what an uninterrupted one does, on any number of replicas.

    Args:
      batch: of `data.pipeline`.
      sample: draws for one example from a seed, int32 [2]. Say `alg="philox"` there: XLA's own
        choice makes other numbers.
      purpose: which of the task's draws it is; they are independent.
      dtype: of what `sample` returns.

    Returns:
      [B, ...].
    """

    def of_example(seed: tf.Tensor) -> tf.Tensor:
        fold_in = tf.random.experimental.stateless_fold_in
        return sample(fold_in(seed, _TASK_DRAWS + purpose, alg="philox"))

    return tf.map_fn(of_example, batch["seeds"][:, 0], fn_output_signature=dtype)


def dropout(x: tf.Tensor, rate: float, batch: Batch, purpose: int = 0) -> tf.Tensor:
    """Set a share of the units of each example to 0, and scale up the others, in training.

    What Keras's layer drops depends on what the process has drawn before. This depends on the seeds
    of the examples alone; see `draws`.

    Args:
      x: float [B, ...].
      rate: the share, in [0, 1).
      batch: of `data.pipeline`, the same B examples.
      purpose: see `draws`.
    """
    if not rate:
        return x
    uniform = draws(
        batch, lambda seed: tf.random.stateless_uniform(x.shape[1:], seed, alg="philox"), purpose
    )
    return tf.where(uniform < rate, 0.0, x / (1 - rate))
