"""Orders of the pieces of a puzzle: all of them, and draws."""

import itertools
import math

import numpy as np
import tensorflow as tf

from cvrl_tf.tasks.task import Batch, draws


def permutations(count: int) -> np.ndarray:
    """Return all orders of so many pieces, int32 [K!, K], in lexicographic order."""
    return np.array(list(itertools.permutations(range(count))), np.int32)


def shuffled(pieces: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Put the pieces of each video into an order.

    Args:
      pieces: [B, K, ...], as they lie in the video.
      labels: int32 [B], of `order_labels`.

    Returns:
      [B, K, ...].
    """
    orders = tf.gather(permutations(pieces.shape[1]), labels)
    return tf.gather(pieces, orders, batch_dims=1)


def order_labels(batch: Batch, pieces: int, purpose: int) -> tf.Tensor:
    """Draw for each video the number of a row o of `permutations`, int32 [B].

    What is at place i after shuffling was at place o_i before.

    Args:
      batch: of `data.pipeline`.
      pieces: K, what is shuffled.
      purpose: as of `task.draws`.
    """
    count = math.factorial(pieces)

    def sample(seed: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_uniform([], seed, 0, count, tf.int32, alg="philox")

    return draws(batch, sample, purpose, tf.int32)
