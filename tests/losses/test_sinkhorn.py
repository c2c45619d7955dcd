"""Sinkhorn's steps against NumPy: the authors' loop, and what the assignment is to be."""

import numpy as np
import tensorflow as tf

from cvrl_tf.losses.sinkhorn import Sinkhorn


def authors(scores: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """As `sinkhorn` of SlowFast's models/contrastive.py has it, in float64; scores [B, K]."""
    q = np.exp(scores.astype(float) / epsilon).T
    q /= q.sum()
    for _ in range(iterations):
        q *= (1 / q.shape[0] / q.sum(axis=1))[:, None]
        q *= (1 / q.shape[1] / q.sum(axis=0))[None]
    return (q / q.sum(axis=0, keepdims=True)).T


def cosines(samples: int, prototypes: int, views: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.tanh(rng.normal(size=(samples, views, prototypes))).astype(np.float32)


def test_assignments_are_the_authors() -> None:
    scores = cosines(12, 7)
    found = Sinkhorn(0.05, 3)(scores).numpy()
    for view in range(3):
        expected = authors(scores[:, view], 0.05, 3)
        np.testing.assert_allclose(found[:, view], expected, rtol=1e-4, atol=1e-6)
    for iterations in (1, 5):
        found = Sinkhorn(0.5, iterations)(scores[:, 0])
        np.testing.assert_allclose(found, authors(scores[:, 0], 0.5, iterations), rtol=1e-5)


def test_equal_scores_are_shared_by_all_prototypes() -> None:
    np.testing.assert_allclose(Sinkhorn(0.05, 3)(tf.zeros([4, 3])), np.full([4, 3], 1 / 3), 1e-6)


def test_masses_of_samples_and_prototypes() -> None:
    scores = (0.05 * np.random.default_rng(0).normal(size=(64, 8))).astype(np.float32)
    found = Sinkhorn(0.05, 3)(scores).numpy()
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(found.sum(axis=0), 64 / 8, rtol=2e-3)


def test_large_scores_do_not_overflow() -> None:
    found = Sinkhorn(0.05, 3)(tf.constant([[100.0, 0.0], [0.0, 100.0]]))
    np.testing.assert_allclose(found, np.eye(2), atol=1e-6)


def test_no_gradient_goes_through() -> None:
    scores = tf.constant(cosines(4, 3))
    with tf.GradientTape() as tape:
        tape.watch(scores)
        codes = Sinkhorn(0.05, 3)(scores)
    assert tape.gradient(codes, scores) is None
