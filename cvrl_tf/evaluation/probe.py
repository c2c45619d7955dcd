"""Linear probe on cached features: the everyday form of the paper's linear evaluation."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from cvrl_tf.measures import metrics
from cvrl_tf.optim.schedules import warmup_cosine

_MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True)
class Probed:
    """The predictions of a linear probe for test videos.

    Attributes:
      scores: float32 [N, C], the mean of the softmaxes of a video's views.
      learning_rate, weight_decay: the pair with the highest accuracy on held-out training videos.
    """

    scores: np.ndarray
    learning_rate: float
    weight_decay: float


@dataclasses.dataclass(frozen=True)
class Probe:
    """Settings of the linear probe.

    Attributes:
      learning_rates, weight_decays: values to try, every one with every other. The weight decay is
        the factor of half the squared kernel.
      epochs: passes over the training features.
      batch: features in a step. What does not fill one is left over, another part in each epoch.
      standardize: by mean and deviation of the training features, over the square root of D, so
        that one sweep suits encoders whose features differ in scale. If False, each feature is
        scaled to unit length, as in the authors' probe (whose learning rate is 32).
    """

    learning_rates: Sequence[float] = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
    weight_decays: Sequence[float] = (0.0, 1e-5, 1e-4, 1e-3)
    epochs: int = 100
    batch: int = 256
    standardize: bool = True

    @property
    def sweep(self) -> np.ndarray:
        """All pairs of learning rate and weight decay, float32 [S, 2]."""
        return np.array(
            [(r, d) for r in self.learning_rates for d in self.weight_decays], np.float32
        )


def linear_probe(
    train: tuple[np.ndarray, np.ndarray],
    test_features: np.ndarray,
    num_classes: int,
    probe: Probe | None = None,
    seed: int = 0,
) -> Probed:
    """Train a linear classifier on features: SGD with momentum 0.9, warm-up (5 of 100 epochs) and
    cosine decay, as the authors' probe.

    All pairs of the sweep train at once, on four fifths of the videos. The pair with the highest
    accuracy on the last fifth then trains on all of them. Test videos choose nothing. A warning
    says if a value beyond those of the sweep may be better.

    Args:
      train: features float32 [N, V, D], of which each view is an example, and labels int32 [N].
      test_features: float32 [M, V', D].
      num_classes: C; the labels are from 0 to C - 1.
      probe: settings; `Probe()` if None.
      seed: seed of the order of the features and of the choice of held-out videos.

    Raises:
      ValueError: a label is none of a class, or there are fewer than two videos.
    """
    probe = probe or Probe()
    features, labels = train
    metrics.check_labels(labels, num_classes)
    if len(labels) < 2:
        raise ValueError(f"{len(labels)} training videos: the probe holds one out, so give two.")
    mean = features.mean(axis=(0, 1))
    scale = (features.std(axis=(0, 1)) + 1e-6) * np.sqrt(features.shape[-1])

    def scaled(rows: np.ndarray) -> np.ndarray:
        if probe.standardize:
            return (rows - mean) / scale
        return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)

    features, tests = scaled(features), scaled(test_features)
    sweep = probe.sweep
    if len(sweep) > 1:
        order = np.random.default_rng(seed).permutation(len(labels))
        held_out, rest = np.split(order, [max(1, len(order) // 5)])
        weights = _fit((features[rest], labels[rest]), num_classes, sweep, probe, seed)
        right = _scores(features[held_out], *weights).argmax(axis=-1) == labels[held_out]
        accuracy = right.mean(axis=1)
        _warn_of_edges(probe, sweep[accuracy == accuracy.max()])
        sweep = sweep[[np.argmax(accuracy)]]
    weights = _fit((features, labels), num_classes, sweep, probe, seed)
    (learning_rate, weight_decay) = sweep[0].tolist()
    return Probed(_scores(tests, *weights)[0], learning_rate, weight_decay)


def _warn_of_edges(probe: Probe, best: np.ndarray) -> None:
    """Warn if the best pairs, float32 [P, 2], all have the first or last value that was tried.

    A weight decay of 0 is no edge: there is nothing below.
    """
    for name, found in zip(("learning_rates", "weight_decays"), best.T, strict=True):
        tried = np.unique(np.float32(getattr(probe, name)))
        edges = [edge for edge in (tried[0], tried[-1]) if edge > 0]
        if len(tried) > 1 and np.isin(found, edges).all():
            logging.warning(
                "The linear probe is best at %g, the edge of its %s, %g to %g: try others with "
                '--gin_param="probe.Probe.%s=(...)".',
                *(found[0], name.replace("_", " "), tried[0], tried[-1], name),
            )


def _scores(features: np.ndarray, kernels: tf.Tensor, biases: tf.Tensor) -> np.ndarray:
    """Average the softmaxes of the views: float32 [S, N, C], of features [N, V, D]."""
    logits = tf.einsum("nvd,sdc->snvc", features, kernels) + biases[:, None, None]
    return tf.reduce_mean(tf.nn.softmax(logits), axis=2).numpy()


def _fit(
    train: tuple[np.ndarray, np.ndarray],
    num_classes: int,
    sweep: np.ndarray,
    probe: Probe,
    seed: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Train kernels [S, D, C] and biases [S, C], one for each pair of the sweep [S, 2].

    They begin at zero: the problem is convex.
    """
    features, labels = train
    epochs = probe.epochs
    num_views, dim = features.shape[1:]
    rows = tf.constant(features.reshape(-1, dim), tf.float32)
    targets = tf.one_hot(np.repeat(labels, num_views), num_classes)
    batch = min(probe.batch, len(rows))
    steps = len(rows) // batch
    schedule = warmup_cosine(
        steps, epochs, batch, learning_rate=1.0, base_batch=batch, warmup_epochs=epochs // 20
    )
    rates, decays = (tf.constant(each)[:, None, None] for each in sweep.T)

    @tf.function
    def trained() -> tuple[tf.Tensor, tf.Tensor]:
        kernels = moved = tf.zeros([len(sweep), dim, num_classes])
        biases = moved_biases = tf.zeros([len(sweep), 1, num_classes])
        for epoch in tf.range(epochs):
            order = tf.random.experimental.stateless_shuffle(tf.range(len(rows)), [seed, epoch])
            for step in tf.range(steps):
                chosen = order[step * batch : (step + 1) * batch]
                x, y = tf.gather(rows, chosen), tf.gather(targets, chosen)
                # The gradient of the mean cross-entropy by the logits.
                slope = tf.nn.softmax(tf.einsum("bd,sdc->sbc", x, kernels) + biases) - y
                slope /= tf.cast(batch, tf.float32)
                rate = rates * schedule(epoch * steps + step)
                gradient = tf.einsum("bd,sbc->sdc", x, slope) + decays * kernels
                moved = _MOMENTUM * moved - rate * gradient
                total = tf.reduce_sum(slope, axis=1, keepdims=True)
                moved_biases = _MOMENTUM * moved_biases - rate * total
                kernels, biases = kernels + moved, biases + moved_biases
        return kernels, biases[:, 0]

    # A plain call would warn that each probe is traced again.
    return trained.get_concrete_function()()
