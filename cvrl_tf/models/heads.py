"""What sits on the encoder in pretraining (section 3.2; sizes from the authors' code)."""

import itertools

import tensorflow as tf
import tf_keras as keras

from cvrl_tf.models.normalization import BatchNorm
from cvrl_tf.models.rebuilding import Rebuildable


class Head(Rebuildable):
    """Base class of heads that an export takes along: features [B, D] to embeddings [B, E]."""


@keras.saving.register_keras_serializable("cvrl_tf")
class ProjectionHead(Head):
    """MLP: features [B, D] to embeddings [B, `output_dim`]; thrown away after pretraining."""

    def __init__(
        self,
        hidden_dim: int = 2048,
        num_hidden: int = 3,
        output_dim: int = 128,
        batch_norm: bool = True,
    ) -> None:
        """Args:
        hidden_dim: units of each hidden layer [Dense with bias, BN, ReLU].
        num_hidden: number of hidden layers.
        output_dim: E, units of the last, linear layer.
        batch_norm: whether hidden layers have BN; those of MoCo have none.
        """
        super().__init__()
        self._config = {
            "hidden_dim": hidden_dim,
            "num_hidden": num_hidden,
            "output_dim": output_dim,
            "batch_norm": batch_norm,
        }
        self.hidden = [keras.layers.Dense(hidden_dim) for _ in range(num_hidden)]
        self.norms = [BatchNorm(momentum=0.997) for _ in self.hidden if batch_norm]
        self.output_layer = keras.layers.Dense(output_dim)

    def call(self, features: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Embeddings, float32 [B, output_dim], not normalized."""
        x = features
        for dense, norm in itertools.zip_longest(self.hidden, self.norms):
            x = dense(x)
            x = tf.nn.relu(norm(x, training=training) if norm else x)
        return tf.cast(self.output_layer(x), tf.float32)
