"""What every loss returns."""

from typing import NamedTuple

import tensorflow as tf


class LossResult(NamedTuple):
    """The loss of each row, and what else a loss can say of them.

    Attributes:
      losses: float32 [n]. Whoever calls the loss takes the mean.
      metrics: by name, float32 [n], one value a row, or [] for the batch.
    """

    losses: tf.Tensor
    metrics: dict[str, tf.Tensor]
