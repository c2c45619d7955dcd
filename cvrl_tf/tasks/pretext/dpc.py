"""What comes next, and where: DPC and MemDPC (Han, Xie and Zisserman, 2019 and 2020).

"Video Representation Learning by Dense Predictive Coding", arXiv 1909.04656, and "Memory-augmented
Dense Predictive Coding for Video Representation Learning", arXiv 2008.01065; numbers are those of
the authors' code, github.com/TengdaHan/DPC and github.com/TengdaHan/MemDPC.
"""

import math

import tensorflow as tf

from cvrl_tf import distribution
from cvrl_tf.augment.chain import ViewChains
from cvrl_tf.losses.result import LossResult
from cvrl_tf.models.block_predictor import BlockPredictor
from cvrl_tf.models.encoder import Encoder
from cvrl_tf.tasks.pretext.base import Outputs, PretextTask
from cvrl_tf.tasks.task import Batch, dropout


class DensePrediction(PretextTask):
    """Each position of the predicted blocks is to be told from all others of the batch.

    The clips are the blocks of a video, which follow each other, and have the same crop: see
    `views.RandomResizedCrop.per_video`. A video shorter than all its blocks loops.
    """

    metric_names = ("prediction_accuracy",)

    def __init__(
        self,
        encoder: Encoder,
        predictor: BlockPredictor,
        augment: ViewChains | None = None,
        weight_decay: float = 0.0,
        micro_batch: int | None = None,
    ) -> None:
        """Args:
        predictor: maps of the blocks to predictions.
        encoder, augment, weight_decay, micro_batch: see `PretextTask`.
        """
        predictor.build((None, predictor.num_predicted + 1, 1, encoder.feature_dim))
        super().__init__(encoder, {"predictor": predictor}, augment, weight_decay, micro_batch)

    def embed(self, views: tf.Tensor, batch: Batch, training: bool) -> Outputs:
        """Predict the last blocks of each video from the maps of the first, averaged over time.

        Returns:
          "predictions", "targets": float32 [B, W, P, S, E].

        Raises:
          ValueError: all blocks are to be predicted.
        """
        blocks, predictor = views.shape[1], self.predictor
        if blocks <= predictor.num_predicted:
            raise ValueError(
                f"{predictor.num_predicted} of {blocks} blocks are to be predicted, which leaves "
                "none to predict from: bind num_clips of clips.ConsecutiveClips to more, or "
                "num_predicted of block_predictor.BlockPredictor to fewer."
            )
        frames = tf.reshape(views, [-1, *views.shape[2:]])
        maps = self.encoder.feature_map(frames, training)
        maps = tf.reduce_mean(tf.cast(maps, tf.float32), axis=1)
        positions = math.prod(maps.shape[1:3])
        maps = tf.reshape(maps, [-1, blocks, positions, maps.shape[3]])
        kept = None
        if training:
            states = (predictor.num_directions, blocks - 1, positions, predictor.neck.units)
            kept = dropout(tf.ones([tf.shape(views)[0], *states]), predictor.dropout, batch)
        predictions, targets = predictor(maps, kept)
        return {"predictions": predictions, "targets": targets}

    def shown(self, batch: Batch) -> tuple[tf.Tensor, list[str]]:
        """Return the blocks, and which are predicted from those before; see `Task.shown`."""
        views = self.views(batch)
        seen = views.shape[1] - self.predictor.num_predicted
        names = [
            f"block {n + 1}{'' if n < seen else ', to predict'}" for n in range(views.shape[1])
        ]
        return views, names * views.shape[0]

    def losses(self, outputs: Outputs, batch: Batch) -> LossResult:
        """Compute `own_target` of each position of the predicted blocks; directions add up.

        W ln(BPS) where all embeddings are alike.
        """
        del batch
        ways = zip(
            *(tf.unstack(outputs[name], axis=1) for name in ("predictions", "targets")), strict=True
        )
        results = [own_target(predictions, targets) for predictions, targets in ways]
        accuracy = [result.metrics["prediction_accuracy"] for result in results]
        return LossResult(
            tf.add_n([result.losses for result in results]),
            {"prediction_accuracy": tf.reduce_mean(accuracy, axis=0)},
        )


def own_target(predictions: tf.Tensor, targets: tf.Tensor) -> LossResult:
    """Compute InfoNCE of predictions whose negatives are all other targets, of all replicas:

        L_i = -log( exp(p_i . z_i) / sum over k of exp(p_i . z_k) ),

    of dot products as they are: neither of unit length nor with a temperature. Gradients reach the
    targets too.

    Args:
      predictions: float32 [..., E].
      targets: float32, of the same shape; those at the same place belong together.

    Returns:
      Losses [n], and "prediction_accuracy" [n]: whether no other target has a larger product.
    """
    queries, own = (tf.reshape(x, [-1, x.shape[-1]]) for x in (predictions, targets))
    keys, offset = distribution.gather(own)
    logits = tf.matmul(queries, keys, transpose_b=True)
    labels = offset + tf.range(tf.shape(queries)[0])
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    correct = tf.argmax(logits, axis=1, output_type=tf.int32) == labels
    return LossResult(losses, {"prediction_accuracy": tf.cast(correct, tf.float32)})
