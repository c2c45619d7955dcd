"""Batch normalization over all replicas, by fused kernels that compute in float32."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras as keras

Normalized = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


class BatchNorm(keras.layers.BatchNormalization):
    """Compute what Keras's layer does with `synchronized=True`, which has no fused kernel.

    Channels are last. The moving variance is of the population, as in Keras.
    """

    def __init__(self, momentum: float, epsilon: float = 1e-5, **layer: Any) -> None:
        super().__init__(momentum=momentum, epsilon=epsilon, synchronized=True, **layer)

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, replay: bool = False
    ) -> tf.Tensor:
        """Normalize float [..., C]. A replay does not change the moving statistics."""
        shape = tf.shape(inputs)
        x = tf.reshape(inputs, [-1, 1, 1, inputs.shape[-1]])  # the kernels need rank 4
        if training and self.trainable:
            x, mean, variance = normalize(x, self.gamma, self.beta, self.epsilon)
            if not replay:
                for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
                    moving.assign_sub((moving - now) * (1 - self.momentum))
        else:
            statistics = (self.moving_mean, self.moving_variance)
            x = _normalize_by(x, self.gamma, self.beta, *statistics, self.epsilon)
        return tf.ensure_shape(tf.reshape(x, shape), inputs.shape)


def normalize(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> Normalized:
    """Normalize by the statistics of the batches of all replicas together.

    Args:
      x: float [N, H, W, C], any float type.
      gamma, beta: float32 [C].
      epsilon: added to the variance.

    Returns:
      The normalized x, and the mean and the population variance, float32 [C], through which no
      gradient flows.
    """
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        y, mean, variance = _synchronized(x, gamma, beta, epsilon)
    else:
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon
        )
        count = tf.cast(tf.size(x) // x.shape[-1], tf.float32)
        variance *= tf.maximum(count - 1, 1) / count  # the kernel returns the unbiased estimate
    return y, tf.stop_gradient(mean), tf.stop_gradient(variance)


def _normalize_by(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    epsilon: float,
) -> tf.Tensor:
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        is_training=False,
    ).y


def _synchronized(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> Normalized:
    """Compute `normalize` in a replica, with one all-reduce forward and one in the gradient."""
    context = tf.distribute.get_replica_context()

    def total(*parts: tf.Tensor) -> list[tf.Tensor]:
        reduced = context.all_reduce("sum", tf.concat(parts, axis=0))
        return tf.split(reduced, [part.shape[0] for part in parts])

    @tf.custom_gradient
    def compute(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tuple[Normalized, Callable]:
        exact = tf.cast(x, tf.float32)
        local_count = tf.cast(tf.size(x) // x.shape[-1], tf.float32)[None]
        sums = tf.reduce_sum(exact, [0, 1, 2]), tf.reduce_sum(tf.square(exact), [0, 1, 2])
        total_sum, total_square, count = total(*sums, local_count)
        mean = total_sum / count
        variance = tf.maximum(total_square / count - tf.square(mean), 0.0)

        def gradient(dy: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            # First with constant statistics, then the terms of the statistics, over all replicas.
            dx, dgamma, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=dy,
                x=x,
                scale=gamma,
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=[],
                epsilon=epsilon,
                is_training=False,
            )
            all_dgamma, all_dbeta = total(dgamma, dbeta)
            inverse = tf.math.rsqrt(variance + epsilon)
            slope = -gamma * tf.square(inverse) * all_dgamma / count
            offset = -gamma * inverse * all_dbeta / count - slope * mean
            dx = tf.cast(dx, tf.float32) + slope * exact + offset
            return tf.cast(dx, x.dtype), dgamma, dbeta

        y = _normalize_by(x, gamma, beta, mean, variance, epsilon)
        return (y, mean, variance), gradient

    return compute(x, gamma, beta)
