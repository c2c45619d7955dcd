"""Which clip came first: clip order prediction, VCOP (Xu et al., CVPR 2019).

"Self-supervised Spatiotemporal Learning via Video Clip Order Prediction"; numbers are those of the
authors' code, github.com/xudejing/video-clip-order-prediction.
"""

import functools
import itertools
import math
from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras

from cvrl_tf.augment.chain import ViewChains
from cvrl_tf.losses.result import LossResult
from cvrl_tf.models.encoder import Encoder
from cvrl_tf.tasks.pretext.base import Outputs, PretextTask
from cvrl_tf.tasks.pretext.orders import order_labels, permutations, shuffled
from cvrl_tf.tasks.task import Batch, dropout

# Which draw is meant.
_ORDER, _DROPOUT = range(2)


@keras.saving.register_keras_serializable("cvrl_tf")
class PairwiseHead(keras.Model):
    """Features of shuffled clips [B, K, D] to logits of their orders, float32 [B, K!].

    Each pair i < j is compared by one hidden layer, the same for all; a linear layer sees what
    comes out of all pairs.

    Attributes:
      num_clips: K.
      dropout: rate, before the linear layer.
      width: of the input of the linear layer.
    """

    def __init__(self, num_clips: int, hidden_dim: int, dropout: float) -> None:
        """Args:
        num_clips: K; that of the clip sampler.
        hidden_dim: units of the hidden layer.
        dropout: see the class.
        """
        super().__init__()
        self._config = {"num_clips": num_clips, "hidden_dim": hidden_dim, "dropout": dropout}
        self.num_clips, self.dropout = num_clips, dropout
        self._pairs = tuple(itertools.combinations(range(num_clips), 2))
        self.width = len(self._pairs) * hidden_dim
        self.hidden = keras.layers.Dense(hidden_dim, activation="relu")
        self.output_layer = keras.layers.Dense(math.factorial(num_clips), dtype="float32")

    def call(
        self, features: tf.Tensor, drop: Callable[[tf.Tensor], tf.Tensor] | None = None
    ) -> tf.Tensor:
        """Compute logits.

        Args:
          features: [B, K, D].
          drop: drops out of what the linear layer sees, float32 [B, `width`]; None in a test.
        """
        pairs = [tf.concat([features[:, i], features[:, j]], axis=1) for i, j in self._pairs]
        compared = self.hidden(tf.stack(pairs, axis=1))
        x = tf.reshape(tf.cast(compared, tf.float32), [-1, self.width])
        return self.output_layer(drop(x) if drop else x)

    def get_config(self) -> dict[str, float]:
        return dict(self._config)


class ClipOrderPrediction(PretextTask):
    """The clips of a video, which follow each other, are shuffled; the head says in which order.

    A video shorter than its clips and gaps together loops, and its clips have no order.
    """

    metric_names = ("order_accuracy",)

    def __init__(
        self,
        encoder: Encoder,
        head: PairwiseHead,
        augment: ViewChains | None = None,
        weight_decay: float = 0.0,
        micro_batch: int | None = None,
    ) -> None:
        """Args:
        head: features of shuffled clips to logits of their orders.
        encoder, augment, weight_decay, micro_batch: see `PretextTask`.
        """
        head.build((None, head.num_clips, encoder.feature_dim))
        super().__init__(encoder, {"order_head": head}, augment, weight_decay, micro_batch)

    def embed(self, views: tf.Tensor, batch: Batch, training: bool) -> Outputs:
        """Encode all clips, shuffle the features of each video, and compute logits of the orders.

        It is the same as to shuffle the clips, and cheaper.

        Returns:
          "order_head": float32 [B, K!].

        Raises:
          ValueError: there are not K clips of a video.
        """
        clips, head = views.shape[1], self.order_head
        if clips != head.num_clips:
            raise ValueError(
                f"{clips} clips of each video, but the head orders {head.num_clips}: bind the "
                "num_clips of clips.ConsecutiveClips and of clip_order.PairwiseHead to the same."
            )
        frames = tf.reshape(views, tf.concat([[-1], tf.shape(views)[2:]], axis=0))
        features = self.encoder(
            tf.ensure_shape(frames, [None, *views.shape[2:]]), training=training
        )
        in_order = tf.reshape(features, [-1, clips, features.shape[-1]])
        drop = functools.partial(dropout, rate=head.dropout, batch=batch, purpose=_DROPOUT)
        presented = shuffled(in_order, order_labels(batch, clips, _ORDER))
        return {"order_head": head(presented, drop if training else None)}

    def shown(self, batch: Batch) -> tuple[tf.Tensor, list[str]]:
        """Return the shuffled clips, and which one of the video each is; see `Task.shown`."""
        clips = self.order_head.num_clips
        labels = order_labels(batch, clips, _ORDER)
        places = permutations(clips)[labels].reshape(-1)
        return shuffled(self.views(batch), labels), [f"clip {place + 1}" for place in places]

    def losses(self, outputs: Outputs, batch: Batch) -> LossResult:
        """Compute the cross-entropy of each video; ln K! at chance."""
        logits = outputs["order_head"]
        labels = order_labels(batch, self.order_head.num_clips, _ORDER)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        correct = tf.argmax(logits, axis=1, output_type=tf.int32) == labels
        return LossResult(losses, {"order_accuracy": tf.cast(correct, tf.float32)})
