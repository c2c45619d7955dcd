"""Convolutions computed as 2-D ones equal TensorFlow's 3-D ones."""

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from cvrl_tf.models.convolution import Conv, convolve

CASES = [
    ((1, 1, 1), (1, 1, 1)),
    ((3, 1, 1), (1, 1, 1)),
    ((2, 1, 1), (1, 1, 1)),
    ((5, 1, 1), (1, 1, 1)),
    ((3, 1, 1), (2, 1, 1)),
    ((1, 1, 1), (1, 2, 2)),
    ((1, 1, 1), (2, 2, 2)),
    ((1, 3, 3), (1, 1, 1)),
    ((1, 3, 3), (1, 2, 2)),
    ((3, 3, 3), (1, 2, 2)),
    ((5, 7, 7), (2, 2, 2)),
    ((2, 3, 3), (3, 2, 2)),
]


def value_and_gradients(
    convolution: Callable, shape: tuple, kernel: tuple, strides: tuple, jit: bool
) -> list[tf.Tensor]:
    spec = [tf.TensorSpec([None, None, None, None, shape[-1]]), tf.TensorSpec([*kernel])]

    @tf.function(jit_compile=jit, input_signature=None if jit else spec)
    def run(x: tf.Tensor, w: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = convolution(x, w, strides)
            loss = tf.reduce_sum(tf.sin(0.1 * y))
        return [y, *tape.gradient(loss, [x, w])]

    rng = np.random.default_rng(0)
    x, w = rng.normal(size=shape), rng.normal(size=kernel)
    return run(tf.constant(x, tf.float32), tf.constant(w, tf.float32))


def conv3d(x: tf.Tensor, kernel: tf.Tensor, strides: tuple) -> tf.Tensor:
    return tf.nn.conv3d(x, kernel, [1, *strides, 1], "SAME")


def assert_same(ours: list[tf.Tensor], expected: list[tf.Tensor]) -> None:
    """Compare relative to the largest entry of a tensor, because entries may be near zero."""
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())


@pytest.mark.addons
@pytest.mark.parametrize(("kernel", "strides"), CASES)
@pytest.mark.parametrize("channels", [3, 9])  # 3 are few, and stacked over time
@pytest.mark.parametrize("length", [1, 4, 5])
def test_values_and_gradients_with_unknown_sizes(
    length: int, channels: int, kernel: tuple, strides: tuple
) -> None:
    arguments = ((2, length, 6, 7, channels), (*kernel, channels, 4), strides, False)
    ours = value_and_gradients(convolve, *arguments)
    assert_same(ours, value_and_gradients(conv3d, *arguments))


@pytest.mark.parametrize(("kernel", "strides"), [CASES[1], CASES[7], CASES[10]])
def test_under_xla(kernel: tuple, strides: tuple) -> None:
    arguments = ((2, 5, 7, 6, 3), (*kernel, 3, 4), strides)
    ours = value_and_gradients(convolve, *arguments, True)
    assert_same(ours, value_and_gradients(conv3d, *arguments, False))


@pytest.mark.parametrize(
    ("kernel", "strides"),
    [
        ((1, 7, 7), (1, 2, 2)),
        ((1, 3, 3), (1, 2, 2)),
        ((1, 1, 1), (2, 2, 2)),
        ((3, 1, 1), (1, 1, 1)),
        ((3, 1, 1), (2, 1, 1)),
        ((5, 1, 1), (2, 1, 1)),
    ],
)
@pytest.mark.parametrize("channels", [3, 9])
@pytest.mark.parametrize("length", [1, 4, 5])
def test_symmetric_padding_is_that_of_pytorch(
    length: int, channels: int, kernel: tuple, strides: tuple
) -> None:
    def padded(x: tf.Tensor, w: tf.Tensor, strides: tuple) -> tf.Tensor:
        zeros = [[(taps - 1) // 2] * 2 for taps in kernel]
        x = tf.pad(x, [[0, 0], *zeros, [0, 0]])
        return tf.nn.conv3d(x, w, [1, *strides, 1], "VALID")

    def symmetric(x: tf.Tensor, w: tf.Tensor, strides: tuple) -> tf.Tensor:
        return convolve(x, w, strides, symmetric=True)

    arguments = ((2, length, 6, 7, channels), (*kernel, channels, 4), strides, False)
    assert_same(value_and_gradients(symmetric, *arguments), value_and_gradients(padded, *arguments))


def test_the_layer_has_a_3d_kernel_and_knows_its_output_shape() -> None:
    layer = Conv(6, (3, 1, 1), (1, 1, 1))
    shapes = []

    @tf.function(input_signature=[tf.TensorSpec([None, 4, None, 8, 5])])
    def run(x: tf.Tensor) -> tf.Tensor:
        shapes.append(layer(x).shape.as_list())
        return layer(x)

    assert run(tf.zeros([2, 4, 8, 8, 5])).shape == (2, 4, 8, 8, 6)
    assert shapes[-1] == [None, 4, None, 8, 6]
    assert [tuple(v.shape) for v in layer.variables] == [(3, 1, 1, 5, 6)]


@pytest.mark.parametrize("length", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (5, 3, 3), (3, 1, 1)])
def test_bfloat16_gradients_of_clips_shorter_than_the_kernel(length: int, kernel: tuple) -> None:
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(4, length, 8, 8, 16)), tf.bfloat16)
    w = tf.constant(rng.normal(size=(*kernel, 16, 32)), tf.bfloat16)

    @tf.function
    def gradients(x: tf.Tensor, w: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            loss = tf.reduce_sum(tf.cast(convolve(x, w, (1, 1, 1)), tf.float32) ** 2)
        return tape.gradient(loss, [x, w])

    expected = gradients(tf.cast(x, tf.float32), tf.cast(w, tf.float32))
    for ours, theirs in zip(gradients(x, w), expected, strict=True):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(tf.cast(ours, tf.float32), theirs, atol=0.01 * scale)
