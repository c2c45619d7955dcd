"""Learning rate by step. Warm-up and cosine are the Model Garden's; only the units are ours."""

import tf_keras as keras
from official.modeling.optimization import lr_schedule


def warmup_cosine(
    steps_per_epoch: int,
    epochs: int,
    global_batch: int,
    learning_rate: float,
    base_batch: int,
    warmup_epochs: int = 0,
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Make a schedule: linear warm-up from 0, then a cosine to 0 (authors' code).

    The cosine runs over all steps and the warm-up climbs to where the cosine then is, so the peak
    is a little under `learning_rate`.

    Args:
      steps_per_epoch, epochs, global_batch: facts of the run, from the runner.
      learning_rate: the peak, for a batch of `base_batch`; scaled linearly to `global_batch`.
      base_batch: the batch that `learning_rate` was chosen for.
      warmup_epochs: length of the warm-up, shorter than the training.

    Raises:
      ValueError: the warm-up is as long as the training: the cosine to which it climbs is 0 then.
    """
    if not 0 <= warmup_epochs < epochs:
        raise ValueError(
            f"warmup_epochs={warmup_epochs} leaves nothing of the {epochs} epochs to train: take "
            f"fewer, such as schedules.warmup_cosine.warmup_epochs={epochs // 10}, or more epochs."
        )
    cosine = keras.optimizers.schedules.CosineDecay(
        learning_rate * global_batch / base_batch, decay_steps=steps_per_epoch * epochs
    )
    if not warmup_epochs:
        return cosine
    return lr_schedule.LinearWarmup(
        cosine, warmup_steps=steps_per_epoch * warmup_epochs, warmup_learning_rate=0.0
    )


def of_authors_code(learning_rate: float, replicas: int) -> float:
    """Convert a learning rate of the authors' code to one for the mean over all anchors.

    Their loss is the sum of the means over both views, and its gradient is summed over the replicas
    without a division: 2R times the gradient of the mean.

    Args:
      learning_rate: as in their YAML.
      replicas: R, of their run.
    """
    return 2 * replicas * learning_rate


def constant(
    steps_per_epoch: int,
    epochs: int,
    global_batch: int,
    learning_rate: float,
    base_batch: int,
) -> float:
    """Make a schedule with the same rate in all steps.

    Args:
      steps_per_epoch, epochs, global_batch: facts of the run, from the runner.
      learning_rate: for a batch of `base_batch`; scaled linearly to `global_batch`.
      base_batch: the batch that `learning_rate` was chosen for.
    """
    del steps_per_epoch, epochs
    return learning_rate * global_batch / base_batch
