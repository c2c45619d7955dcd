"""Weight decay as a loss, as the authors' code has it."""

import re
from collections.abc import Iterable

import tensorflow as tf

_KERNEL = re.compile(r"(^|_)kernel(:\d+)?$")  # recurrent_kernel and depthwise_kernel too


def kernels(variables: Iterable[tf.Variable]) -> list[tf.Variable]:
    """Return the kernels among variables: neither biases nor parameters of normalizations."""
    return [v for v in variables if _KERNEL.search(v.name.rsplit("/", 1)[-1])]


def l2(variables: Iterable[tf.Variable]) -> tf.Tensor:
    """Return the sum of |w|^2 / 2 over variables, float32 []."""
    return tf.add_n([tf.nn.l2_loss(tf.cast(variable, tf.float32)) for variable in variables])
