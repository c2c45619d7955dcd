"""Shares and their intervals against scikit-learn and SciPy."""

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from cvrl_tf.measures import metrics


@pytest.fixture
def problem() -> tuple[np.ndarray, np.ndarray]:
    """Scores [300, 8] that are right now and then, and labels of very different frequency."""
    rng = np.random.default_rng(0)
    labels = rng.choice(8, 300, p=np.array([40, 20, 10, 10, 10, 5, 4, 1]) / 100)
    return rng.normal(size=(300, 8)) + 1.5 * np.eye(8)[labels], labels


def test_as_scikit_learn(problem: tuple) -> None:
    scores, labels = problem
    found = metrics.classification(scores, labels)
    everything = range(8)
    top1 = top_k_accuracy_score(labels, scores, k=1, labels=everything)
    top5 = top_k_accuracy_score(labels, scores, k=5, labels=everything)
    assert found["top1"].value == pytest.approx(top1)
    assert found["top5"].value == pytest.approx(top5) and top5 > top1
    balanced = balanced_accuracy_score(labels, scores.argmax(axis=1))
    assert found["mean_per_class"].value == pytest.approx(balanced)
    assert balanced != pytest.approx(top1, abs=0.005)
    assert all(estimate.count == 300 for estimate in found.values())


def test_intervals_are_scipys_bootstrap(problem: tuple) -> None:
    scores, labels = problem
    found = metrics.classification(scores, labels)
    right = scores.argmax(axis=1) == labels

    def per_class(right: np.ndarray, labels: np.ndarray) -> float:
        return float(np.mean([right[labels == each].mean() for each in np.unique(labels)]))

    for name, samples, statistic in (
        ("top1", (right,), np.mean),
        ("mean_per_class", (right, labels), per_class),
    ):
        expected = scipy.stats.bootstrap(
            samples, statistic, paired=True, vectorized=False, method="percentile", rng=1
        ).confidence_interval
        ours = found[name]
        assert (ours.low, ours.high) == pytest.approx(tuple(expected), abs=0.01)
        assert ours.low < ours.value < ours.high


def test_always_right_is_certain() -> None:
    found = metrics.share(np.ones(7, bool))
    assert (found.value, found.low, found.high, found.count) == (1, 1, 1, 7)
    assert str(found) == "100.0 %  (95 % interval 100.0 to 100.0)"


def test_fewer_than_five_classes() -> None:
    found = metrics.classification(np.eye(3)[[0, 1, 1]], np.array([0, 1, 2]))
    assert found["top1"].value == pytest.approx(2 / 3) and found["top5"].value == 1


def test_gain_is_over_the_best_baseline_whichever_it_is() -> None:
    values = {"trained": 0.9, "random": 0.3, "random_calibrated": 0.2, "mean_color": 0.4}
    encoders = {name: {"linear_probe": {"top1": {"value": v}}} for name, v in values.items()}
    gain = metrics.gain_over_baselines(encoders)
    assert gain == {"baseline": "mean_color", "points": pytest.approx(50)}
