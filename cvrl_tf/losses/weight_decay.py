"""Weight decay as a loss, as the authors' code has it."""

from collections.abc import Iterable

import tensorflow as tf


def l2_of_kernels(variables: Iterable[tf.Variable]) -> tf.Tensor:
    """Sum of |w|^2 / 2 over the kernels, float32 []; biases and BN parameters are left alone."""
    kernels = [v for v in variables if v.name.rsplit("/", 1)[-1].startswith("kernel")]
    return tf.add_n([tf.nn.l2_loss(tf.cast(kernel, tf.float32)) for kernel in kernels])
