"""How fast a clip plays: pace prediction (Wang, Jiao and Liu, ECCV 2020, arXiv 2008.05861).

"Self-supervised Video Representation Learning by Pace Prediction"; numbers are those of the
authors' code, github.com/laura-wang/video-pace, which leaves the contrastive term out.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tf_keras as keras

from cvrl_tf import distribution
from cvrl_tf.augment.chain import ViewChains
from cvrl_tf.losses.info_nce import InfoNCE
from cvrl_tf.losses.result import LossResult
from cvrl_tf.models.encoder import Encoder
from cvrl_tf.tasks.pretext.base import Outputs, PretextTask
from cvrl_tf.tasks.task import Batch


class PacePrediction(PretextTask):
    """A linear layer says the pace of each clip, and the two clips of a video attract.

    The clips come from `clips.PacedClips`; their positions tell the pace, also where a video loops.
    """

    metric_names = ("pace_accuracy", "contrastive_accuracy")
    min_batch = 2  # the clips of another video are the negatives

    def __init__(
        self,
        encoder: Encoder,
        context_head: keras.Model,
        paces: Sequence[int],
        stride: int,
        contrast: float = 0.1,
        temperature: float = 1.0,
        augment: ViewChains | None = None,
        weight_decay: float = 0.0,
        micro_batch: int | None = None,
    ) -> None:
        """Args:
        context_head: features [N, D] to embeddings [N, E], which the contrastive term compares.
        paces, stride: those of the clip sampler.
        contrast: weight of the contrastive term; the classification has 1.
        temperature: of the contrastive term.
        encoder, augment, weight_decay, micro_batch: see `PretextTask`.
        """
        classifier = keras.Sequential([keras.layers.Dense(len(paces), dtype="float32")])
        heads = {"pace_classifier": classifier, "context_head": context_head}
        super().__init__(encoder, heads, augment, weight_decay, micro_batch)
        self._paces = np.asarray(paces, np.int32)
        self._strides = stride * self._paces
        self._contrast, self._context_loss = contrast, InfoNCE(temperature)

    def shown(self, batch: Batch) -> tuple[tf.Tensor, list[str]]:
        """Return the clips and the pace of each; see `Task.shown`."""
        paces = np.take(self._paces, pace_labels(batch, self._strides))
        return self.views(batch), [f"pace {pace}" for pace in paces]

    def losses(self, outputs: Outputs, batch: Batch) -> LossResult:
        """Compute of each clip the cross-entropy plus `contrast` times InfoNCE.

        ln 4 + 0.1 ln(2N - 1) at chance, for 4 paces and two clips of N videos.
        """
        logits = outputs["pace_classifier"]
        labels = pace_labels(batch, self._strides)
        paced = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        correct = tf.argmax(logits, axis=1, output_type=tf.int32) == labels
        keys, offset = distribution.gather(outputs["context_head"])
        context, metrics = self._context_loss(outputs["context_head"], keys, offset)
        return LossResult(
            paced + self._contrast * context,
            {
                "pace_accuracy": tf.cast(correct, tf.float32),
                "contrastive_accuracy": metrics["contrastive_accuracy"],
            },
        )


def pace_labels(batch: Batch, strides: np.ndarray) -> tf.Tensor:
    """Tell from the positions which stride each clip has, int32 [B * V], as its place in `strides`.

    Args:
      batch: of `data.pipeline`.
      strides: int32, frames from one frame of a clip to the next, at each pace.
    """
    positions = tf.reshape(batch["positions"], [-1, batch["positions"].shape[-1]])
    steps = positions[:, 1] - positions[:, 0]
    return tf.argmax(steps[:, tf.newaxis] == strides, axis=1, output_type=tf.int32)
