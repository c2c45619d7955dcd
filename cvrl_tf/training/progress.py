"""Where a run stands, beside its optimizer's step."""

import tensorflow as tf
import tf_keras as keras


class Progress(tf.Module):
    """What a run's checkpoint says of the run; its step is the optimizer's.

    Attributes:
      seed: int64 [].
      steps_per_epoch: int64 []; with the step it gives the epoch, and the position in it.
      best: float32 [], best value so far of the metric that the best checkpoint is kept by; not a
        number before there is one.
    """

    def __init__(self, seed: int, steps_per_epoch: int) -> None:
        super().__init__()
        self.seed = tf.Variable(seed, False, dtype=tf.int64)
        self.steps_per_epoch = tf.Variable(steps_per_epoch, False, dtype=tf.int64)
        self.best = tf.Variable(float("nan"), False)

    def check(self, seed: int, steps_per_epoch: int) -> None:
        """Raise a ValueError if what was restored is of a run with other data or another seed."""
        for name, here in (("seed", seed), ("steps_per_epoch", steps_per_epoch)):
            there = int(getattr(self, name).numpy())
            if there != here:
                raise ValueError(
                    f"The run's checkpoint has {name}={there}, but now it is {here}: continue with "
                    "the seed, data and batch of before, or choose another --model_dir, perhaps "
                    "with this run as its settings.Checkpointing.initial."
                )


def create_slots(model: keras.Model) -> None:
    """Create the optimizer's variables, so that restoring can assert that all of them matched."""
    optimizer = model.optimizer
    if isinstance(optimizer, keras.optimizers.legacy.Optimizer):
        optimizer._create_all_weights(model.trainable_variables)
    else:
        optimizer.build(model.trainable_variables)
