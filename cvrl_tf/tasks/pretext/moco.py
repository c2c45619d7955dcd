"""MoCo on clips (He et al., CVPR 2020; Chen et al., 2020; Feichtenhofer et al., CVPR 2021).

"A Large-Scale Study on Unsupervised Spatiotemporal Representation Learning", arXiv 2104.14558,
whose code, github.com/facebookresearch/SlowFast, the numbers are of.
"""

import tensorflow as tf

from cvrl_tf import distribution
from cvrl_tf.augment.chain import ViewChains
from cvrl_tf.losses.multi_positive import multi_positive
from cvrl_tf.losses.result import LossResult
from cvrl_tf.models.encoder import Encoder
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.tasks.pretext.base import Outputs, PretextTask
from cvrl_tf.tasks.pretext.momentum import MomentumEncoder, Queue
from cvrl_tf.tasks.task import Batch


class MomentumContrast(PretextTask):
    """Each clip of a video is to find the others, among the keys of the last steps.

    The others are keys of the momentum encoder. Keys of other videos of the batch are no negatives
    yet: they are in the next step, when they are in the queue.
    """

    metric_names = ("contrastive_accuracy",)

    def __init__(
        self,
        encoder: Encoder,
        head: ProjectionHead,
        queue_size: int,
        momentum: float,
        anneal: bool,
        temperature: float,
        augment: ViewChains | None = None,
        weight_decay: float = 0.0,
        micro_batch: int | None = None,
    ) -> None:
        """Args:
        head: features [N, D] to embeddings [N, E].
        queue_size: K.
        momentum, anneal: see `MomentumEncoder`.
        temperature: t.
        encoder, augment, weight_decay, micro_batch: see `PretextTask`.
        """
        super().__init__(encoder, {"head": head}, augment, weight_decay, micro_batch)
        self._twins = MomentumEncoder(encoder, head, momentum, anneal)
        self._queue = Queue(queue_size, head.output_layer.units)
        self._temperature = temperature

    @property
    def checkpoint_roots(self) -> dict[str, tf.Module]:
        return super().checkpoint_roots | self._twins.roots | {"queue": self._queue}

    def on_begin(self) -> None:
        self._twins.copy()

    def after_step(self, step: tf.Tensor, total_steps: int | None) -> None:
        self._twins.update(step, total_steps)

    def split(self, views: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Tell which clips ask and which are keys; here all are both.

        Args:
          views: [B, V, ...].

        Returns:
          [B, Q, ...] and [B, P, ...].
        """
        return views, views

    def pairs(self, same_video: tf.Tensor, same_row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Tell which keys of the step are positives, and which negatives.

        Args:
          same_video: bool [n, m], whether query and key are of one video.
          same_row: bool [n, m], whether they stand in the same row of the batch's.

        Returns:
          bool [n, m], bool [n, m].
        """
        return same_video & ~same_row, tf.zeros_like(same_video)

    def embed(self, views: tf.Tensor, batch: Batch, training: bool) -> Outputs:
        """Compute "queries" [B, Q, E] and "keys" [B, P, E], of unit length."""
        asking, others = self.split(views)
        queries = super().embed(asking, batch, training)["head"]
        keys = self._twins(tf.reshape(others, [-1, *others.shape[2:]]))
        outputs = {"queries": (queries, asking), "keys": (keys, others)}
        return {
            name: tf.reshape(tf.nn.l2_normalize(x, 1), [-1, clips.shape[1], x.shape[1]])
            for name, (x, clips) in outputs.items()
        }

    def losses(self, outputs: Outputs, batch: Batch) -> LossResult:
        """Compute `multi_positive` of each query; ln(1 + K) at chance. Fills the queue."""
        del batch
        asking, per_video = outputs["queries"].shape[1], outputs["keys"].shape[1]
        queries, own = (
            tf.reshape(outputs[name], [-1, outputs[name].shape[2]]) for name in ("queries", "keys")
        )
        keys, offset = distribution.gather(own)
        keys = tf.stop_gradient(keys)
        rows = tf.range(tf.shape(queries)[0])
        videos = offset // per_video + rows // asking
        columns = tf.range(tf.shape(keys)[0])
        same_video = videos[:, tf.newaxis] == columns // per_video
        same_row = (offset + rows)[:, tf.newaxis] == columns
        positive, negative = self.pairs(same_video, same_row)
        result = multi_positive(
            queries, keys, self._queue.read(), positive, negative, self._temperature
        )
        self._queue.push(keys)
        return result
