"""Accuracies with their 95 % intervals."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A share and its 95 % interval.

    Attributes:
      value: in [0, 1].
      low, high: 95 % interval by the percentile bootstrap over test videos (Efron, "Bootstrap
        Methods", 1979). It does not cover other seeds of training.
      count: number of test videos.
    """

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        low, high = 100 * self.low, 100 * self.high
        return f"{100 * self.value:5.1f} %  (95 % interval {low:.1f} to {high:.1f})"


def check_labels(labels: np.ndarray, num_classes: int) -> None:
    """Raise a ValueError if labels, int [N], are no indices of classes, such as -1 of no class."""
    if wrong := np.flatnonzero((labels < 0) | (labels >= num_classes)).tolist():
        raise ValueError(
            f"{len(wrong)} of {len(labels)} videos have no class of the {num_classes}: the first, "
            f"number {wrong[0]}, has the label {labels[wrong[0]]}. Leave them out."
        )


def classification(
    scores: np.ndarray, labels: np.ndarray, resamples: int = 2000, seed: int = 0
) -> dict[str, Estimate]:
    """Measure top-1, top-5 and mean per-class accuracy.

    Args:
      scores: float [N, C]; of equal scores the lower class counts as higher.
      labels: int [N], from 0 to C - 1.
      resamples: number of bootstrap resamples.
      seed: seed of the bootstrap.

    Returns:
      top1, top5 and mean_per_class. The mean leaves out classes without a test video, in each
      resample too.
    """
    check_labels(labels, scores.shape[1])
    order = np.argsort(-scores, axis=1, kind="stable")
    hits = order == labels[:, np.newaxis]
    top1, top5 = hits[:, 0], hits[:, :5].any(axis=1)
    weights = _resampled(len(labels), resamples, seed)
    classes = np.eye(scores.shape[1])[labels]

    def mean_per_class(weights: np.ndarray) -> np.ndarray:
        """Return the mean accuracy [B] of resamples with weights [B, N]."""
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


def gain_over_baselines(encoders: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the linear probe of the trained encoder with that of the best other one.

    Args:
      encoders: `FrozenEvaluation`'s measures by name; the one compared is called "trained".

    Returns:
      baseline, the name of the best other one, and points, the difference of top-1 in percent.
    """
    top1 = {name: of["linear_probe"]["top1"]["value"] for name, of in encoders.items()}
    trained = top1.pop("trained")
    best = max(top1, key=lambda name: top1[name])
    return {"baseline": best, "points": 100 * (trained - top1[best])}


def share(hits: np.ndarray, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Estimate the share of hits, bool [N]; see `classification`."""
    found = _resampled(len(hits), resamples, seed) @ hits / len(hits)
    return _estimate(np.mean(hits), found, len(hits))


def _resampled(count: int, resamples: int, seed: int) -> np.ndarray:
    """Draw how often each of `count` videos is in each resample, [resamples, count]."""
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(count, np.full(count, 1 / count), size=resamples)
    return counts.astype(np.float32)


def _estimate(value: float, resampled: np.ndarray, count: int) -> Estimate:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high), count)
