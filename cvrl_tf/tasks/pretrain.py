"""Contrastive pretraining (section 3.1 of the paper)."""

import tensorflow as tf
import tf_keras as keras

from cvrl_tf import distribution
from cvrl_tf.augment.chain import ViewChains
from cvrl_tf.losses.info_nce import (
    blocked_info_nce,
    contrastive_accuracy,
    contrastive_entropy,
    info_nce,
)
from cvrl_tf.losses.weight_decay import l2_of_kernels


class ContrastiveLearner(keras.Model):
    """Two clips of a video attract, clips of other videos repel."""

    def __init__(
        self,
        encoder: keras.Model,
        head: keras.Model,
        augment: ViewChains,
        temperature: float = 0.1,
        weight_decay: float = 0.0,
        block: int | None = None,
    ) -> None:
        """Args:
        encoder: frames [N, T, H, W, 3] to features [N, D].
        head: features [N, D] to embeddings [N, E].
        augment: uint8 views [B, 2, T, H, W, 3] to float32 frames [2B, T, H, W, 3].
        temperature: of InfoNCE; the paper has 0.1.
        weight_decay: factor of the L2 loss on all kernels; 1e-6 in the authors' code.
        block: see `blocked_info_nce`, for batches whose similarities don't fit into memory;
          None for all at once, which is faster.
        """
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.augment = augment
        self._temperature = temperature
        self._weight_decay = weight_decay
        self._block = block
        names = ("loss", "contrastive_accuracy", "contrastive_entropy", "weight_decay")
        self._means = {name: keras.metrics.Mean(name=name) for name in names}
        encoder.build((None, None, None, None, 3))
        head.build((None, encoder.feature_dim))
        self.built = True

    @property
    def checkpoint_roots(self) -> dict[str, keras.Model]:
        """What a checkpoint keeps apart, by name."""
        return {"encoder": self.encoder, "head": self.head}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return list(self._means.values())

    def call(self, frames: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Embeddings, float32 [N, E], of frames, float [N, T, H, W, 3] in [0, 1]."""
        return self.head(self.encoder(frames, training=training), training=training)

    def compute_losses(
        self, batch: dict[str, tf.Tensor], training: bool
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """This replica's part of the loss.

        Args:
          batch: of `data.pipeline`, with two views.
          training: whether batch normalisation uses the statistics of the batch.

        Returns:
          What to differentiate: its sum over the replicas is the mean loss over the global batch
          plus weight decay, so that summed gradients need no further scaling. And the metrics,
          each the mean over this replica's anchors.
        """
        frames = self.augment(batch["frames"], batch["seeds"])
        # Both views in one pass, so that batch normalisation sees them together.
        embeddings = self(frames, training=training)
        keys, offset = distribution.gather(embeddings)
        if self._block:
            losses, accuracies, entropies = blocked_info_nce(
                embeddings, keys, offset, self._temperature, self._block
            )
        else:
            losses, logits, labels = info_nce(embeddings, keys, offset, self._temperature)
            accuracies = contrastive_accuracy(logits, labels)
            entropies = contrastive_entropy(logits)
        decay = self._weight_decay * l2_of_kernels(self.trainable_variables)
        loss = tf.reduce_mean(losses)
        metrics = {
            "loss": loss,
            "contrastive_accuracy": tf.reduce_mean(accuracies),
            "contrastive_entropy": tf.reduce_mean(entropies),
            "weight_decay": decay,
        }
        return (loss + decay) / distribution.num_replicas(), metrics

    def train_step(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            objective, metrics = self.compute_losses(batch, training=True)
        self.optimizer.minimize(objective, self.trainable_variables, tape=tape)
        for name, value in metrics.items():
            self._means[name].update_state(value)
        return {metric.name: metric.result() for metric in self.metrics}
