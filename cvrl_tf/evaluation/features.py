"""Features of a split, through a frozen encoder."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tf_keras as keras

from cvrl_tf.data.pipeline import Pipeline

# Called as encoder(frames, training=...).
Encoder = Callable[..., tf.Tensor]


def _batches(data: Pipeline, batch: int) -> tf.data.Dataset:
    return data.once(batch, tf.distribute.InputContext(num_replicas_in_sync=1))


def extract(encoder: Encoder, data: Pipeline, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of each video of a split, in the order of the records.

    Args:
      encoder: float frames [N, T, H, W, 3] in [0, 1] to features [N, D]; called in inference mode.
      data: its V views of a video are averaged.
      batch: videos in a step.

    Returns:
      features float32 [N, D], labels int32 [N].
    """

    batches = _batches(data, batch)

    def features_of(views: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(views)
        frames = tf.reshape(views, tf.concat([[-1], shape[2:]], axis=0))
        features = encoder(tf.image.convert_image_dtype(frames, tf.float32), training=False)
        return tf.reduce_mean(tf.reshape(features, [shape[0], shape[1], -1]), axis=1)

    # Traced once, for the shape that all batches have.
    traced = tf.function(features_of).get_concrete_function(batches.element_spec["frames"])
    features, labels = [], []
    steps = -(-data.num_examples // batch)
    progress = keras.utils.Progbar(steps, unit_name="batch")
    for examples in batches:
        features.append(traced(examples["frames"]).numpy())
        labels.append(examples["label"].numpy())
        progress.add(1)
    count = data.num_examples
    return np.concatenate(features)[:count], np.concatenate(labels)[:count]


def calibrate(encoder: keras.Model, data: Pipeline, batch: int) -> None:
    """Replaces the batch normalisation statistics by those of a split; the weights stay.

    A randomly initialised encoder has statistics (0 and 1) that fit nothing; with fitting ones it
    is a harder baseline to beat. The plain mean over the batches is taken, layer by layer at once,
    which for a fixed network is exact up to the batches' own variation.

    Args:
      encoder: built; changed in place.
      data: what to take the statistics of.
      batch: videos in a step.
    """
    norms = [
        layer for layer in encoder.submodules if isinstance(layer, keras.layers.BatchNormalization)
    ]
    momenta = [norm.momentum for norm in norms]
    for number, examples in enumerate(_batches(data, batch)):
        for norm in norms:
            norm.momentum = number / (number + 1)  # a running mean over all batches so far
        frames = tf.image.convert_image_dtype(examples["frames"][:, 0], tf.float32)
        encoder(frames, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
