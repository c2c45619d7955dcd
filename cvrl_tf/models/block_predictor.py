"""What comes next in a video, by a recurrent network on feature maps (DPC and MemDPC).

Han, Xie and Zisserman, "Video Representation Learning by Dense Predictive Coding", 2019, and
"Memory-augmented Dense Predictive Coding for Video Representation Learning", 2020.
"""

import functools

import tensorflow as tf
import tf_keras as keras

from cvrl_tf.models.rebuilding import Rebuildable


@keras.saving.register_keras_serializable("cvrl_tf")
class BlockPredictor(Rebuildable):
    """Maps of the blocks of a video [B, N, S, D] to predictions of the last P, at all S positions.

    A linear layer gives embeddings. At each position, a GRU sees those of the first N - P blocks: a
    ConvGRU with kernels of 1x1. From its state, two layers predict the next block; it sees the
    prediction, and so on. With a memory, a prediction is a mean of its rows, weighted by a softmax.
    In both directions, another GRU sees the blocks from the last to the first, and predicts the
    first P. All is float32, whatever the precision of the encoder.

    Attributes:
      num_predicted: P.
      num_directions: W, 1 or 2.
      dropout: rate, of the state of a GRU after each block.
    """

    def __init__(
        self,
        dim: int,
        num_predicted: int,
        memory_rows: int | None,
        both_directions: bool,
        dropout: float,
        gain: float,
    ) -> None:
        """Args:
        dim: E, of embeddings and states.
        num_predicted, dropout: see the class.
        memory_rows: of the memory; None predicts without one.
        both_directions: see the class.
        gain: of the orthogonal initial kernels of the GRUs and of the two layers.
        """
        super().__init__(dtype="float32")
        self._config = {
            "dim": dim,
            "num_predicted": num_predicted,
            "memory_rows": memory_rows,
            "both_directions": both_directions,
            "dropout": dropout,
            "gain": gain,
        }
        self.num_predicted, self.dropout = num_predicted, dropout
        self.num_directions = 2 if both_directions else 1
        orthogonal = functools.partial(keras.initializers.Orthogonal, gain)
        self.neck = keras.layers.Dense(dim, dtype="float32")
        self.cells = [
            keras.layers.GRUCell(
                dim,
                kernel_initializer=orthogonal(),
                recurrent_initializer=orthogonal(),
                reset_after=False,
                dtype="float32",
            )
            for _ in range(self.num_directions)
        ]
        self.hidden = keras.layers.Dense(
            dim, "relu", kernel_initializer=orthogonal(), dtype="float32"
        )
        self.output_layer = keras.layers.Dense(
            memory_rows or dim, kernel_initializer=orthogonal(), dtype="float32"
        )
        self.memory = None
        if memory_rows:
            normal = keras.initializers.RandomNormal(stddev=1.0)
            self.memory = self.add_weight("memory", [memory_rows, dim], initializer=normal)

    def call(self, maps: tf.Tensor, kept: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Compute predictions and what they should be, the embeddings; float32 [B, W, P, S, E].

        Args:
          maps: [B, N, S, D], from the first block to the last.
          kept: float32 [B, W, N - 1, S, E], factors of the states, for dropout; None in a test.
        """
        blocks = tf.unstack(self.neck(maps), axis=1)
        predictions, targets = [], []
        for way, cell in enumerate(self.cells):
            ordered = blocks[::-1] if way else blocks
            factors = None if kept is None else tf.unstack(kept[:, way], axis=1)
            predictions.append(self._predict(cell, ordered[: -self.num_predicted], factors))
            targets.append(tf.stack(ordered[-self.num_predicted :], axis=1))
        return tf.stack(predictions, axis=1), tf.stack(targets, axis=1)

    def _predict(
        self, cell: keras.layers.Layer, seen: list[tf.Tensor], factors: list[tf.Tensor] | None
    ) -> tf.Tensor:
        """What follows the embeddings of some blocks, each [B, S, E]: [B, P, S, E]."""
        inputs, state = list(seen), tf.zeros_like(seen[0])
        for step in range(len(seen) + self.num_predicted - 1):
            state, _ = cell(tf.nn.relu(inputs[step]), [state])
            if factors is not None:
                state *= factors[step]
            if step >= len(seen) - 1:
                inputs.append(self._read(state))
        return tf.stack(inputs[len(seen) :], axis=1)

    def _read(self, state: tf.Tensor) -> tf.Tensor:
        """The prediction that a state [B, S, E] makes."""
        outputs = self.output_layer(self.hidden(state))
        if self.memory is None:
            return outputs
        return tf.tensordot(tf.nn.softmax(outputs), self.memory, 1)
