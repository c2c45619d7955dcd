"""Classification on an encoder: linear evaluation (section 4.1), fine-tuning, supervision."""

from typing import Any

import tensorflow as tf
import tf_keras as keras

from cvrl_tf import distribution
from cvrl_tf.augment import presets
from cvrl_tf.augment.chain import Chain, ViewChains
from cvrl_tf.models import encoder as encoders
from cvrl_tf.models.encoder import Encoder
from cvrl_tf.tasks.task import Batch, Task, dropout


class Classifier(Task):
    """A linear layer on an encoder that is frozen (the probe) or trained with it."""

    kind = "classify"

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        freeze_encoder: bool,
        augment: ViewChains | None = None,
        normalize_features: bool = False,
        dropout: float = 0.0,
        weight_decay: float = 0.0,
        label_smoothing: float = 0.0,
        layer_decay: float = 1.0,
    ) -> None:
        """Args:
        encoder: frames [N, T, H, W, 3] to features [N, D].
        num_classes: from `data.pipeline.num_classes`.
        freeze_encoder: neither weights nor batch normalization statistics of the encoder change.
        augment: uint8 views [B, V, T, H, W, 3] to float32 frames, in training; none if None.
        normalize_features: to unit length before the linear layer, as the authors' probe does.
        dropout: rate, before the linear layer.
        weight_decay: factor of the L2 loss on the kernels that are trained.
        label_smoothing: share of the label that goes to all classes alike (Szegedy et al.,
          "Rethinking the Inception Architecture", 2016, section 7). The logged loss has it too.
        layer_decay: the learning rate of the encoder's last stage is so many times that of the
          linear layer, that of the stage before so many times that, down to the stem. SGD only,
          with or without momentum.

        Raises:
          ValueError: `dropout` is not in [0, 1).
        """
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} is not in [0, 1).")
        super().__init__(["top1", "top5"], weight_decay)
        self.encoder = encoder
        self.classifier = keras.layers.Dense(num_classes)
        self.augment = augment or presets.none()
        self._freeze_encoder = freeze_encoder
        self._normalize_features = normalize_features
        self._dropout = dropout
        self._label_smoothing, self._layer_decay = label_smoothing, layer_decay
        encoder.trainable = not freeze_encoder
        encoder.build(encoders.INPUT_SHAPE)
        self.classifier.build((None, encoder.feature_dim))
        self._stages = {
            variable.ref(): number
            for number, stage in enumerate(encoder.stages)
            for layer in stage
            for variable in layer.trainable_variables
        }
        self.built = True

    @property
    def export_facts(self) -> dict[str, Any]:
        return {"normalize_features": self._normalize_features}

    @property
    def checkpoint_roots(self) -> dict[str, keras.layers.Layer]:
        """What a checkpoint keeps apart, by name."""
        return {"encoder": self.encoder, "classifier": self.classifier}

    def call(self, frames: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Compute logits, float32 [N, num_classes], of frames, float [N, T, H, W, 3] in [0, 1].

        Without dropout, which belongs to the training step: it needs the seeds of the examples.
        """
        return self._logits(self._features(frames, training))

    def _features(self, frames: tf.Tensor, training: bool | None) -> tf.Tensor:
        """What the linear layer sees, float32 [N, D], before dropout."""
        features = self.encoder(frames, training=training and not self._freeze_encoder)
        return tf.math.l2_normalize(features, axis=1) if self._normalize_features else features

    def _logits(self, features: tf.Tensor) -> tf.Tensor:
        return tf.cast(self.classifier(features), tf.float32)

    def compute_losses(
        self, batch: Batch, training: bool
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Compute this replica's part of the loss; see `PretextTask.compute_losses`."""
        features = self._features(self.augment(batch["frames"], batch["seeds"]), training)
        if training:
            features = dropout(features, self._dropout, batch)
        logits = self._logits(features)
        losses = keras.losses.categorical_crossentropy(
            tf.one_hot(batch["label"], logits.shape[-1]),
            logits,
            from_logits=True,
            label_smoothing=self._label_smoothing,
        )
        decay = self.weight_decay_loss()
        loss = tf.reduce_mean(losses)
        metrics = {"loss": loss, "weight_decay": decay, **_in_top(batch["label"], logits)}
        return (loss + decay) / distribution.num_replicas(), metrics

    def compile(self, optimizer: keras.optimizers.Optimizer, **kwargs: Any) -> None:
        """Compile as Keras does.

        Raises:
          ValueError: `layer_decay` with another optimizer, whose steps don't grow with gradients.
        """
        if self._layer_decay != 1 and not isinstance(optimizer, keras.optimizers.SGD):
            raise ValueError(
                f"layer_decay={self._layer_decay} needs SGD, not {type(optimizer).__name__}."
            )
        super().compile(optimizer, **kwargs)

    def gradients(self, batch: Batch) -> tuple[tf.Tensor, list, dict]:
        objective, gradients, metrics = super().gradients(batch)
        if self._layer_decay != 1:
            # In SGD, the gradient's factor is the learning rate's.
            last = 1 + max(self._stages.values(), default=0)
            gradients = [
                gradient * self._layer_decay ** (last - self._stages.get(variable.ref(), last))
                for variable, gradient in zip(self.trainable_variables, gradients, strict=True)
            ]
        return objective, gradients, metrics

    def test_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Test the mean of the softmaxes of a video's V views (section 4.1)."""
        num_views = batch["frames"].shape[1]
        frames = ViewChains([Chain()])(batch["frames"], batch["seeds"])
        softmax = tf.nn.softmax(self(frames, training=False))
        mean = tf.reduce_mean(tf.reshape(softmax, [-1, num_views, softmax.shape[-1]]), axis=1)
        losses = keras.losses.sparse_categorical_crossentropy(batch["label"], mean)
        for name, value in {"loss": losses, **_in_top(batch["label"], mean)}.items():
            self._means[name].update_state(value, sample_weight=batch["weight"])
        return {name: self._means[name].result() for name in ("loss", "top1", "top5")}


def _in_top(labels: tf.Tensor, scores: tf.Tensor) -> dict[str, tf.Tensor]:
    """Whether the label is among the best 1 and 5 of scores [N, classes], float32 [N] each.

    The order of equal scores is that of `metrics.classification`. `tf.math.in_top_k` would call all
    of them hits: with equal scores for all classes, an accuracy of 100 %.
    """
    classes = tf.range(scores.shape[-1], dtype=labels.dtype)
    own = tf.gather(scores, labels, axis=1, batch_dims=1)[:, tf.newaxis]
    after = (scores < own) | ((scores == own) & (classes > labels[:, tf.newaxis]))
    # Less the label itself. What is not a number is not after the label.
    before = scores.shape[-1] - 1 - tf.reduce_sum(tf.cast(after, tf.int32), axis=1)
    tops = {"top1": 1, "top5": min(5, scores.shape[-1])}
    return {name: tf.cast(before < k, tf.float32) for name, k in tops.items()}
