"""The linear probe on problems whose answer is known."""

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from cvrl_tf.evaluation.probe import Probe, linear_probe

Problem = tuple[np.ndarray, np.ndarray]


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


def accuracy(train: Problem, test: Problem, num_classes: int, **kwargs: Any) -> float:
    """With one view a video."""
    views = train[0][:, np.newaxis], train[1]
    probed = linear_probe(views, test[0][:, np.newaxis], num_classes, Probe(**kwargs))
    assert probed.scores.shape == (len(test[1]), num_classes)
    np.testing.assert_allclose(probed.scores.sum(axis=1), 1, atol=1e-5)
    return float(np.mean(probed.scores.argmax(axis=1) == test[1]))


@pytest.mark.parametrize("standardize", [True, False])
def test_separable_classes_are_told_apart(standardize: bool) -> None:
    problem = gaussians(400, 12, 1), gaussians(400, 12, 2)
    assert accuracy(*problem, 4, standardize=standardize) > 0.995


def test_shuffled_labels_give_chance() -> None:
    features, labels = gaussians(400, 12, 1)
    shuffled = np.random.default_rng(3).permutation(labels)
    # The answers of a class go together, so this is no draw of 2000.
    assert accuracy((features, shuffled), gaussians(2000, 12, 2), 4) < 0.5


def test_the_softmaxes_are_those_of_scikit_learns_logistic_regression() -> None:
    """Fully converged, with the same decay: scikit-learn's C is 1 / (N * weight_decay)."""
    (features, labels), test = gaussians(500, 2.5, 1), gaussians(300, 2.5, 2)
    probe = Probe(learning_rates=[10.0], weight_decays=[1e-2], epochs=400, batch=500)
    probed = linear_probe((features[:, None], labels), test[0][:, None], 4, probe)
    deviation = features.std(axis=0) * np.sqrt(features.shape[1])
    scaled = [(f - features.mean(axis=0)) / deviation for f in (features, test[0])]
    reference = LogisticRegression(C=1 / (500 * 1e-2), max_iter=1000, tol=1e-8)
    expected = reference.fit(scaled[0], labels).predict_proba(scaled[1])
    np.testing.assert_allclose(probed.scores, expected, atol=1e-4)


def test_as_good_as_logistic_regression() -> None:
    train, test = gaussians(1500, 2.5, 1), gaussians(4000, 2.5, 2)
    reference = LogisticRegression(max_iter=1000).fit(*train).score(*test)
    assert accuracy(train, test, 4) == pytest.approx(reference, abs=0.01)


def test_scale_and_offset_of_the_features_do_not_matter() -> None:
    train, test = gaussians(500, 3, 1), gaussians(2000, 3, 2)
    moved = [(1000 * features - 300, labels) for features, labels in (train, test)]
    assert accuracy(*moved, 4) == pytest.approx(accuracy(train, test, 4), abs=2e-3)


def test_features_that_never_change_do_no_harm() -> None:
    """A dead unit has deviation 0 on the training features."""
    train, test = gaussians(500, 12, 1), gaussians(500, 12, 2)
    dead = [(np.concatenate([f, np.full((500, 1), 3, "f4")], axis=1), y) for f, y in (train, test)]
    assert accuracy(*dead, 4) > 0.99


def test_the_same_seed_gives_the_same_scores() -> None:
    (features, labels), test = gaussians(200, 1.5, 1), gaussians(100, 1.5, 2)
    first, again, other = (
        linear_probe((features[:, None], labels), test[0][:, None], 4, Probe(epochs=3, batch=32), n)
        for n in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.scores, again.scores)
    assert np.abs(first.scores - other.scores).max() > 1e-3


def test_the_test_features_are_scaled_by_the_training_ones() -> None:
    """Of each class alone: were the test set standardized by itself, half would be wrong."""
    train, test = gaussians(400, 12, 1), gaussians(800, 12, 2)
    only = test[1] == 2
    assert accuracy(train, (test[0][only], test[1][only]), 4) > 0.99


def test_the_best_setting_on_held_out_videos_is_chosen() -> None:
    """Hardly any learning rate, or so much decay that all kernels vanish, is never it."""
    train, test = gaussians(600, 4, 1), gaussians(1000, 4, 2)
    views = train[0][:, np.newaxis], train[1]
    probed = linear_probe(views, test[0][:, np.newaxis], 4, Probe((1e-7, 3.0), (0.0, 0.3)))
    assert (probed.learning_rate, probed.weight_decay) == pytest.approx((3.0, 0.0))
    alone = linear_probe(views, test[0][:, np.newaxis], 4, Probe((3.0,), (0.0,)))
    np.testing.assert_allclose(probed.scores, alone.scores, atol=1e-6)


@pytest.mark.parametrize(
    ("rates", "decays", "warnings"),
    [
        ((1e-7, 1e-6), (0.0,), ["the edge of its learning rates, 1e-07 to 1e-06"]),
        ((3.0,), (0.3, 0.4), ["the edge of its weight decays, 0.3 to 0.4"]),
        ((3.0,), (0.0, 0.3), []),  # no decay is no edge
        ((1e-6,), (0.3,), []),  # no sweep
    ],
)
def test_a_best_setting_at_the_edge_is_a_warning(
    rates: tuple, decays: tuple, warnings: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    (features, labels), test = gaussians(600, 4, 1), gaussians(10, 4, 2)
    linear_probe((features[:, None], labels), test[0][:, None], 4, Probe(rates, decays, epochs=9))
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == len(warnings)
    for message, warning in zip(found, warnings, strict=True):
        assert warning in message and "probe.Probe." in message


def test_views_vote_by_the_mean_of_their_softmaxes() -> None:
    """A video of three views, of which one shows another class, is still told right."""
    train, test = gaussians(400, 12, 1), gaussians(900, 12, 2)
    order = np.argsort(test[1], kind="stable")
    features, labels = test[0][order], test[1][order]
    views = np.stack([features, features, np.roll(features, 300, axis=0)], axis=1)
    probed = linear_probe((train[0][:, None], train[1]), views, 4)
    one_by_one = linear_probe((train[0][:, None], train[1]), views.reshape(2700, 1, -1), 4)
    expected = one_by_one.scores.reshape(900, 3, 4).mean(axis=1)
    np.testing.assert_allclose(probed.scores, expected, atol=1e-6)
    assert np.mean(probed.scores.argmax(axis=1) == labels) > 0.99
