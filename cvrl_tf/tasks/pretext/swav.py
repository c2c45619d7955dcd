"""SwAV on clips (Caron et al., 2020, arXiv 2006.09882; Feichtenhofer et al., CVPR 2021).

"A Large-Scale Study on Unsupervised Spatiotemporal Representation Learning", arXiv 2104.14558,
whose code, github.com/facebookresearch/SlowFast, the numbers are of.
"""

from collections.abc import Sequence

import tensorflow as tf
import tf_keras as keras

from cvrl_tf import distribution
from cvrl_tf.augment.chain import ViewChains
from cvrl_tf.losses.result import LossResult
from cvrl_tf.losses.sinkhorn import Sinkhorn
from cvrl_tf.models.encoder import Encoder
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.tasks.pretext.base import Outputs, PretextTask
from cvrl_tf.tasks.task import Batch


class Swav(PretextTask):
    """Each clip of a video is to tell to which prototypes the others are assigned.

    A prototype is a direction; the assignments, or codes, come from `Sinkhorn` over the clips of
    the global batch that stand at the same place in their videos.
    """

    metric_names = ("code_entropy", "prototypes_used")
    min_batch = 2  # a clip alone is assigned to all prototypes alike

    def __init__(
        self,
        encoder: Encoder,
        head: ProjectionHead,
        num_prototypes: int,
        temperature: float,
        codes: Sinkhorn,
        frozen: float,
        augment: ViewChains | None = None,
        weight_decay: float = 0.0,
        micro_batch: int | None = None,
    ) -> None:
        """Args:
        head: features [N, D] to embeddings [N, E].
        num_prototypes: K.
        temperature: t, of the predictions.
        codes: assigns the clips.
        frozen: share of the training, from its beginning on, in which prototypes don't move.
        encoder, augment, weight_decay, micro_batch: see `PretextTask`.
        """
        prototypes = keras.layers.Dense(
            num_prototypes,
            use_bias=False,
            kernel_constraint=keras.constraints.UnitNorm(axis=0),  # after each step
            dtype="float32",
        )
        prototypes.build((None, head.output_layer.units))
        prototypes.kernel.assign(tf.math.l2_normalize(prototypes.kernel, axis=0))
        heads = {"head": head, "prototypes": prototypes}
        super().__init__(encoder, heads, augment, weight_decay, micro_batch)
        self._temperature, self._codes, self._frozen = temperature, codes, frozen

    @property
    def undecayed(self) -> Sequence[tf.Variable]:
        return (self.prototypes.kernel,)

    def embed(self, views: tf.Tensor, batch: Batch, training: bool) -> Outputs:
        """Compute the cosines of the clips with the prototypes, "scores" [B, V, K]."""
        del batch
        frames = tf.reshape(views, [-1, *views.shape[2:]])
        embeddings = self.head(self.encoder(frames, training=training), training=training)
        scores = self.prototypes(tf.math.l2_normalize(embeddings, axis=1))
        return {"scores": tf.reshape(scores, [-1, views.shape[1], scores.shape[1]])}

    def losses(self, outputs: Outputs, batch: Batch) -> LossResult:
        """Compute the cross-entropy of each clip with the mean code of the video's other clips.

        ln K at chance, and where embeddings don't differ any more: then the entropy of the codes is
        ln K too.
        """
        del batch
        scores = outputs["scores"]
        clips, count = scores.shape[1:]
        rows, begin = distribution.gather(tf.reshape(scores, [-1, clips * count]))
        everywhere = tf.reshape(rows, [-1, clips, count])
        codes = self._codes(everywhere)
        own = codes[begin : begin + tf.shape(scores)[0]]
        others = (tf.reduce_sum(own, axis=1, keepdims=True) - own) / (clips - 1)
        losses = tf.nn.softmax_cross_entropy_with_logits(others, scores / self._temperature)
        entropy = -tf.reduce_sum(tf.math.xlogy(own, own), axis=2)
        metrics = {
            "code_entropy": tf.reshape(entropy, [-1]),
            "prototypes_used": prototypes_used(everywhere),
        }
        return LossResult(tf.reshape(losses, [-1]), metrics)

    def gradients(self, batch: Batch) -> tuple[tf.Tensor, list, dict]:
        """Compute the same as every task, but 0 for prototypes that don't move yet."""
        objective, gradients, metrics = super().gradients(batch)
        if not self._frozen:
            return objective, gradients, metrics
        if self.total_steps is None:
            raise ValueError(
                f"frozen={self._frozen} is a share of the training, whose length is not known: set "
                "the task's total_steps before `fit`, as a run does."
            )
        done = tf.cast(self.optimizer.iterations, tf.float32)
        moves = tf.cast(done >= self._frozen * self.total_steps, tf.float32)
        kernel = self.prototypes.kernel
        gradients = [
            moves * slope if variable is kernel else slope
            for variable, slope in zip(self.trainable_variables, gradients, strict=True)
        ]
        return objective, gradients, metrics


def prototypes_used(scores: tf.Tensor) -> tf.Tensor:
    """Measure the share of the prototypes that are some clip's nearest, float32 [].

    At most the number of clips by that of prototypes. If all embeddings are alike, it is 1 / K.

    Args:
      scores: [..., K].
    """
    count = scores.shape[-1]
    nearest = tf.one_hot(tf.argmax(tf.reshape(scores, [-1, count]), axis=1), count)
    return tf.reduce_mean(tf.reduce_max(nearest, axis=0))
