"""Contrastive pretraining (section 3.1 of the paper)."""

from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras

from cvrl_tf import distribution
from cvrl_tf.augment.chain import ViewChains
from cvrl_tf.losses.info_nce import InfoNCE
from cvrl_tf.losses.result import LossResult
from cvrl_tf.models.encoder import Encoder
from cvrl_tf.tasks.pretext.base import Outputs, PretextTask
from cvrl_tf.tasks.task import Batch

# Queries, keys and offset, as of `InfoNCE`.
ContrastiveLoss = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], LossResult]


class ContrastiveLearner(PretextTask):
    """Two clips of a video attract, clips of other videos repel."""

    metric_names = ("contrastive_accuracy", "contrastive_entropy", "feature_spread")
    min_batch = 2  # the clips of another video are the negatives

    def __init__(
        self,
        encoder: Encoder,
        head: keras.Model,
        augment: ViewChains | None = None,
        loss: ContrastiveLoss | None = None,
        weight_decay: float = 0.0,
        micro_batch: int | None = None,
    ) -> None:
        """Args:
        head: features [N, D] to embeddings [N, E].
        loss: contrasts the embeddings of this replica with those of all; the paper's if None.
        encoder, augment, weight_decay, micro_batch: see `PretextTask`.
        """
        super().__init__(encoder, {"head": head}, augment, weight_decay, micro_batch)
        self._loss = loss or InfoNCE(temperature=0.1)

    def call(self, frames: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Compute embeddings, float32 [N, E], of frames, float [N, T, H, W, 3] in [0, 1]."""
        return self.head(self.encoder(frames, training=training), training=training)

    def losses(self, outputs: Outputs, batch: Batch) -> LossResult:
        """Compute InfoNCE of each clip against the clips of all replicas (equation 1)."""
        del batch
        keys, offset = distribution.gather(outputs["head"])
        losses, metrics = self._loss(outputs["head"], keys, offset)
        spread = feature_spread(outputs["features"])
        return LossResult(losses, {**metrics, "feature_spread": spread})


def feature_spread(features: tf.Tensor) -> tf.Tensor:
    """Measure how far features of different clips lie apart, float32 []; 0 is collapse.

    The root mean square distance of the features, scaled to unit length, from their mean (Chen and
    He, "Exploring Simple Siamese Representation Learning", 2021, section 4.1, up to a constant).

    Args:
      features: [N, D].
    """
    unit = tf.math.l2_normalize(tf.cast(features, tf.float32), axis=1)
    return tf.sqrt(tf.reduce_sum(tf.math.reduce_variance(unit, axis=0)))
