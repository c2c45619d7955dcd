"""Which way is up: rotation prediction (Jing et al., 3D-RotNet, 2018, arXiv 1811.11387)."""

import tensorflow as tf
import tf_keras as keras

from cvrl_tf.augment.chain import ViewChains
from cvrl_tf.losses.result import LossResult
from cvrl_tf.models.encoder import Encoder
from cvrl_tf.tasks.pretext.base import Outputs, PretextTask
from cvrl_tf.tasks.task import Batch

NUM_TURNS = 4


class RotationPrediction(PretextTask):
    """Each clip is turned by 0, 90, 180 and 270 degrees, and a linear layer says by how much.

    All four go through the encoder in one pass: batch statistics of one rotation alone would tell
    the label.
    """

    metric_names = ("rotation_accuracy",)

    def __init__(
        self,
        encoder: Encoder,
        augment: ViewChains | None = None,
        weight_decay: float = 0.0,
        micro_batch: int | None = None,
    ) -> None:
        """Args:
        encoder, augment, weight_decay, micro_batch: see `PretextTask`.
        """
        classifier = keras.Sequential([keras.layers.Dense(NUM_TURNS, dtype="float32")])
        super().__init__(
            encoder, {"rotation_classifier": classifier}, augment, weight_decay, micro_batch
        )

    def embed(self, views: tf.Tensor, batch: Batch, training: bool) -> Outputs:
        """Compute the logits of all turns of all clips, [B * V * 4, 4]; see `PretextTask`."""
        return super().embed(quarter_turns(views), batch, training)

    def shown(self, batch: Batch) -> tuple[tf.Tensor, list[str]]:
        """Return the turned clips, and by how much each is; see `Task.shown`."""
        turned = quarter_turns(self.views(batch))
        count = turned.shape[0] * turned.shape[1]
        return turned, [f"turned by {90 * (each % NUM_TURNS)}°" for each in range(count)]

    def losses(self, outputs: Outputs, batch: Batch) -> LossResult:
        """Compute the cross-entropy of each turned clip; ln 4 at chance."""
        del batch
        logits = outputs["rotation_classifier"]
        labels = tf.range(tf.shape(logits)[0]) % NUM_TURNS
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        correct = tf.argmax(logits, axis=1, output_type=tf.int32) == labels
        return LossResult(losses, {"rotation_accuracy": tf.cast(correct, tf.float32)})


def quarter_turns(views: tf.Tensor) -> tf.Tensor:
    """Turn clips counter-clockwise by 0, 1, 2 and 3 quarters.

    Only pixels change places: an interpolation or black corners would tell the label.

    Args:
      views: [B, V, T, H, W, 3], square.

    Returns:
      [B, V * 4, T, H, W, 3], the turns of a clip side by side, in order.

    Raises:
      ValueError: frames are not square.
    """
    height, width = views.shape[3:5]
    if height != width:
        raise ValueError(f"Frames of {height}x{width} can't be turned by a quarter: crop squares.")
    transposed = tf.transpose(views, [0, 1, 2, 4, 3, 5])
    turned = [
        views,
        tf.reverse(transposed, [3]),
        tf.reverse(views, [3, 4]),
        tf.reverse(transposed, [4]),
    ]
    side_by_side = tf.stack(turned, axis=2)  # [B, V, 4, T, H, W, 3]
    batch, num_views = tf.shape(views)[0], views.shape[1]
    return tf.reshape(side_by_side, [batch, num_views * NUM_TURNS, *views.shape[2:]])
