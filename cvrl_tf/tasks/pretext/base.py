"""What all pretext tasks share: augmentation, encoding, the mean loss, exact small steps."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import tensorflow as tf
import tf_keras as keras

from cvrl_tf import distribution
from cvrl_tf.augment import presets
from cvrl_tf.augment.chain import ViewChains
from cvrl_tf.losses.result import LossResult
from cvrl_tf.models import encoder as encoders
from cvrl_tf.models.encoder import Encoder
from cvrl_tf.models.heads import Head
from cvrl_tf.tasks.task import Batch, Task

Outputs = dict[str, tf.Tensor]


class PretextTask(Task):
    """Base class of pretext tasks, which learn without labels.

    A method says its `losses`, and more only where it differs: `embed` if it does more than encode
    all clips in one pass, `after_step` if it keeps something beside the weights.

    It is a Keras model, trained by `compile(optimizer)` and `fit(data)`, of the batches of a
    `data.pipeline.Pipeline` or of clips alone, uint8 [B, V, T, H, W, 3]; then the step draws seeds.

    Attributes:
      metric_names: of what `losses` measures.
    """

    kind = "pretrain"
    metric_names: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        encoder: Encoder,
        heads: Mapping[str, keras.Model],
        augment: ViewChains | None = None,
        weight_decay: float = 0.0,
        micro_batch: int | None = None,
    ) -> None:
        """Args:
        encoder: frames [N, T, H, W, 3] to features [N, D].
        heads: models of features, by the names of their attributes and checkpoint roots. One
          called "head" gives embeddings [N, E], and an export takes it along: a `Head`.
        augment: uint8 views [B, V, T, H, W, 3] to float32 frames [B * V, T, H, W, 3]; the paper's
          if None.
        weight_decay: factor of the L2 loss on all kernels; 1e-6 in the authors' code.
        micro_batch: videos that a replica encodes at a time, see `_cached_gradients`; None for
          all of its batch.
        """
        super().__init__(self.metric_names, weight_decay)
        self.encoder = encoder
        self.augment = augment or presets.paper()
        self._micro_batch = micro_batch
        self._head_names = tuple(heads)
        encoder.build(encoders.INPUT_SHAPE)
        for name, head in heads.items():
            setattr(self, name, head)
            if not head.built:
                head.build((None, encoder.feature_dim))
        self.built = True

    @property
    def export_facts(self) -> dict[str, Any]:
        if "head" not in self._head_names:
            return {}
        if not isinstance(self.head, Head):
            raise ValueError(
                f"The head is a {type(self.head).__name__}, which an export could not rebuild: "
                "derive it from cvrl_tf.models.heads.Head, or give it another name than 'head'."
            )
        return {"head": keras.saving.serialize_keras_object(self.head)}

    @property
    def checkpoint_roots(self) -> dict[str, tf.Module]:
        """What a checkpoint keeps apart, by name."""
        return {"encoder": self.encoder} | {name: getattr(self, name) for name in self._head_names}

    def call(self, frames: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Compute features, float32 [N, D], of frames, float [N, T, H, W, 3] in [0, 1]."""
        return self.encoder(frames, training=training)

    def embed(self, views: tf.Tensor, batch: Batch, training: bool) -> Outputs:
        """Compute from views what `losses` wants; by default encode all clips, then the heads.

        All clips go through the encoder in one pass, so that batch normalization sees them
        together.

        Args:
          views: float32 [B, V, T, H, W, 3] in [0, 1], augmented.
          batch: of `data.pipeline`, the same B examples.
          training: whether batch normalization uses the statistics of the batch.

        Returns:
          Tensors by name, whose rows belong to the examples in order. By default "features"
          [B * V, D], the clips of an example side by side, and each head's output by its name.
        """
        del batch
        frames = tf.reshape(views, tf.concat([[-1], tf.shape(views)[2:]], axis=0))
        features = self.encoder(frames, training=training)
        heads = {name: getattr(self, name) for name in self._head_names}
        return {"features": features} | {
            name: head(features, training=training) for name, head in heads.items()
        }

    @abc.abstractmethod
    def losses(self, outputs: Outputs, batch: Batch) -> LossResult:
        """Compute the loss of each row of this replica.

        Args:
          outputs: of `embed`, for the replica's whole batch.
          batch: of `data.pipeline`.

        Returns:
          Losses, whose mean over all replicas is the loss, and the metrics of `metric_names`.
        """

    def train_step(self, batch: Batch | tf.Tensor) -> dict[str, tf.Tensor]:
        if not isinstance(batch, dict):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            key = tf.stack([self.optimizer.iterations, tf.cast(replica, tf.int64)])
            shape = [tf.shape(batch)[0], batch.shape[1], 2]
            seeds = tf.random.stateless_uniform(shape, key, None, None, tf.int32)
            batch = {"frames": batch, "seeds": seeds}
        return super().train_step(batch)

    def compute_losses(
        self, batch: Batch, training: bool
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Compute this replica's part of the loss.

        Args:
          batch: of `data.pipeline`.
          training: whether batch normalization uses the statistics of the batch.

        Returns:
          What to differentiate: its sum over the replicas is the mean loss over the global batch
          plus weight decay, so that summed gradients need no further scaling. And the metrics,
          each the mean over this replica's rows.
        """
        outputs = self.embed(self.views(batch), batch, training)
        loss, metrics = self._mean_loss(outputs, batch)
        decay = self.weight_decay_loss() / distribution.num_replicas()
        metrics["weight_decay"] = decay * distribution.num_replicas()
        return loss + decay, metrics

    def views(self, batch: Batch) -> tf.Tensor:
        """Augment the clips of a batch: float32 [B, V, T, H, W, 3] in [0, 1]."""
        frames = batch["frames"]
        augmented = tf.reshape(self.augment(frames, batch["seeds"]), tf.shape(frames))
        return tf.ensure_shape(augmented, frames.shape)

    def _mean_loss(self, outputs: Outputs, batch: Batch) -> tuple[tf.Tensor, dict]:
        """This replica's part of the mean loss over the global batch; metrics."""
        result = self.losses(outputs, batch)
        loss = tf.reduce_mean(result.losses)
        means = {name: tf.reduce_mean(value) for name, value in result.metrics.items()}
        return loss / distribution.num_replicas(), {"loss": loss, **means}

    def gradients(self, batch: Batch) -> tuple[tf.Tensor, list, dict]:
        if self._micro_batch is None or self._micro_batch >= batch["frames"].shape[0]:
            return super().gradients(batch)
        return self._cached_gradients(batch, self._micro_batch)

    def _cached_gradients(self, batch: Batch, size: int) -> tuple[tf.Tensor, list, dict]:
        """Compute exact gradients of a batch whose activations don't fit into memory.

        Gradient caching (Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory
        Limited Setup", 2021): embeds all micro-batches, differentiates the loss by the outputs,
        then embeds each micro-batch again and differentiates it by the weights. Batch
        normalization has the statistics of the micro-batch, and its moving ones move once for each.
        """
        parts = [
            {name: rows[i : i + size] for name, rows in batch.items()}
            for i in range(0, batch["frames"].shape[0], size)
        ]
        moving = [
            variable
            for root in self.checkpoint_roots.values()
            if isinstance(root, keras.layers.Layer)
            for variable in root.non_trainable_variables
        ]
        before = [tf.identity(variable) for variable in moving]
        found: list[list[tf.Tensor]] = []
        names: list[str] = []
        for part in parts:
            outputs = self._embed_after(found[-1] if found else before, part)
            names = list(outputs)
            found.append(list(outputs.values()))
        joined = [tf.concat(rows, axis=0) for rows in zip(*found, strict=True)]
        with tf.GradientTape() as tape:
            tape.watch(joined)
            loss, metrics = self._mean_loss(dict(zip(names, joined, strict=True)), batch)
            scaled = self.scaled(loss)
        # Of what the loss depends on, by the outputs' numbers.
        slopes = {
            number: slope
            for number, slope in enumerate(tape.gradient(scaled, joined))
            if slope is not None
        }
        with tf.control_dependencies(list(slopes.values())):
            for variable, value in zip(moving, before, strict=True):
                variable.assign(value)  # the second pass moves it
        with tf.GradientTape() as tape:
            decay = self.weight_decay_loss() / distribution.num_replicas()
            scaled = self.scaled(decay)
        totals = tape.gradient(scaled, self.trainable_variables, unconnected_gradients="zero")
        slopes_of_parts = {
            number: tf.split(slope, [rows[number].shape[0] for rows in found])
            for number, slope in slopes.items()
        }
        for place, part in enumerate(parts):
            with tf.GradientTape() as tape:
                again = list(self._embed_after([*totals, *slopes.values()], part).values())
                again = [again[number] for number in slopes]
            more = tape.gradient(
                again,
                self.trainable_variables,
                output_gradients=[of_parts[place] for of_parts in slopes_of_parts.values()],
                unconnected_gradients="zero",
            )
            totals = [total + gradient for total, gradient in zip(totals, more, strict=True)]
        metrics["weight_decay"] = decay * distribution.num_replicas()
        return loss + decay, self.unscaled(totals), metrics

    def _embed_after(self, done: list[tf.Tensor], batch: Batch) -> Outputs:
        """Embed a part of a batch in training, once other tensors are there: one at a time."""
        with tf.control_dependencies(done):
            batch = {**batch, "frames": tf.identity(batch["frames"])}
            return self.embed(self.views(batch), batch, training=True)
