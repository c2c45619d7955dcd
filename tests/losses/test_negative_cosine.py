"""The negative cosine: its values, the average over other clips, and no gradient to targets."""

import numpy as np
import tensorflow as tf

from cvrl_tf.losses.negative_cosine import negative_cosine


def test_the_same_opposite_and_orthogonal() -> None:
    targets = tf.constant([[[1.0, 0], [1, 0]], [[1, 0], [1, 0]], [[1, 0], [1, 0]]])
    predictions = tf.constant([[[3.0, 0], [2, 0]], [[0, 1], [0, 5]], [[-1, 0], [-2, 0]]])
    np.testing.assert_allclose(negative_cosine(predictions, targets), [[-1] * 2, [0] * 2, [1] * 2])


def test_the_mean_is_over_the_other_clips() -> None:
    rng = np.random.default_rng(0)
    p, z = rng.normal(size=(2, 5, 4, 7)).astype(np.float32)
    expected = np.zeros([5, 4])
    for video in range(5):
        for i in range(4):
            cosines = [
                p[video, i]
                @ z[video, j]
                / np.linalg.norm(p[video, i])
                / np.linalg.norm(z[video, j])
                for j in range(4)
                if j != i
            ]
            expected[video, i] = -np.mean(cosines)
    np.testing.assert_allclose(negative_cosine(p, z), expected, rtol=1e-5, atol=1e-6)


def test_targets_receive_no_gradient() -> None:
    p, z = tf.random.stateless_normal([2, 3, 2, 4], (0, 1))
    with tf.GradientTape() as tape:
        tape.watch([p, z])
        loss = negative_cosine(p, z)
    of_predictions, of_targets = tape.gradient(loss, [p, z])
    assert of_targets is None and np.abs(of_predictions).max() > 0
