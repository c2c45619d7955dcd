"""InfoNCE with several positives against NumPy: the equation, and the authors' loops."""

import math

import numpy as np
import pytest
import tensorflow as tf

from cvrl_tf.losses.multi_positive import multi_positive


def unit(rng: np.random.Generator, rows: int, dim: int = 5) -> np.ndarray:
    x = rng.normal(size=(rows, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def vince(
    queries: np.ndarray, keys: np.ndarray, queue: np.ndarray, frames: int, temperature: float
) -> np.ndarray:
    """As vince's utils/loss_util.py has it: one term for each pair, in float64."""
    losses = []
    for i, query in enumerate(queries.astype(float)):
        logits = keys.astype(float) @ query / temperature
        own = np.arange(len(keys)) // frames == i // frames
        rivals = np.concatenate([logits[~own], queue.astype(float) @ query / temperature])
        pairs = [np.exp(s) / (np.exp(s) + np.exp(rivals).sum()) for s in logits[own]]
        losses.append(-np.log(pairs).mean())
    return np.array(losses)


def moco(
    queries: np.ndarray, keys: np.ndarray, queue: np.ndarray, clips: int, temperature: float
) -> np.ndarray:
    """As SlowFast's models/contrastive.py has it: a softmax over one key and the queue, for each
    other clip of the video."""
    losses = []
    for i, query in enumerate(queries.astype(float)):
        others = [j for j in range(len(keys)) if j // clips == i // clips and j != i]
        terms = []
        for j in others:
            logits = np.concatenate([keys[j : j + 1], queue]).astype(float) @ query / temperature
            terms.append(-logits[0] + np.log(np.exp(logits).sum()))
        losses.append(np.mean(terms))
    return np.array(losses)


def masks(videos: int, clips: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.arange(videos * clips)
    return rows[:, None] // clips == rows // clips, rows[:, None] == rows


@pytest.mark.parametrize(("temperature", "clips"), [(0.07, 4), (0.5, 2)])
def test_losses_are_those_of_the_authors(temperature: float, clips: int) -> None:
    rng = np.random.default_rng(0)
    queries, keys, queue = (unit(rng, rows) for rows in (3 * clips, 3 * clips, 8))
    same_video, same_row = masks(3, clips)
    found = multi_positive(queries, keys, queue, same_video, ~same_video, temperature)
    expected = vince(queries, keys, queue, clips, temperature)
    np.testing.assert_allclose(found.losses, expected, rtol=1e-5)
    found = multi_positive(
        queries, keys, queue, same_video & ~same_row, np.zeros_like(same_video), temperature
    )
    np.testing.assert_allclose(
        found.losses, moco(queries, keys, queue, clips, temperature), rtol=1e-5
    )


@pytest.mark.parametrize(("batch", "frames", "size"), [(256, 4, 65536), (8, 4, 16), (8, 1, 16)])
def test_loss_of_equal_embeddings(batch: int, frames: int, size: int) -> None:
    same = np.full([1, 1], 1.0, np.float32)
    rows = np.arange(batch)
    positive = rows[:1, None] // frames == rows // frames
    found = multi_positive(
        same, np.repeat(same, batch, 0), np.repeat(same, size, 0), positive, ~positive, 0.07
    )
    np.testing.assert_allclose(found.losses, [math.log(1 + batch - frames + size)], rtol=1e-6)
    if frames == 4:
        expected = {256: 11.0942, 8: 3.0445}[batch]
        assert float(found.losses[0]) == pytest.approx(expected, abs=5e-5)


def test_accuracy_is_the_share_of_positives_before_all_negatives() -> None:
    queries = np.array([[1, 0]], np.float32)
    keys = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
    queue = np.array([[0.8, 0.6]], np.float32)
    positive = np.array([[True, True, False]])
    found = multi_positive(queries, keys, queue, positive, ~positive, 1.0)
    np.testing.assert_allclose(found.metrics["contrastive_accuracy"], [0.5])


def test_extreme_similarities_are_finite() -> None:
    queries = tf.constant([[1.0, 0.0]])
    keys = tf.constant([[-1.0, 0.0]])
    found = multi_positive(queries, keys, queries, [[True]], [[False]], 1e-3)
    np.testing.assert_allclose(found.losses, [2000], rtol=1e-6)
