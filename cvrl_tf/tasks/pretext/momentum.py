"""What methods keep beside the weights: a momentum encoder, and a queue of its keys (MoCo).

He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", 2020.

Both hold variables that every replica assigns for itself, with values that are equal on all of
them: weights of the task, or rows of `distribution.gather`. Make them under the scope of the
strategy, as a run does with its task.
"""

import math
from typing import Any

import tensorflow as tf
import tf_keras as keras

from cvrl_tf.checkpoints import keys_of
from cvrl_tf.models import encoder as encoders
from cvrl_tf.models.encoder import Encoder

_SEED = (20, 19)  # of a queue's first keys; any would do


def _first_replica(next_creator: Any, **variable: Any) -> tf.Variable:
    """Create a variable that replicas assign, each the same value; for `variable_creator_scope`."""
    return next_creator(**{**variable, "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA})


class MomentumEncoder:
    """An encoder with its head, whose weights follow those of another: k = m k + (1 - m) q.

    A plain object, no Keras layer: set as an attribute of a task it adds nothing to the weights
    that are trained, decayed or exported. Add `roots` to the task's `checkpoint_roots`, call `copy`
    in its `on_begin` and `update` in its `after_step`.

    Attributes:
      encoder, head: the twins.
    """

    def __init__(
        self, encoder: Encoder, head: keras.Model, momentum: float, anneal: bool = False
    ) -> None:
        """Build the twins from the configs of encoder and head, and copy the weights.

        Args:
          encoder: whose weights are followed.
          head: the same, of features [N, D].
          momentum: m; 0.999 in MoCo.
          anneal: let m grow to 1 by a cosine until the end of training, as in BYOL.

        Raises:
          ValueError: m is not in [0, 1].
        """
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum={momentum} is not in [0, 1]; MoCo has 0.999.")
        self._momentum, self._anneal = momentum, anneal
        with tf.variable_creator_scope(_first_replica):
            self.encoder = type(encoder).from_config(encoder.get_config())
            self.head = type(head).from_config(head.get_config())
            self.encoder.build(encoders.INPUT_SHAPE)
            self.head.build((None, encoder.feature_dim))
        # Found by name: in `weights` their order depends on what is frozen.
        self._pairs = [
            (ours[key], theirs[key])
            for twin, model in ((self.encoder, encoder), (self.head, head))
            for ours, theirs in [(keys_of(twin, ""), keys_of(model, ""))]
            for key in theirs
        ]
        self.copy()

    @property
    def roots(self) -> dict[str, tf.Module]:
        """What a checkpoint must keep, by name."""
        return {"momentum_encoder": self.encoder, "momentum_head": self.head}

    def __call__(self, frames: tf.Tensor) -> tf.Tensor:
        """Compute embeddings, with the statistics of the batch and without gradient.

        Args:
          frames: float [N, T, H, W, 3] in [0, 1].

        Returns:
          float32 [N, E], not normalized.
        """
        return tf.stop_gradient(self.head(self.encoder(frames, training=True), training=True))

    def copy(self) -> None:
        """Take over all weights: where a run begins. Not to be called in a replica."""
        for ours, theirs in self._pairs:
            ours.assign(theirs)

    def update(self, step: tf.Tensor, total_steps: int | None) -> None:
        """Follow the weights, k = m k + (1 - m) q; part of the training step.

        With `anneal`, m = 1 - (1 - m0) (cos(pi step / total_steps) + 1) / 2 (Grill et al.,
        "Bootstrap Your Own Latent", 2020, section 3.2). Moving statistics are no weights: those of
        the twins are their own.

        Args:
          step, total_steps: as of `Task.after_step`.

        Raises:
          ValueError: m is to grow until an end that is unknown.
        """
        m = self.momentum_at(step, total_steps)
        for ours, theirs in self._pairs:
            if ours.trainable:
                ours.assign(m * ours + (1 - m) * theirs)

    def momentum_at(self, step: tf.Tensor, total_steps: int | None) -> tf.Tensor:
        """Compute m, float32 []; see `update`."""
        if not self._anneal:
            return tf.constant(self._momentum)
        if total_steps is None:
            raise ValueError(
                "anneal=True needs to know where training ends: set the task's total_steps before "
                "`fit`, as a run does."
            )
        done = tf.cast(step, tf.float32) / total_steps
        return 1 - (1 - self._momentum) * (tf.cos(math.pi * done) + 1) / 2


class Queue(tf.Module):
    """The keys of the last steps, which are more than fit into a batch.

    All replicas hold the same one. Add it to the task's `checkpoint_roots` as "queue".

    Attributes:
      keys: float32 [K, E], random directions until they are overwritten.
      pointer: int64 [], row of the oldest key.
    """

    def __init__(self, size: int, dim: int) -> None:
        """Args:
        size: K, a multiple of the keys that all replicas together push in a step.
        dim: E.
        """
        super().__init__()
        keys = tf.math.l2_normalize(tf.random.stateless_normal([size, dim], _SEED), axis=1)
        once = tf.VariableAggregation.ONLY_FIRST_REPLICA
        self.keys = tf.Variable(keys, False, name="keys", aggregation=once)
        self.pointer = tf.Variable(0, False, name="pointer", dtype=tf.int64, aggregation=once)

    def read(self) -> tf.Tensor:
        """Return the keys, float32 [K, E], without gradient."""
        return tf.stop_gradient(tf.identity(self.keys))

    def push(self, keys: tf.Tensor) -> None:
        """Overwrite the oldest keys. A task does it once a step: in `losses`, after `read`.

        Args:
          keys: float [n, E] of unit length, those of all replicas: of `distribution.gather`.

        Raises:
          ValueError: K is no multiple of n.
        """
        size, count = self.keys.shape[0], keys.shape[0]
        if not count or size % count:
            raise ValueError(
                f"A queue of {size} keys can't be filled by {count} a step of all replicas: take a "
                f"multiple, such as {max(size // (count or size), 1) * (count or size)}."
            )
        rows = self.pointer + tf.range(count, dtype=tf.int64)
        keys = tf.stop_gradient(tf.cast(keys, tf.float32))
        self.keys.assign(tf.tensor_scatter_nd_update(self.keys, rows[:, tf.newaxis], keys))
        self.pointer.assign((self.pointer + count) % size)
