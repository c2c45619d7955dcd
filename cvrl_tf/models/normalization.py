"""Batch normalization over all replicas, by fused kernels that compute in float32."""

import math
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
        """Normalize float [B, ..., C]. A replay does not change the moving statistics."""
        shape = tf.shape(inputs)
        x = _as_images(inputs)
        if training and self.trainable:
            x, mean, variance = normalize(x, self.gamma, self.beta, self.epsilon)
            if not replay:
                for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
                    moving.assign_sub((moving - now) * (1 - self.momentum))
        else:
            statistics = (self.moving_mean, self.moving_variance)
            x = _normalize_by(x, self.gamma, self.beta, *statistics, self.epsilon)
        return tf.ensure_shape(tf.reshape(x, shape), inputs.shape)


def _as_images(x: tf.Tensor) -> tf.Tensor:
    """Reshape [B, T, ..., C] to [B, T, pixels, C], and [B, C] to [B, 1, 1, C].

    The kernels need rank 4, and do the same with clips. An image for each pixel would have the same
    statistics, but cuDNN refuses 65,536 images without extent in inference (pytorch#19911,
    onnxruntime#7095), fewer than the pixels of one clip behind the stem.
    """
    inner, product = x.shape[1:-1], math.prod
    if not inner.is_fully_defined():
        inner, product = tf.shape(x)[1:-1], tf.reduce_prod
    return tf.reshape(x, [-1, product(inner[:1]), product(inner[1:]), x.shape[-1]])


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

    @tf.custom_gradient
    def compute(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tuple[Normalized, Callable]:
        exact = tf.cast(x, tf.float32)
        count, mean, variance = _moments_of_all(exact)

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
            all_dgamma, all_dbeta = tf.unstack(context.all_reduce("sum", tf.stack([dgamma, dbeta])))
            inverse = tf.math.rsqrt(variance + epsilon)
            slope = -gamma * tf.square(inverse) * all_dgamma / count
            offset = -gamma * inverse * all_dbeta / count
            dx = tf.cast(dx, tf.float32) + slope * (exact - mean) + offset
            return tf.cast(dx, x.dtype), dgamma, dbeta

        y = _normalize_by(x, gamma, beta, mean, variance, epsilon)
        return (y, mean, variance), gradient

    return compute(x, gamma, beta)


def _moments_of_all(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Compute count [], mean [C] and population variance [C] over the batches of all replicas.

    The mean of squares less the square of the mean would be rounding where the mean is large beside
    the deviation. Each replica therefore centers by its own mean, and the replicas combine counts,
    means and sums of centered squares: Chan, Golub and LeVeque, "Updating Formulae and a Pairwise
    Algorithm for Computing Sample Variances", 1979.

    Args:
      x: float32 [N, H, W, C], of this replica.
    """
    context = tf.distribute.get_replica_context()
    count = tf.cast(tf.size(x) // x.shape[-1], tf.float32)
    mean = _sum(x) / tf.maximum(count, 1)
    squares = _sum(tf.math.squared_difference(x, mean))
    local = tf.concat([[count], mean, squares], axis=0)
    # Zero but in this replica's row; see `distribution.gather`.
    row = tf.one_hot(context.replica_id_in_sync_group, context.num_replicas_in_sync)
    gathered = context.all_reduce("sum", row[:, tf.newaxis] * local)
    counts, means, all_squares = tf.split(gathered, [1, x.shape[-1], x.shape[-1]], axis=1)
    total = tf.reduce_sum(counts)
    mean = tf.reduce_sum(counts * means, axis=0) / total
    between = counts * tf.math.squared_difference(means, mean)
    return total, mean, tf.reduce_sum(all_squares + between, axis=0) / total


def _sum(x: tf.Tensor) -> tf.Tensor:
    """Compute `tf.reduce_sum` over all axes but the last, in a third of its time on CPUs."""
    return tf.raw_ops.BiasAddGrad(out_backprop=x)
