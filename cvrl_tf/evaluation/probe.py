"""Linear probe on cached features, accuracies with their intervals, and what to compare with."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras

from cvrl_tf import checkpoints
from cvrl_tf.data.pipeline import Pipeline
from cvrl_tf.evaluation.features import Encoder, calibrate, extract


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """A share of right answers and how far it may be trusted.

    Attributes:
      value: in [0, 1].
      low, high: 95 % Wilson score interval (Wilson 1927), over test examples.
      count: number of test examples.
    """

    value: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, right: np.ndarray) -> "Accuracy":
        """Of bool [N]: whether each answer is right."""
        n, p, z = len(right), float(np.mean(right)), 1.959964
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return cls(p, max(0.0, centre - half), min(1.0, centre + half), n)


def linear_probe(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    num_classes: int,
    epochs: int = 300,
    learning_rate: float = 0.01,
    weight_decay: float = 1e-4,
    seed: int = 0,
) -> Accuracy:
    """Trains a linear classifier on features and tests it.

    Features are standardised by the mean and deviation of the training features, so that one
    setting suits encoders whose features differ in scale. Adam over the whole training set.

    Args:
      train, test: features float32 [N, D] and labels int32 [N].
      num_classes: number of classes.
      epochs: steps, each over all training features.
      learning_rate: of Adam, with a cosine to 0.
      weight_decay: factor of the L2 loss on the kernel.
      seed: of the initial weights.

    Returns:
      Top-1 accuracy on `test`.
    """
    mean, deviation = train[0].mean(axis=0), train[0].std(axis=0) + 1e-6
    train_features, test_features = ((f - mean) / deviation for f, _ in (train, test))
    keras.utils.set_random_seed(seed)
    classifier = keras.Sequential([keras.layers.Dense(num_classes, name="classifier")])
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, epochs)
    optimizer = keras.optimizers.Adam(schedule)
    classifier.build((None, train_features.shape[1]))
    optimizer.build(classifier.trainable_variables)
    features, labels = tf.constant(train_features), tf.constant(train[1])

    @tf.function
    def step() -> None:
        with tf.GradientTape() as tape:
            loss = keras.losses.sparse_categorical_crossentropy(
                labels, classifier(features), from_logits=True
            )
            decay = weight_decay * tf.nn.l2_loss(classifier.layers[0].kernel)
            objective = tf.reduce_mean(loss) + decay
        optimizer.minimize(objective, classifier.trainable_variables, tape=tape)

    for _ in range(epochs):
        step()
    predicted = np.argmax(classifier(test_features).numpy(), axis=1)
    return Accuracy.of(predicted == test[1])


class ProbeComparison:
    """The probe of a trained encoder beside those that nobody should be fooled by."""

    def __init__(
        self,
        checkpoint: str | Path,
        train_data: Pipeline,
        test_data: Pipeline,
        num_classes: int,
        batch: int,
        seed: int = 0,
    ) -> None:
        """Args:
          checkpoint: of the trained encoder; see `checkpoints.resolve`.
          train_data, test_data: test views of two splits.
          num_classes: from `data.pipeline.num_classes`.
          batch: videos in a step.
          seed: of the random encoder. With the seed of the run it is the one the run began with.

        Raises:
          FileNotFoundError, ValueError: the checkpoint is not there or damaged.
        """
        self._trained, _ = checkpoints.load_encoder(checkpoint)
        keras.utils.set_random_seed(seed)
        self._random, _ = checkpoints.build_encoder(checkpoint)
        self._train_data, self._test_data = train_data, test_data
        self.num_classes, self._batch, self._seed = num_classes, batch, seed

    def run(self) -> dict[str, Accuracy]:
        """Top-1 on the test data, by encoder.

        Returns:
          trained, random (batch normalisation statistics as initialised), random_calibrated
          (statistics of the training data) and mean_colour (no encoder: the clip's mean RGB).
        """
        results = {
            "trained": self._probe("trained", self._trained),
            "random": self._probe("random", self._random),
        }
        calibrate(self._random, self._train_data, self._batch)
        results["random_calibrated"] = self._probe("random, calibrated", self._random)
        results["mean_colour"] = self._probe("mean colour", _mean_colour)
        return results

    def _probe(self, name: str, encoder: Encoder) -> Accuracy:
        print(f"Features for the probe: {name}", flush=True)
        train = extract(encoder, self._train_data, self._batch)
        test = extract(encoder, self._test_data, self._batch)
        return linear_probe(train, test, self.num_classes, seed=self._seed)


def _mean_colour(frames: tf.Tensor, training: bool) -> tf.Tensor:
    return tf.reduce_mean(frames, axis=[1, 2, 3])
