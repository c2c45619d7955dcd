"""BYOL on clips (Grill et al., 2020, arXiv 2006.07733; Feichtenhofer et al., CVPR 2021).

"A Large-Scale Study on Unsupervised Spatiotemporal Representation Learning", arXiv 2104.14558,
whose code, github.com/facebookresearch/SlowFast, the numbers are of.
"""

import tensorflow as tf

from cvrl_tf.augment.chain import ViewChains
from cvrl_tf.losses.result import LossResult
from cvrl_tf.models.encoder import Encoder
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.tasks.pretext.base import Outputs
from cvrl_tf.tasks.pretext.momentum import MomentumEncoder
from cvrl_tf.tasks.pretext.simsiam import SimSiam
from cvrl_tf.tasks.task import Batch


class Byol(SimSiam):
    """As SimSiam, but the targets are embeddings of a momentum encoder."""

    def __init__(
        self,
        encoder: Encoder,
        head: ProjectionHead,
        predictor: ProjectionHead,
        momentum: float,
        temperature: float = 0.5,
        augment: ViewChains | None = None,
        weight_decay: float = 0.0,
        micro_batch: int | None = None,
    ) -> None:
        """Args:
        momentum: of the momentum encoder, in the beginning; it grows to 1 by a cosine.
        temperature: divides the loss.
        encoder, head, predictor, augment, weight_decay, micro_batch: see `SimSiam`.
        """
        super().__init__(encoder, head, predictor, augment, weight_decay, micro_batch)
        self._twins = MomentumEncoder(encoder, head, momentum, anneal=True)
        self._temperature = temperature

    @property
    def checkpoint_roots(self) -> dict[str, tf.Module]:
        return super().checkpoint_roots | self._twins.roots

    def on_begin(self) -> None:
        self._twins.copy()

    def after_step(self, step: tf.Tensor, total_steps: int | None) -> None:
        self._twins.update(step, total_steps)

    def embed(self, views: tf.Tensor, batch: Batch, training: bool) -> Outputs:
        """Compute what `SimSiam` does, and "targets" [B, V, E]."""
        targets = self._twins(tf.reshape(views, [-1, *views.shape[2:]]))
        targets = tf.reshape(targets, [-1, views.shape[1], targets.shape[1]])
        return super().embed(views, batch, training) | {"targets": targets}

    def losses(self, outputs: Outputs, batch: Batch) -> LossResult:
        """Compute `negative_cosine` of each clip, divided by the temperature."""
        found = super().losses(outputs | {"head": outputs["targets"]}, batch)
        return LossResult(found.losses / self._temperature, found.metrics)
