"""An encoder beside those that nobody should be fooled by, by every measure of frozen features."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from cvrl_tf import checkpoints
from cvrl_tf.checkpoints import SavedRun
from cvrl_tf.data.pipeline import Pipeline
from cvrl_tf.evaluation.features import Encoder, FeatureStore, calibrate
from cvrl_tf.evaluation.probe import linear_probe
from cvrl_tf.measures import metrics, neighbors
from cvrl_tf.reports import gallery


@dataclasses.dataclass
class FrozenEvaluation:
    """Linear probe, k nearest neighbors and retrieval on cached features.

    The encoders: "trained"; "random", the same at random; "random_calibrated", with the batch
    normalization statistics of the training data; "mean_color", the clip's mean RGB.

    Attributes:
      checkpoint: of the trained encoder; see `checkpoints.resolve`.
      train_data, test_data: of two splits. The test data's views of a video are averaged: their
        softmaxes for the probe, their features for the others.
      num_classes: from `data.pipeline.num_classes`.
      batch: clips in a step of the encoder.
      copies: of the training data, see `features.extract`.
      learning_rates, weight_decays, epochs, standardize: of `linear_probe`.
      k, temperature: of `neighbors.knn`.
      cell: which figure of the paper this measures, such as "1/CVRL"; see `reports.tables`.
      seed: of the random encoder, which with the run's seed is the one the run began with; and of
        the probe.
    """

    checkpoint: str | Path
    train_data: Pipeline
    test_data: Pipeline
    num_classes: int
    batch: int
    copies: int = 1
    learning_rates: Sequence[float] = (1.0, 3.0, 10.0, 30.0)
    weight_decays: Sequence[float] = (0.0, 1e-4, 1e-3)
    epochs: int = 100
    standardize: bool = True
    k: int = 20
    temperature: float = 0.07
    cell: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises:
        FileNotFoundError, ValueError: the checkpoint is not there or damaged.
        """
        self._run = SavedRun.open(self.checkpoint)
        self._trained = self._run.load_encoder()
        keras.utils.set_random_seed(self.seed)
        self._random = self._run.new_encoder()

    def run(self, cache: str | Path, pictures: str | Path) -> dict[str, Any]:
        """What a report needs, for JSON.

        Args:
          cache: folder of the `FeatureStore`.
          pictures: folder for moving pictures of a few test videos and of those nearest to them.

        Returns:
          cell; seed; classes, their names; protocol, how the figures came about; encoders, by name
          and measure; and of the trained encoder: test_features, their file; confusion, the number
          of test videos by class and class predicted; gallery, see `gallery.nearest_videos`.
        """
        store = FeatureStore(cache)
        random = checkpoints.fingerprint(self._random)

        @functools.cache
        def calibrated() -> keras.Model:
            calibrate(self._random, self.train_data, self.batch)  # after the last use without
            return self._random

        made: dict[str, tuple[str, Callable[[], Encoder]]] = {
            "trained": (checkpoints.fingerprint(self._trained), lambda: self._trained),
            "random": (random, lambda: self._random),
            "random_calibrated": (f"{random} calibrated on {self.train_data.facts}", calibrated),
            "mean_color": ("the mean", lambda: mean_color),
        }
        measured = {
            name: self._measured(name, made_of, encoder, store)
            for name, (made_of, encoder) in made.items()
        }
        protocol = {
            "features": f"cached, {self.copies} pass(es) over the training data",
            "checkpoint": self._run.prefix,
            "epochs": self.epochs,
            "train": {**self.train_data.summary, **self.train_data.facts},
            "test": {**self.test_data.summary, **self.test_data.facts},
        }
        made_of, encoder = made["trained"]  # whose features are there by now
        train = store.get("trained", made_of, encoder, self.train_data, self.batch, self.copies)
        test = store.get("trained", made_of, encoder, self.test_data, self.batch)
        return {
            "cell": self.cell,
            "seed": self.seed,
            "classes": self.test_data.labels,
            "protocol": protocol,
            "encoders": {name: result for name, (result, _) in measured.items()},
            "confusion": _confusion(test.labels, measured["trained"][1], self.num_classes),
            "test_features": str(store.path("trained", made_of, self.test_data)),
            # Where damaged records are passed over, features don't tell where their videos are.
            "gallery": []
            if self.train_data.skip_damaged or self.test_data.skip_damaged
            else gallery.nearest_videos(
                (self.train_data, train), (self.test_data, test), Path(pictures)
            ),
        }

    def _measured(
        self, name: str, made_of: str, encoder: Callable[[], Encoder], store: FeatureStore
    ) -> tuple[dict[str, Any], np.ndarray]:
        """All measures, for JSON, and the class that the probe predicts for each test video."""
        train = store.get(name, made_of, encoder, self.train_data, self.batch, self.copies)
        test = store.get(name, made_of, encoder, self.test_data, self.batch)
        probed = linear_probe(
            (train.views, train.labels),
            test.views,
            self.num_classes,
            self.learning_rates,
            self.weight_decays,
            self.epochs,
            standardize=self.standardize,
            seed=self.seed,
        )
        videos, tests = train.of_videos, test.of_videos
        nearest = neighbors.knn(videos, tests, self.num_classes, self.k, self.temperature)
        found = {
            "linear_probe": metrics.classification(probed.scores, test.labels),
            "knn": nearest,
            "retrieval": neighbors.retrieval(videos, tests),
        }
        print(f"{name:<18} linear probe {found['linear_probe']['top1']}", flush=True)
        print(f"{'':<18} {self.k:>3} nearest  {nearest['top1']}", flush=True)
        result: dict[str, Any] = {
            measure: {key: dataclasses.asdict(value) for key, value in values.items()}
            for measure, values in found.items()
        }
        result["linear_probe"]["learning_rate"] = probed.learning_rate
        result["linear_probe"]["weight_decay"] = probed.weight_decay
        return result, probed.scores.argmax(axis=1)


def _confusion(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> list[list[int]]:
    counts = np.zeros([num_classes, num_classes], int)
    np.add.at(counts, (labels, predicted), 1)
    return counts.tolist()


def mean_color(frames: tf.Tensor, training: bool) -> tf.Tensor:
    """The mean RGB of clips, float [N, 3]: no encoder at all."""
    return tf.reduce_mean(frames, axis=[1, 2, 3])
