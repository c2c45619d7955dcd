"""How often a classifier is right, and how far the figure may be trusted."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure and how far it may be trusted.

    Attributes:
      value: in [0, 1].
      low, high: 95 % interval by the percentile bootstrap over test videos (Efron, "Bootstrap
        Methods", 1979). It says nothing about other seeds of training.
      count: number of test videos.
    """

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        low, high = 100 * self.low, 100 * self.high
        return f"{100 * self.value:5.1f} %  (95 % interval {low:.1f} to {high:.1f})"


def classification(
    scores: np.ndarray, labels: np.ndarray, resamples: int = 2000, seed: int = 0
) -> dict[str, Estimate]:
    """Top-1, top-5 and the mean over the classes of each one's top-1.

    Args:
      scores: float [N, C]; a tie goes to the lower class.
      labels: int [N].
      resamples: of the bootstrap.
      seed: of the bootstrap.

    Returns:
      top1, top5, mean_per_class. Classes without a test video (in a resample) don't count.
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    hits = order == labels[:, np.newaxis]
    top1, top5 = hits[:, 0], hits[:, :5].any(axis=1)
    weights = _resampled(len(labels), resamples, seed)
    classes = np.eye(scores.shape[1])[labels]

    def mean_per_class(weights: np.ndarray) -> np.ndarray:
        """Of resamples [B, N], [B]."""
        videos, right = weights @ classes, (weights * top1) @ classes
        present = videos > 0
        return (right / np.where(present, videos, 1)).sum(axis=1) / present.sum(axis=1)

    return {
        "top1": share(top1, resamples, seed),
        "top5": share(top5, resamples, seed),
        "mean_per_class": _estimate(
            mean_per_class(np.ones([1, len(labels)]))[0], mean_per_class(weights), len(labels)
        ),
    }


def share(hits: np.ndarray, resamples: int = 2000, seed: int = 0) -> Estimate:
    """The share of hits, bool [N]; see `classification`."""
    found = _resampled(len(hits), resamples, seed) @ hits / len(hits)
    return _estimate(np.mean(hits), found, len(hits))


def _resampled(count: int, resamples: int, seed: int) -> np.ndarray:
    """How often each of `count` videos stands in each resample, [resamples, count]."""
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(count, np.full(count, 1 / count), size=resamples)
    return counts.astype(np.float32)


def _estimate(value: float, resampled: np.ndarray, count: int) -> Estimate:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high), count)
