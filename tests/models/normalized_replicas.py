"""Run by test_normalization.py in a process of its own, since devices are set up once a process.

usage: normalized_replicas.py INPUT OUTPUT

Normalizes the clips and differentiates the weighted sum of the results: "x0" with "weights0" on one
replica, "x1" with "weights1" on another.
"""

import sys

import numpy as np
import tensorflow as tf

from cvrl_tf import distribution
from cvrl_tf.models.normalization import BatchNorm


def outcome(
    parts: list[tuple[np.ndarray, np.ndarray]], strategy: tf.distribute.Strategy
) -> dict[str, np.ndarray]:
    """Compute clips and weights, float32 [B, T, H, W, C] each, one pair a replica.

    Returns:
      y and dx [B, T, H, W, C], of all replicas; dgamma, dbeta, mean and variance [C]. Those of the
      statistics are the batch's alone.
    """
    with strategy.scope():
        norm = BatchNorm(momentum=0.0)
        norm.build((None, None, None, None, parts[0][0].shape[-1]))

    def replica(x: tf.Tensor, weights: tf.Tensor) -> tuple:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = norm(x, training=True)
            total = tf.reduce_sum(y * weights)
        dx, dgamma, dbeta = tape.gradient(total, [x, norm.gamma, norm.beta])
        context = tf.distribute.get_replica_context()
        return y, dx, context.all_reduce("sum", dgamma), context.all_reduce("sum", dbeta)

    pairs = strategy.experimental_distribute_values_from_function(
        lambda context: tuple(map(tf.constant, parts[context.replica_id_in_sync_group]))
    )
    y, dx, dgamma, dbeta = tf.function(lambda: strategy.run(replica, args=pairs))()
    local = strategy.experimental_local_results
    return {
        "y": np.concatenate(local(y)),
        "dx": np.concatenate(local(dx)),
        "dgamma": local(dgamma)[0].numpy(),
        "dbeta": local(dbeta)[0].numpy(),
        "mean": norm.moving_mean.numpy(),
        "variance": norm.moving_variance.numpy(),
    }


if __name__ == "__main__":
    given = np.load(sys.argv[1])
    pairs = [(given[f"x{number}"], given[f"weights{number}"]) for number in (0, 1)]
    np.savez(sys.argv[2], **outcome(pairs, distribution.strategy("mirrored", logical_cpus=2)))
