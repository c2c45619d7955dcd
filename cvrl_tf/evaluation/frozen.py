"""Evaluation of a frozen encoder beside baselines that have learned nothing."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from cvrl_tf import checkpoints
from cvrl_tf.checkpoints import SavedRun
from cvrl_tf.data.pipeline import Pipeline
from cvrl_tf.evaluation.features import Encoder, Features, FeatureStore, calibrate
from cvrl_tf.evaluation.probe import Probe, linear_probe
from cvrl_tf.measures import metrics, neighbors

VERSION = 2  # of the JSON file; version 1 has no "version" and no "gain_over_baselines"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
      results: for JSON; see `FrozenEvaluation.run`.
      train, test: features of the trained encoder.
    """

    results: dict[str, Any]
    train: Features
    test: Features


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """An encoder to measure: its name, what determines its weights, and how to get it."""

    name: str
    made_of: str
    encoder: Callable[[], Encoder]


@dataclasses.dataclass
class FrozenEvaluation:
    """Linear probe, k nearest neighbors and retrieval on cached features.

    The encoders: "trained"; "random", the same with random weights; "random_calibrated", with the
    batch normalization statistics of the training data; "mean_color", the clip's mean RGB.

    Attributes:
      checkpoint: of the trained encoder; see `checkpoints.resolve`.
      train_data, test_data: two labeled splits. The views of a test video are averaged: their
        softmaxes for the probe, their features for the others.
      batch: number of clips that the encoder sees at a time.
      probe: settings of the linear probe.
      knn: classifier by nearest neighbors.
      copies: passes over the training data, see `features.extract`.
      cell: which figure of the paper this measures, such as "1/CVRL"; see `reports.tables`.
      seed: seed of the probe and of the random encoder. With the run's seed, the random encoder is
        the one the run began with.
    """

    checkpoint: str | Path
    train_data: Pipeline
    test_data: Pipeline
    batch: int
    probe: Probe
    knn: neighbors.Knn
    copies: int = 1
    cell: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Load the encoder and build the random one.

        Raises:
          FileNotFoundError: the checkpoint is missing.
          ValueError: the checkpoint is damaged, a video has no class, or all training videos have
            the same.
        """
        for data in (self.train_data, self.test_data):
            data.check_labels()
        videos, classes = self.train_data.num_examples, len(self.train_data.class_counts)
        if classes < 2:  # and so at least two videos, one of which the probe holds out
            raise ValueError(
                f"The training split has {videos} videos of {classes} class: evaluation needs two "
                "classes or more. Add videos of others, or choose another split."
            )
        self._run = SavedRun.open(self.checkpoint)
        self._trained = self._run.load_encoder()
        keras.utils.set_random_seed(self.seed)
        self._random = self._run.new_encoder()

    @property
    def num_classes(self) -> int:
        """Number of classes of the training data."""
        return len(self.train_data.labels)

    def run(self, cache: str | Path) -> Evaluation:
        """Measure all encoders.

        Args:
          cache: folder of the `FeatureStore`.

        Returns:
          `results` has: version; cell; seed; classes, their names; protocol, how the figures came
          about; encoders, by name and measure; gain_over_baselines, see
          `metrics.gain_over_baselines`; and of the trained encoder: test_features, their file, and
          confusion, the number of test videos by class and predicted class.
        """
        store = FeatureStore(cache)
        candidates = self._candidates()
        measured = {each.name: self._measured(each, store) for each in candidates}
        encoders = {name: result for name, (result, _) in measured.items()}
        trained = candidates[0]
        train, test = self._features(trained, store)  # computed by now
        results = {
            "version": VERSION,
            "cell": self.cell,
            "seed": self.seed,
            "classes": self.test_data.labels,
            "protocol": self._protocol(),
            "encoders": encoders,
            "gain_over_baselines": metrics.gain_over_baselines(encoders),
            "confusion": self._confusion(test.labels, measured[trained.name][1]),
            "test_features": str(store.path(trained.name, trained.made_of, self.test_data)),
        }
        return Evaluation(results, train, test)

    def _candidates(self) -> list[_Candidate]:
        """List the encoders, the trained one first."""
        random = checkpoints.fingerprint(self._random)

        @functools.cache
        def calibrated() -> keras.Model:
            calibrate(self._random, self.train_data, self.batch)  # "random" has been used by now
            return self._random

        return [
            _Candidate("trained", checkpoints.fingerprint(self._trained), lambda: self._trained),
            _Candidate("random", random, lambda: self._random),
            _Candidate(
                "random_calibrated",
                f"{random} calibrated on {self.train_data.facts}",
                calibrated,
            ),
            _Candidate("mean_color", "the mean", lambda: mean_color),
        ]

    def _protocol(self) -> dict[str, Any]:
        return {
            "features": f"cached, {self.copies} pass(es) over the training data",
            "checkpoint": self._run.prefix,
            "epochs": self.probe.epochs,
            "train": {**self.train_data.summary, **self.train_data.facts},
            "test": {**self.test_data.summary, **self.test_data.facts},
        }

    def _features(self, candidate: _Candidate, store: FeatureStore) -> tuple[Features, Features]:
        """Return the features of the training and of the test data."""
        key = candidate.name, candidate.made_of, candidate.encoder
        return (
            store.get(*key, self.train_data, self.batch, self.copies),
            store.get(*key, self.test_data, self.batch),
        )

    def _measured(
        self, candidate: _Candidate, store: FeatureStore
    ) -> tuple[dict[str, Any], np.ndarray]:
        """Return all measures, for JSON, and the class the probe predicts for each test video."""
        train, test = self._features(candidate, store)
        probed = linear_probe(
            (train.views, train.labels), test.views, self.num_classes, self.probe, self.seed
        )
        videos, tests = train.of_videos, test.of_videos
        found = {
            "linear_probe": metrics.classification(probed.scores, test.labels),
            "knn": self.knn(videos, tests, self.num_classes),
            "retrieval": neighbors.retrieval(videos, tests),
        }
        print(f"{candidate.name:<18} linear probe {found['linear_probe']['top1']}", flush=True)
        print(f"{'':<18} {self.knn.k:>3} nearest  {found['knn']['top1']}", flush=True)
        result: dict[str, Any] = {
            measure: {key: dataclasses.asdict(value) for key, value in values.items()}
            for measure, values in found.items()
        }
        result["linear_probe"]["learning_rate"] = probed.learning_rate
        result["linear_probe"]["weight_decay"] = probed.weight_decay
        return result, probed.scores.argmax(axis=1)

    def _confusion(self, labels: np.ndarray, predicted: np.ndarray) -> list[list[int]]:
        counts = np.zeros([self.num_classes, self.num_classes], int)
        np.add.at(counts, (labels, predicted), 1)
        return counts.tolist()


def mean_color(frames: tf.Tensor, training: bool) -> tf.Tensor:
    """Return the mean RGB of clips, float [N, 3]: a baseline without an encoder."""
    return tf.reduce_mean(frames, axis=[1, 2, 3])
