"""Memory for time: a layer's activations are computed again when its gradient is due."""

from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras


def recomputed(layer: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
    """What the layer computes in training, keeping only `x` for the gradient.

    `tf.recompute_grad` would update moving statistics twice, and can't tell the variables of
    several replicas.

    Args:
      layer: built; its `call` takes `training`, and `replay` for no side effects.
      x: float tensor.
    """
    variables = layer.trainable_variables
    # The tape sees no way through here: the gradient comes from the second pass alone.
    y = tf.stop_gradient(layer(x, training=True))

    @tf.custom_gradient
    def attach(x: tf.Tensor, *values: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        def gradient(dy: tf.Tensor) -> list[tf.Tensor]:
            # The second pass waits for dy, or it would begin at once and keep its activations too:
            # the dependency says so to the executor, and the sum to XLA, which knows none.
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
