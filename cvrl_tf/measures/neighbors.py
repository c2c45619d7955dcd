"""Evaluation without training: k nearest neighbors and retrieval, by the cosine of features."""

import dataclasses

import numpy as np

from cvrl_tf.measures import metrics
from cvrl_tf.measures.metrics import Estimate

Labeled = tuple[np.ndarray, np.ndarray]  # features float [N, D] and labels int [N]

_BLOCK = 1024  # queries whose similarities are in memory at a time


def unit(features: np.ndarray) -> np.ndarray:
    """Scale features, float [N, D], to length 1."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def nearest(queries: np.ndarray, gallery: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the most similar features by exact search.

    Args:
      queries: float [Q, D]; need not be normalized.
      gallery: float [G, D].
      count: K, the number to find; at most G.

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


@dataclasses.dataclass(frozen=True)
class Knn:
    """Classify by the votes of the k nearest training videos, each of weight exp(cosine / t).

    Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
    2018, section 3.4, which has k = 200 and t = 0.07 for ImageNet.

    Attributes:
      k: number of neighbors; with fewer training videos, all of them vote.
      temperature: t.
    """

    k: int = 20
    temperature: float = 0.07

    def __call__(self, train: Labeled, test: Labeled, num_classes: int) -> dict[str, Estimate]:
        """Measure the classifier on test videos.

        Args:
          train, test: features float [N, D] and labels int [N].
          num_classes: C.

        Returns:
          See `metrics.classification`.
        """
        return metrics.classification(self.votes(train, test[0], num_classes), test[1])

    def votes(self, train: Labeled, features: np.ndarray, num_classes: int) -> np.ndarray:
        """Sum the weights of the neighbors by class.

        Args:
          train: features float [N, D] and labels int [N].
          features: float [M, D].
          num_classes: C.

        Returns:
          float [M, C], up to a factor for each row.
        """
        metrics.check_labels(train[1], num_classes)
        indices, cosines = nearest(features, train[0], min(self.k, len(train[0])))
        # Less the largest exponent, which changes no order and can't overflow.
        weights = np.exp((cosines - cosines[:, :1]) / self.temperature)
        scores = np.zeros([len(features), num_classes])
        np.add.at(scores, (np.arange(len(features))[:, None], train[1][indices]), weights)
        return scores


RANKS = (1, 5, 10, 20)


def retrieval(train: Labeled, test: Labeled) -> dict[str, Estimate]:
    """Measure how often one of the k training videos nearest to a test video is of its class.

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
