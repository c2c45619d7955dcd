"""Is it sped up: SpeedNet (Benaim et al., CVPR 2020, arXiv 2004.06130).

"SpeedNet: Learning the Speediness in Videos". The authors' training code is not published.
"""

import tensorflow as tf
import tf_keras as keras

from cvrl_tf.augment.chain import ViewChains
from cvrl_tf.losses.result import LossResult
from cvrl_tf.models.encoder import Encoder
from cvrl_tf.tasks.pretext.base import Outputs, PretextTask
from cvrl_tf.tasks.task import Batch, draws

_SIZE = 0  # which draw is meant


class SpeedPrediction(PretextTask):
    """Says which clips are sped up; a clip of `clips.SpedUpPair` and its fast one share the batch.

    Both are resized to the same random size and back, so that blur and compression don't tell.
    """

    metric_names = ("speed_accuracy",)

    def __init__(
        self,
        encoder: Encoder,
        sizes: tuple[int, int] = (64, 336),
        augment: ViewChains | None = None,
        weight_decay: float = 0.0,
        micro_batch: int | None = None,
    ) -> None:
        """Args:
        sizes: range of the sizes, pixels; from the view's own on, nothing is lost.
        encoder, augment, weight_decay, micro_batch: see `PretextTask`.
        """
        classifier = keras.Sequential([keras.layers.Dense(1, dtype="float32")])
        super().__init__(
            encoder, {"speed_classifier": classifier}, augment, weight_decay, micro_batch
        )
        self._sizes = sizes

    def embed(self, views: tf.Tensor, batch: Batch, training: bool) -> Outputs:
        """Compute a logit of each clip from the maximum over space, averaged over time.

        Returns:
          "speed_classifier": float32 [B * 2, 1].
        """
        resized = resampled(views, resampling_sizes(batch, self._sizes))
        frames = tf.reshape(resized, [-1, *views.shape[2:]])
        maps = tf.cast(self.encoder.feature_map(frames, training), tf.float32)
        pooled = tf.reduce_mean(tf.reduce_max(maps, axis=[2, 3]), axis=1)
        return {"speed_classifier": self.speed_classifier(pooled)}

    def shown(self, batch: Batch) -> tuple[tf.Tensor, list[str]]:
        """Return the resized clips, and which are sped up; see `Task.shown`."""
        resized = resampled(self.views(batch), resampling_sizes(batch, self._sizes))
        return resized, ["normal", "sped up"] * resized.shape[0]

    def losses(self, outputs: Outputs, batch: Batch) -> LossResult:
        """Compute the sigmoid cross-entropy of each clip; ln 2 at chance."""
        del batch
        logits = outputs["speed_classifier"][:, 0]
        is_fast = tf.range(tf.shape(logits)[0]) % 2 == 1
        losses = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(is_fast, tf.float32), logits)
        return LossResult(losses, {"speed_accuracy": tf.cast((logits > 0) == is_fast, tf.float32)})


def resampling_sizes(batch: Batch, sizes: tuple[int, int]) -> tf.Tensor:
    """Draw a size for each video, int32 [B], uniform and both ends included."""
    first, last = sizes

    def sample(seed: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_uniform([], seed, first, last + 1, tf.int32, alg="philox")

    return draws(batch, sample, _SIZE, tf.int32)


def resampled(views: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Resize square views to smaller ones and back, bilinearly, with antialiasing.

    As a product with matrices, which keeps all shapes static, as TPUs want them.

    Args:
      views: float32 [B, V, T, S, S, 3].
      sizes: int32 [B]; S or more changes nothing.

    Returns:
      float32 [B, V, T, S, S, 3].
    """
    side = views.shape[3]
    sizes = tf.minimum(sizes, side)
    down = _interpolation(tf.fill(tf.shape(sizes), side), sizes, side)
    up = _interpolation(sizes, tf.fill(tf.shape(sizes), side), side)
    both = tf.matmul(up, down)  # [B, S, S]
    by_rows = tf.einsum("bij,bvtjwc->bvtiwc", both, views)
    return tf.einsum("bij,bvthjc->bvthic", both, by_rows)


def _interpolation(source: tf.Tensor, target: tf.Tensor, side: int) -> tf.Tensor:
    """Weights that resize lines of `source` pixels, int32 [B], to `target`: float32 [B, S, S].

    Rows from `target` on, and columns from `source` on, are of no pixel.
    """
    source, target = (tf.cast(each, tf.float32)[:, None, None] for each in (source, target))
    pixels = tf.range(side, dtype=tf.float32)
    scale = source / target
    centers = (pixels[:, None] + 0.5) * scale - 0.5  # in the source, of the target's pixels
    reach = tf.maximum(scale, 1.0)
    weights = tf.nn.relu(1 - tf.abs(pixels - centers) / reach)
    weights = tf.where((pixels < source) & (pixels[:, None] < target), weights, 0.0)
    return tf.math.divide_no_nan(weights, tf.reduce_sum(weights, axis=2, keepdims=True))
