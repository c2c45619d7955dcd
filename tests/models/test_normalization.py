"""Batch normalization by fused kernels equals Keras's synchronized layer."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from normalized_replicas import outcome as replicated

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


@pytest.mark.parametrize("replicas", [1, 2])
def test_statistics_are_exact_where_the_mean_is_large(
    replicas: int, tmp_path: Path, child_environment: dict
) -> None:
    """Of deviation 1 and mean 1,000, against float64; replicas of 3 clips and of 1 that differ."""
    rng = np.random.default_rng(0)
    means = np.array([1000, 1003, 999, 1002])[:, None, None, None, None]
    x = rng.normal(means, 1, (4, 3, 5, 7, 6)).astype(np.float32)
    weights = rng.normal(size=x.shape).astype(np.float32)
    if replicas == 1:
        ours = replicated([(x, weights)], tf.distribute.get_strategy())
    else:
        given, output = tmp_path / "given.npz", tmp_path / "output.npz"
        np.savez(given, x0=x[:3], weights0=weights[:3], x1=x[3:], weights1=weights[3:])
        script = Path(__file__).with_name("normalized_replicas.py")
        command = [sys.executable, str(script), str(given), str(output)]
        done = subprocess.run(command, env=child_environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        ours = np.load(output)

    rows, slopes = (each.astype(np.float64).reshape(-1, 6) for each in (x, weights))
    variance = rows.var(axis=0)
    y = (rows - rows.mean(axis=0)) / np.sqrt(variance + 1e-5)
    share = slopes.mean(axis=0) + y * (slopes * y).mean(axis=0)
    np.testing.assert_allclose(ours["mean"], rows.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(ours["variance"], variance, rtol=1e-4)
    np.testing.assert_allclose(ours["y"].reshape(-1, 6), y, atol=2e-3)
    dx = (slopes - share) / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(ours["dx"].reshape(-1, 6), dx, atol=1e-3)
    np.testing.assert_allclose(ours["dgamma"], (slopes * y).sum(axis=0), atol=0.1)
    np.testing.assert_allclose(ours["dbeta"], slopes.sum(axis=0), atol=1e-3)


@pytest.mark.parametrize("shape", [(2, 16, 112, 112, 4), (5, 4)])
@pytest.mark.parametrize("training", [True, False])
def test_a_clip_is_one_image_to_the_kernels(shape: tuple, training: bool) -> None:
    """cuDNN refuses 65,536 images of one pixel in inference; this clip has 200,704 pixels."""
    norm = BatchNorm(0.9)
    norm.build(shape)

    @tf.function(input_signature=[tf.TensorSpec(shape)])
    def slope(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = norm(x, training=training)
        return tape.gradient(y, x)

    operations = slope.get_concrete_function().graph.get_operations()
    kernels = [op for op in operations if op.type.startswith("FusedBatchNorm")]
    assert [op.type for op in kernels] == ["FusedBatchNormV3", "FusedBatchNormGradV3"]
    assert all(op.inputs[0].shape[0] == shape[0] for op in kernels)  # x, and the gradient of y


def test_the_variables_are_kerass() -> None:
    ours, expected = BatchNorm(0.9, name="norm"), keras.layers.BatchNormalization(name="norm")
    ours.build((None, 3))
    expected.build((None, 3))
    assert [v.name for v in ours.variables] == [v.name for v in expected.variables]
