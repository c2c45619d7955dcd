"""Batch normalization by fused kernels equals Keras's synchronized layer."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from cvrl_tf.models.normalization import BatchNorm

pytestmark = pytest.mark.addons


def keras_norm() -> keras.layers.Layer:
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, synchronized=True)


def outcome(norm: keras.layers.Layer, x: tf.Tensor, training: bool) -> list[np.ndarray]:
    """Return values, gradients of x, gamma and beta, and moving statistics."""
    channels = x.shape[-1]
    norm.build(x.shape)
    norm.gamma.assign(np.linspace(0.5, 1.5, channels))
    norm.beta.assign(np.linspace(-1, 1, channels))
    norm.moving_mean.assign(np.linspace(0, 1, channels))
    norm.moving_variance.assign(np.linspace(1, 2, channels))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = norm(x, training=training)
        loss = tf.reduce_sum(tf.sin(tf.cast(y, tf.float32)))
    gradients = tape.gradient(loss, [x, norm.gamma, norm.beta])
    result = [y, *gradients, norm.moving_mean, norm.moving_variance]
    return [tf.cast(tensor, tf.float32).numpy() for tensor in result]


@pytest.mark.parametrize("shape", [(4, 3, 5, 5, 8), (6, 8)])
@pytest.mark.parametrize("training", [True, False])
def test_equals_keras(shape: tuple, training: bool) -> None:
    x = tf.constant(np.random.default_rng(0).normal(2, 3, shape), tf.float32)
    ours, expected = outcome(BatchNorm(0.9), x, training), outcome(keras_norm(), x, training)
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize("precision", [tf.bfloat16, tf.float16])
def test_statistics_are_float32_whatever_the_precision(precision: tf.DType) -> None:
    x = np.random.default_rng(0).normal(2, 3, (4, 3, 5, 5, 8)).astype(precision.as_numpy_dtype)
    expected = outcome(keras_norm(), tf.constant(x.astype(np.float32)), True)
    norm = BatchNorm(0.9, dtype=keras.mixed_precision.Policy(f"mixed_{precision.name}"))
    ours = outcome(norm, tf.constant(x), True)
    assert norm(tf.constant(x), training=False).dtype == precision
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0.01, atol=0.01 * np.abs(other).max())
    for one, other in zip(ours[-2:], expected[-2:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_frozen_layer_normalizes_by_its_moving_statistics() -> None:
    x = tf.constant(np.random.default_rng(0).normal(2, 3, (6, 8)), tf.float32)
    frozen = BatchNorm(0.9)
    frozen.trainable = False
    for one, other in zip(outcome(frozen, x, True), outcome(frozen, x, False), strict=True):
        np.testing.assert_array_equal(one, other)


def test_one_value_a_channel_has_no_variance() -> None:
    norm = BatchNorm(0.9)
    assert np.all(norm(tf.ones([1, 3]), training=True) == 0)
    np.testing.assert_allclose(norm.moving_variance, 0.9)


def test_the_variables_are_kerass() -> None:
    ours, expected = BatchNorm(0.9, name="norm"), keras.layers.BatchNormalization(name="norm")
    ours.build((None, 3))
    expected.build((None, 3))
    assert [v.name for v in ours.variables] == [v.name for v in expected.variables]
