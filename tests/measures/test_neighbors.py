"""Nearest neighbors against scikit-learn."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from cvrl_tf.measures import neighbors

Problem = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def problem() -> tuple[Problem, Problem]:
    """600 training and 1,500 test features of 7 classes that overlap."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(7, 24))

    def split(count: int) -> Problem:
        labels = rng.integers(0, 7, count)
        scale = rng.uniform(0.1, 10, (count, 1))  # lengths, to which the cosine is blind
        features = scale * (means[labels] + 2 * rng.normal(size=(count, 24)))
        return features.astype(np.float32), labels

    return split(600), split(1500)


def test_nearest_are_scikit_learns(problem: tuple) -> None:
    (gallery, _), (queries, _) = problem
    reference = NearestNeighbors(n_neighbors=20, metric="cosine", algorithm="brute").fit(gallery)
    distances, expected = reference.kneighbors(queries)
    indices, cosines = neighbors.nearest(queries, gallery, 20)
    np.testing.assert_allclose(1 - cosines, distances, atol=1e-5)
    assert np.mean(indices == expected) > 0.999  # but for ties by rounding


def test_more_neighbors_than_there_are(problem: tuple) -> None:
    (gallery, _), (queries, _) = problem
    indices, _ = neighbors.nearest(queries[:3], gallery[:5], 5)
    assert np.array_equal(np.sort(indices), np.tile(np.arange(5), (3, 1)))


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (200, 0.5)])
def test_knn_is_scikit_learns(k: int, temperature: float, problem: tuple) -> None:
    train, (features, labels) = problem
    reference = KNeighborsClassifier(
        k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature)
    ).fit(*train)
    ours = neighbors.Knn(k, temperature).votes(train, features, 7)
    expected = reference.predict_proba(features)
    np.testing.assert_allclose(ours / ours.sum(axis=1, keepdims=True), expected, atol=2e-4)
    accuracy = neighbors.Knn(k, temperature)(train, (features, labels), 7)["top1"].value
    assert accuracy == pytest.approx(reference.score(features, labels), abs=1.5 / len(labels))
    assert 0.3 < accuracy < 0.95


def test_retrieval_is_scikit_learns(problem: tuple) -> None:
    train, test = problem
    reference = NearestNeighbors(n_neighbors=20, metric="cosine", algorithm="brute").fit(train[0])
    same = train[1][reference.kneighbors(test[0])[1]] == test[1][:, np.newaxis]
    found = neighbors.retrieval(train, test)
    assert list(found) == ["R@1", "R@5", "R@10", "R@20"]
    for k, estimate in zip((1, 5, 10, 20), found.values(), strict=True):
        expected = same[:, :k].any(axis=1).mean()
        assert estimate.value == pytest.approx(expected, abs=1.5 / len(same))
    assert found["R@1"].value < found["R@5"].value < found["R@20"].value


def test_a_feature_of_zeros_is_far_from_all() -> None:
    _, cosines = neighbors.nearest(np.zeros([1, 3], np.float32), np.eye(3, dtype=np.float32), 2)
    assert np.array_equal(cosines, [[0, 0]])
