"""The contract of all encoders: clips to feature maps, and to features."""

import abc
from typing import Any

import tensorflow as tf
import tf_keras as keras

from cvrl_tf.models import convolution
from cvrl_tf.models.rebuilding import Rebuildable

INPUT_SHAPE = (None, None, None, None, 3)  # any number of clips, frames, and any size


class Encoder(Rebuildable, abc.ABC):
    """Base class of encoders.

    A subclass sets `feature_dim`, keeps the arguments of its constructor in `_config`, and says its
    `stages` and `feature_maps`. Pretraining, probe, fine-tuning, export and embedding then work
    with it. Decorate it with `keras.saving.register_keras_serializable("cvrl_tf")`: `encoder.json`
    of a run names the class by which it is rebuilt.

    Attributes:
      feature_dim: D.
    """

    feature_dim: int

    @property
    @abc.abstractmethod
    def stages(self) -> list[list[keras.layers.Layer]]:
        """The layers from the stem to the top, in groups that share a learning rate."""

    @abc.abstractmethod
    def feature_maps(self, frames: tf.Tensor, training: bool | None = None) -> list[tf.Tensor]:
        """Compute one feature map a stage.

        Args:
          frames: float [N, T, H, W, 3] in [0, 1].
          training: whether batch normalization uses the statistics of the batch.

        Returns:
          One tensor [N, T', H', W', C] for each of `stages`, of the layers' compute dtype.
        """

    def feature_map(self, frames: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Compute the last feature map, [N, T', H', W', D]; see `feature_maps`."""
        return self.feature_maps(frames, training)[-1]

    def call(self, frames: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Compute features: the global average of `feature_map`.

        Args:
          frames: float [N, T, H, W, 3] in [0, 1].
          training: whether batch normalization uses the statistics of the batch.

        Returns:
          float32 [N, D], not normalized.
        """
        last = self.feature_map(frames, training)
        return tf.reduce_mean(tf.cast(last, tf.float32), axis=[1, 2, 3])

    def build(self, input_shape: Any = INPUT_SHAPE) -> None:
        with convolution.no_gradients():
            super().build(input_shape)
