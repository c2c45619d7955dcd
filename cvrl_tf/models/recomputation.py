"""Gradient checkpointing: recompute activations of a layer for its gradient to save memory."""

from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras


def recomputed(layer: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
    """Call a layer in training, and keep only `x` for the gradient.

    `tf.recompute_grad` would update moving statistics twice, and does not find the variables of the
    right replica.

    Args:
      layer: a built layer. Its `call` takes `training`, and `replay` for no side effects.
      x: float tensor.
    """
    variables = layer.trainable_variables
    # No gradient flows through here; it comes from the second pass only.
    y = tf.stop_gradient(layer(x, training=True))

    @tf.custom_gradient
    def attach(x: tf.Tensor, *values: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        def gradient(dy: tf.Tensor) -> list[tf.Tensor]:
            # The second pass must wait for dy. Otherwise it could begin at once and keep its
            # activations in memory too. The control dependency makes the executor wait. XLA, which
            # ignores the dependency, waits because of the sum.
            with tf.control_dependencies([dy]):
                again = x + 0 * tf.reshape(dy, [-1])[0]
            with tf.GradientTape() as tape:
                tape.watch(again)
                replay = layer(again, training=True, replay=True)
            gradients = tape.gradient(replay, [again, *variables], dy)
            pairs = zip(gradients, [x, *values], strict=True)
            return [tf.cast(one, value.dtype) for one, value in pairs]

        return tf.identity(y), gradient

    return attach(x, *[tf.convert_to_tensor(variable) for variable in variables])
