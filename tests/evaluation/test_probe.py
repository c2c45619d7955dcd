"""Accuracies with intervals, and the linear probe on problems whose answer is known."""

import numpy as np
import pytest
import scipy.stats
from sklearn.linear_model import LogisticRegression

from cvrl_tf.evaluation.probe import Accuracy, linear_probe

Problem = tuple[np.ndarray, np.ndarray]


@pytest.mark.parametrize(("right", "count"), [(0, 7), (7, 7), (1, 1), (3, 10), (60, 100), (1, 999)])
def test_wilson_interval(right: int, count: int) -> None:
    accuracy = Accuracy.of(np.arange(count) < right)
    wanted = scipy.stats.binomtest(right, count).proportion_ci(method="wilson")
    assert accuracy.count == count
    assert accuracy.value == pytest.approx(right / count)
    np.testing.assert_allclose((accuracy.low, accuracy.high), wanted, atol=1e-7)


def gaussians(
    count: int, distance: float, seed: int, num_classes: int = 4, dims: int = 16
) -> Problem:
    """Unit normals around class means about `distance` apart; float32 [N, D] and int32 [N]."""
    means = np.random.default_rng(0).normal(size=(num_classes, dims))
    means *= distance / np.sqrt(2) / np.linalg.norm(means, axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, count).astype(np.int32)
    features = means[labels] + rng.normal(size=(count, dims))
    return features.astype(np.float32), labels


def test_separable_classes_are_told_apart() -> None:
    accuracy = linear_probe(gaussians(400, 12, 1), gaussians(400, 12, 2), 4)
    assert accuracy.value > 0.995 and accuracy.count == 400


def test_shuffled_labels_give_chance() -> None:
    features, labels = gaussians(400, 12, 1)
    shuffled = np.random.default_rng(3).permutation(labels)
    accuracy = linear_probe((features, shuffled), gaussians(2000, 12, 2), 4)
    # The answers of a class go together, so this is no draw of 2000.
    assert accuracy.value < 0.5


def test_as_good_as_logistic_regression() -> None:
    train, test = gaussians(1500, 2.5, 1), gaussians(4000, 2.5, 2)
    reference = LogisticRegression(max_iter=1000).fit(*train).score(*test)
    assert 0.6 < reference < 0.9
    assert linear_probe(train, test, 4).value == pytest.approx(reference, abs=0.01)


def test_scale_and_offset_of_the_features_do_not_matter() -> None:
    train, test = gaussians(500, 2.5, 1), gaussians(1000, 2.5, 2)
    scale = np.geomspace(1e-3, 1e3, 16).astype(np.float32)
    moved = [(features * scale + 5 * scale, labels) for features, labels in (train, test)]
    plain, scaled = linear_probe(train, test, 4), linear_probe(*moved, 4)
    assert scaled.value == pytest.approx(plain.value, abs=0.005)


def test_features_that_never_change_do_no_harm() -> None:
    """A dead unit has deviation 0 on the training features."""
    train, test = gaussians(500, 12, 1), gaussians(500, 12, 2)
    dead = [(np.concatenate([f, np.full((500, 1), 3, "f4")], axis=1), y) for f, y in (train, test)]
    assert linear_probe(*dead, 4).value > 0.99


def test_the_same_seed_gives_the_same_answer() -> None:
    train, test = gaussians(200, 1.5, 1), gaussians(1000, 1.5, 2)
    answers = [linear_probe(train, test, 4, epochs=20, seed=seed).value for seed in (0, 0, 1)]
    assert answers[0] == answers[1] != answers[2]


def test_the_test_features_are_scaled_by_the_training_ones() -> None:
    """Of each class alone: were the test set standardised by itself, half would be wrong."""
    train, test = gaussians(400, 12, 1), gaussians(800, 12, 2)
    only = test[1] == 2
    assert linear_probe(train, (test[0][only], test[1][only]), 4).value > 0.99


def test_weight_decay_holds_the_kernel_back() -> None:
    """With a crushing decay, no more than the bias is left: the most frequent class."""
    features, labels = gaussians(400, 12, 1, num_classes=2)
    often = np.where(labels == 0)[0]
    rare = np.where(labels == 1)[0][:20]
    chosen = np.concatenate([often, rare])
    accuracy = linear_probe(
        (features[chosen], labels[chosen]),
        gaussians(1000, 12, 2, num_classes=2),
        2,
        weight_decay=1e4,
    )
    share = np.mean(gaussians(1000, 12, 2, num_classes=2)[1] == 0)
    assert accuracy.value == pytest.approx(share, abs=0.05)
