"""Contrastive pretraining (section 3.1 of the paper)."""

import inspect
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras as keras

from cvrl_tf import distribution
from cvrl_tf.augment import presets
from cvrl_tf.augment.chain import ViewChains
from cvrl_tf.losses.info_nce import (
    blocked_info_nce,
    contrastive_accuracy,
    contrastive_entropy,
    info_nce,
)
from cvrl_tf.losses.weight_decay import l2_of_kernels
from cvrl_tf.tasks.task import Task

# Queries, keys, offset and temperature to losses, logits and labels; see `info_nce`.
Objective = Callable[
    [tf.Tensor, tf.Tensor, tf.Tensor, float], tuple[tf.Tensor, tf.Tensor, tf.Tensor]
]


class ContrastiveLearner(Task):
    """Two clips of a video attract, clips of other videos repel.

    A Keras model, trained by `compile(optimizer)` and `fit(data)`, of what a `Pipeline` streams, or
    of pairs of clips alone, uint8 [B, 2, T, H, W, 3], whose augmentation is drawn by the step.
    """

    def __init__(
        self,
        encoder: keras.Model,
        head: keras.Model,
        augment: ViewChains | None = None,
        temperature: float = 0.1,
        weight_decay: float = 0.0,
        objective: Objective = info_nce,
        block: int | None = None,
        micro_batch: int | None = None,
    ) -> None:
        """Args:
        encoder: frames [N, T, H, W, 3] to features [N, D].
        head: features [N, D] to embeddings [N, E].
        augment: uint8 views [B, 2, T, H, W, 3] to float32 frames [2B, T, H, W, 3]; the paper's
          if None.
        temperature: of InfoNCE; the paper has 0.1.
        weight_decay: factor of the L2 loss on all kernels; 1e-6 in the authors' code.
        objective: the loss, with the arguments and results of `info_nce`.
        block: see `blocked_info_nce`, for batches whose similarities don't fit into memory;
          None for all at once, which is faster. Of InfoNCE alone.
        micro_batch: videos that a replica encodes at a time, see `_cached_gradients`; None for
          all of its batch.
        """
        super().__init__(["contrastive_accuracy", "contrastive_entropy", "feature_spread"])
        if block and inspect.unwrap(objective) is not info_nce:  # gin wraps what it hands over
            raise ValueError(f"block={block} is for InfoNCE; {objective} has no form in blocks.")
        self.encoder = encoder
        self.head = head
        self.augment = augment or presets.paper()
        self._temperature = temperature
        self._weight_decay = weight_decay
        self._objective, self._block = objective, block
        self._micro_batch = micro_batch
        encoder.build((None, None, None, None, 3))
        head.build((None, encoder.feature_dim))
        self.built = True

    @property
    def facts(self) -> dict[str, Any]:
        return {"head": keras.saving.serialize_keras_object(self.head)}

    @property
    def checkpoint_roots(self) -> dict[str, keras.Model]:
        """What a checkpoint keeps apart, by name."""
        return {"encoder": self.encoder, "head": self.head}

    def call(self, frames: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Embeddings, float32 [N, E], of frames, float [N, T, H, W, 3] in [0, 1]."""
        return self.head(self.encoder(frames, training=training), training=training)

    def train_step(self, batch: dict[str, tf.Tensor] | tf.Tensor) -> dict[str, tf.Tensor]:
        if not isinstance(batch, dict):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            key = tf.stack([self.optimizer.iterations, tf.cast(replica, tf.int64)])
            seeds = tf.random.stateless_uniform(
                [tf.shape(batch)[0], 2, 2], key, None, None, tf.int32
            )
            batch = {"frames": batch, "seeds": seeds}
        return super().train_step(batch)

    def compute_losses(
        self, batch: dict[str, tf.Tensor], training: bool
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """This replica's part of the loss.

        Args:
          batch: of `data.pipeline`, with two views.
          training: whether batch normalization uses the statistics of the batch.

        Returns:
          What to differentiate: its sum over the replicas is the mean loss over the global batch
          plus weight decay, so that summed gradients need no further scaling. And the metrics,
          each the mean over this replica's anchors.
        """
        features, embeddings = self._encoded(batch["frames"], batch["seeds"], training)
        contrast, metrics = self._contrast(features, embeddings)
        decay = self._decay()
        metrics["weight_decay"] = decay * distribution.num_replicas()
        return contrast + decay, metrics

    def _encoded(
        self, frames: tf.Tensor, seeds: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Features [2B, D] and embeddings [2B, E] of views."""
        # Both views in one pass, so that batch normalization sees them together.
        features = self.encoder(self.augment(frames, seeds), training=training)
        return features, self.head(features, training=training)

    def _contrast(self, features: tf.Tensor, embeddings: tf.Tensor) -> tuple[tf.Tensor, dict]:
        """This replica's part of the mean of InfoNCE over the global batch; metrics."""
        keys, offset = distribution.gather(embeddings)
        if self._block:
            losses, accuracies, entropies = blocked_info_nce(
                embeddings, keys, offset, self._temperature, self._block
            )
        else:
            losses, logits, labels = self._objective(embeddings, keys, offset, self._temperature)
            accuracies = contrastive_accuracy(logits, labels)
            entropies = contrastive_entropy(logits)
        loss = tf.reduce_mean(losses)
        metrics = {
            "loss": loss,
            "contrastive_accuracy": tf.reduce_mean(accuracies),
            "contrastive_entropy": tf.reduce_mean(entropies),
            "feature_spread": feature_spread(features),
        }
        return loss / distribution.num_replicas(), metrics

    def _decay(self) -> tf.Tensor:
        """This replica's part of the weight decay."""
        decay = self._weight_decay * l2_of_kernels(self.trainable_variables)
        return decay / distribution.num_replicas()

    def gradients(self, batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, list, dict]:
        if self._micro_batch is None or self._micro_batch >= batch["frames"].shape[0]:
            return super().gradients(batch)
        return self._cached_gradients(batch, self._micro_batch)

    def _cached_gradients(
        self, batch: dict[str, tf.Tensor], size: int
    ) -> tuple[tf.Tensor, list, dict]:
        """Exact gradients of a batch whose activations don't fit into memory.

        Gradient caching (Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory
        Limited Setup", 2021): embeds all micro-batches, differentiates the loss by the embeddings,
        then embeds each micro-batch again and goes on from there to the weights. Batch
        normalization has the statistics of the micro-batch, and its moving ones move once for each.
        """
        parts = [
            (batch["frames"][i : i + size], batch["seeds"][i : i + size])
            for i in range(0, batch["frames"].shape[0], size)
        ]
        moving = self.encoder.non_trainable_variables + self.head.non_trainable_variables
        before = [tf.identity(variable) for variable in moving]
        found: list[tuple[tf.Tensor, tf.Tensor]] = []
        for frames, seeds in parts:
            with tf.control_dependencies(found[-1] if found else before):  # one at a time
                found.append(self._encoded(tf.identity(frames), seeds, training=True))
        features, embeddings = (tf.concat(rows, axis=0) for rows in zip(*found, strict=True))
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            contrast, metrics = self._contrast(features, embeddings)
            scaled = self.scaled(contrast)
        by_embedding = tape.gradient(scaled, embeddings)

        with tf.control_dependencies([by_embedding]):
            for variable, value in zip(moving, before, strict=True):
                variable.assign(value)  # the second pass moves it
        with tf.GradientTape() as tape:
            decay = self._decay()
            scaled = self.scaled(decay)
        totals = tape.gradient(scaled, self.trainable_variables, unconnected_gradients="zero")
        rows_of_parts = tf.split(by_embedding, [rows.shape[0] for _, rows in found])
        for (frames, seeds), rows in zip(parts, rows_of_parts, strict=True):
            with tf.control_dependencies([*totals, by_embedding]), tf.GradientTape() as tape:
                _, again = self._encoded(tf.identity(frames), seeds, training=True)
            more = tape.gradient(again, self.trainable_variables, output_gradients=rows)
            totals = [total + gradient for total, gradient in zip(totals, more, strict=True)]
        metrics["weight_decay"] = decay * distribution.num_replicas()
        return contrast + decay, self.unscaled(totals), metrics


def feature_spread(features: tf.Tensor) -> tf.Tensor:
    """How far features of different clips lie apart, float32 []; 0 is collapse.

    The root mean square distance of the features, scaled to unit length, from their mean (Chen and
    He, "Exploring Simple Siamese Representation Learning", 2021, section 4.1, up to a constant).

    Args:
      features: [N, D].
    """
    unit = tf.math.l2_normalize(tf.cast(features, tf.float32), axis=1)
    return tf.sqrt(tf.reduce_sum(tf.math.reduce_variance(unit, axis=0)))
