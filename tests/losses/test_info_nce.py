"""InfoNCE against a transcription of equation 1."""

import numpy as np
import pytest
import tensorflow as tf

from cvrl_tf.losses.info_nce import (
    blocked_info_nce,
    contrastive_accuracy,
    contrastive_entropy,
    info_nce,
)

pytestmark = pytest.mark.addons


def equation_1(z: np.ndarray, temperature: float) -> np.ndarray:
    """L_i of every row of z [2N, E]; rows 2i and 2i + 1 are the views of a video."""
    z = z.astype(np.float64)
    losses = []
    for i in range(len(z)):

        def sim(k: int, i: int = i) -> float:
            return z[i] @ z[k] / np.linalg.norm(z[i]) / np.linalg.norm(z[k])

        other_view = i + 1 if i % 2 == 0 else i - 1
        others = [k for k in range(len(z)) if k != i]
        positive = np.exp(sim(other_view) / temperature)
        losses.append(-np.log(positive / sum(np.exp(sim(k) / temperature) for k in others)))
    return np.array(losses)


@pytest.mark.parametrize("temperature", [0.07, 0.1, 1.0])
@pytest.mark.parametrize("num_videos", [1, 2, 7])
def test_equals_equation_1(num_videos: int, temperature: float) -> None:
    z = np.random.default_rng(0).normal(size=(2 * num_videos, 16)).astype(np.float32)
    loss, _, _ = info_nce(z, z, 0, temperature)
    np.testing.assert_allclose(loss, equation_1(z, temperature), rtol=1e-5, atol=1e-5)


def test_gradient_equals_that_of_equation_1() -> None:
    z = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
    with tf.GradientTape() as tape:
        x = tf.constant(z)
        tape.watch(x)
        loss = tf.reduce_mean(info_nce(x, x, 0, 0.1)[0])
    gradient = tape.gradient(loss, x).numpy()
    numeric = np.zeros_like(z, dtype=np.float64)
    for index in np.ndindex(*z.shape):
        step = np.zeros(z.shape)
        step[index] = 1e-6
        rise = equation_1(z + step, 0.1).mean() - equation_1(z - step, 0.1).mean()
        numeric[index] = rise / 2e-6
    np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-5)


def test_equal_embeddings_give_ln_of_the_others() -> None:
    z = tf.ones([8, 128])  # N = 4
    loss, logits, _ = info_nce(z, z, 0, 0.1)
    np.testing.assert_allclose(loss, np.full(8, np.log(7)), rtol=1e-6)
    np.testing.assert_allclose(contrastive_entropy(logits), np.full(8, np.log(7)), rtol=1e-6)


def test_a_part_of_the_queries_gives_a_part_of_the_losses() -> None:
    z = np.random.default_rng(2).normal(size=(12, 16)).astype(np.float32)
    whole, _, _ = info_nce(z, z, 0, 0.1)
    part, _, labels = info_nce(z[4:8], z, 4, 0.1)
    np.testing.assert_allclose(part, whole[4:8], rtol=1e-6)
    np.testing.assert_array_equal(labels, [5, 4, 7, 6])


def test_scale_of_the_embeddings_does_not_matter_and_half_precision_is_lifted() -> None:
    z = np.random.default_rng(3).normal(size=(6, 16)).astype(np.float16)
    loss, _, _ = info_nce(z, z, 0, 0.1)
    assert loss.dtype == tf.float32
    np.testing.assert_allclose(loss, equation_1(z, 0.1), rtol=1e-5, atol=1e-5)
    lifted = z.astype(np.float32)
    np.testing.assert_allclose(info_nce(3 * lifted, 3 * lifted, 0, 0.1)[0], loss, rtol=1e-5)


def test_accuracy_and_entropy() -> None:
    z = tf.constant([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    _, logits, labels = info_nce(z, z, 0, 0.1)
    np.testing.assert_array_equal(contrastive_accuracy(logits, labels), [1, 1, 0, 1])
    p = np.exp(logits.numpy().astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    safe = np.where(p > 0, p, 1)
    entropy = -(p * np.log(safe)).sum(axis=1)
    # Absolute, because where one key has all the weight, 1 - p is below float32's resolution.
    np.testing.assert_allclose(contrastive_entropy(logits), entropy, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
@pytest.mark.parametrize(
    ("block", "part"), [(4, slice(0, 26)), (7, slice(8, 20)), (64, slice(0, 26))]
)
def test_blocks_change_nothing(block: int, part: slice, how: str) -> None:
    """Loss, gradient, accuracy and entropy, of all anchors or of one replica's."""
    z = tf.constant(np.random.default_rng(4).normal(size=(26, 16)).astype(np.float32))
    weights = tf.constant(np.random.default_rng(5).uniform(size=26)[part].astype(np.float32))

    def plain(keys: tf.Tensor) -> tuple:
        with tf.GradientTape() as tape:
            tape.watch(keys)
            loss, logits, labels = info_nce(keys[part], keys, part.start, 0.1)
            total = tf.reduce_sum(weights * loss)
        metrics = contrastive_accuracy(logits, labels), contrastive_entropy(logits)
        return loss, *metrics, tape.gradient(total, keys)

    def blocked(keys: tf.Tensor) -> tuple:
        with tf.GradientTape() as tape:
            tape.watch(keys)
            loss, *metrics = blocked_info_nce(keys[part], keys, part.start, 0.1, block)
            total = tf.reduce_sum(weights * loss)
        return loss, *metrics, tape.gradient(total, keys)

    if how != "eager":
        blocked = tf.function(blocked, jit_compile=how == "xla")
    for found, expected in zip(blocked(z), plain(z), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_blocks_of_equal_embeddings() -> None:
    z = tf.ones([8, 128])  # N = 4
    loss, accuracy, entropy = blocked_info_nce(z, z, 0, 0.1, 3)
    np.testing.assert_allclose(loss, np.full(8, np.log(7)), rtol=1e-6)
    np.testing.assert_allclose(entropy, np.full(8, np.log(7)), rtol=1e-6)
    _, logits, labels = info_nce(z, z, 0, 0.1)
    np.testing.assert_array_equal(accuracy, contrastive_accuracy(logits, labels))
