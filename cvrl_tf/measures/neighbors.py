"""Evaluation without training: k nearest neighbors and retrieval, by the cosine of features."""

import numpy as np

from cvrl_tf.measures import metrics
from cvrl_tf.measures.metrics import Estimate

_BLOCK = 1024  # queries whose similarities exist at a time


def unit(features: np.ndarray) -> np.ndarray:
    """Features float [N, D], each of length 1."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def nearest(queries: np.ndarray, gallery: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The most similar features, exactly.

    Args:
      queries: float [Q, D]; need not be normalized.
      gallery: float [G, D].
      count: K of them, at most G.

    Returns:
      indices int [Q, K] into the gallery, the most similar first, and cosines float32 [Q, K].
    """
    queries, gallery = unit(queries), unit(gallery)
    indices, cosines = [], []
    for begin in range(0, len(queries), _BLOCK):
        similarity = queries[begin : begin + _BLOCK] @ gallery.T
        best = np.argpartition(-similarity, min(count, len(gallery) - 1), axis=1)[:, :count]
        values = np.take_along_axis(similarity, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        indices.append(np.take_along_axis(best, order, axis=1))
        cosines.append(np.take_along_axis(values, order, axis=1))
    return np.concatenate(indices), np.concatenate(cosines).astype(np.float32)


def knn(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    num_classes: int,
    k: int,
    temperature: float,
) -> dict[str, Estimate]:
    """Classification by the votes of the k nearest training videos, each of weight exp(cosine / t).

    Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
    2018, section 3.4, which has k = 200 and t = 0.07 for ImageNet.

    Args:
      train, test: features float [N, D] and labels int [N].
      num_classes: number of classes.
      k: neighbors; no more than there are are taken.
      temperature: t.

    Returns:
      See `metrics.classification`.
    """
    return metrics.classification(votes(train, test[0], num_classes, k, temperature), test[1])


def votes(
    train: tuple[np.ndarray, np.ndarray],
    features: np.ndarray,
    num_classes: int,
    k: int,
    temperature: float,
) -> np.ndarray:
    """Sums of the weights by class, float [N, C]; see `knn`."""
    indices, cosines = nearest(features, train[0], min(k, len(train[0])))
    # Less the largest exponent, which changes no order and can't overflow.
    weights = np.exp((cosines - cosines[:, :1]) / temperature)
    scores = np.zeros([len(features), num_classes])
    np.add.at(scores, (np.arange(len(features))[:, None], train[1][indices]), weights)
    return scores


RANKS = (1, 5, 10, 20)


def retrieval(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]
) -> dict[str, Estimate]:
    """Whether one of the k training videos nearest to a test video is of its class.

    The protocol of the clip-order literature: Xu et al., "Self-supervised Spatiotemporal Learning
    via Video Clip Order Prediction", 2019, section 4.3, which averages 10 clips a video.

    Args:
      train, test: features float [N, D], the mean over a video's clips, and labels int [N].

    Returns:
      "R@1", "R@5", "R@10", "R@20".
    """
    indices, _ = nearest(test[0], train[0], min(max(RANKS), len(train[0])))
    same = train[1][indices] == test[1][:, np.newaxis]
    return {f"R@{k}": metrics.share(same[:, :k].any(axis=1)) for k in RANKS}
