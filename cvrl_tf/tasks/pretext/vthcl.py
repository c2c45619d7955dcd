"""VTHCL: a video at two tempos is the same video (Yang et al., 2020, arXiv 2006.15489).

"Video Representation Learning with Visual Tempo Consistency". The training code is not published;
the loss is that of the authors of CMC, github.com/HobbitLong/CMC, at several depths.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from cvrl_tf import distribution
from cvrl_tf.augment.chain import ViewChains
from cvrl_tf.losses.multi_positive import multi_positive
from cvrl_tf.losses.result import LossResult
from cvrl_tf.models import convolution
from cvrl_tf.models import encoder as encoders
from cvrl_tf.models.encoder import Encoder
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.tasks.pretext.base import Outputs, PretextTask
from cvrl_tf.tasks.pretext.momentum import Queue
from cvrl_tf.tasks.task import Batch

TEMPOS = ("slow", "fast")


class Vthcl(PretextTask):
    """The slow clip of a video is to find the fast one among others, and the other way round.

    They are the two clips of `clips.PacedClips`, of few and of many frames a second. Each stage of
    the encoder that is asked has a head. Keys come from the same encoder, without gradient, and the
    negatives are those of the last steps: from queues instead of the memory banks of CMC, which
    have a key of every video.
    """

    metric_names = ("contrastive_accuracy",)

    def __init__(
        self,
        encoder: Encoder,
        head: Callable[[], ProjectionHead],
        stages: Sequence[int],
        queue_size: int,
        temperature: float,
        augment: ViewChains | None = None,
        weight_decay: float = 0.0,
        micro_batch: int | None = None,
    ) -> None:
        """Args:
        head: makes the head of a stage: its features, the average of its map, to embeddings.
        stages: numbers of the encoder's stages, from the stem's 0 on.
        queue_size: K, keys of each tempo and stage.
        temperature: t.
        encoder, augment, weight_decay, micro_batch: see `PretextTask`.
        """
        encoder.build(encoders.INPUT_SHAPE)
        with convolution.no_gradients():
            traced = tf.function(encoder.feature_maps, autograph=False).get_concrete_function(
                tf.TensorSpec(encoders.INPUT_SHAPE)
            )
        heads = {f"stage{number}_head": head() for number in stages}
        for number, each in zip(stages, heads.values(), strict=True):
            each.build((None, traced.structured_outputs[number].shape[-1]))
        super().__init__(encoder, heads, augment, weight_decay, micro_batch)
        self._stages, self._temperature = tuple(stages), temperature
        self._queues = {
            f"{tempo}_{name}_queue": Queue(queue_size, each.output_layer.units)
            for name, each in heads.items()
            for tempo in TEMPOS
        }

    @property
    def checkpoint_roots(self) -> dict[str, tf.Module]:
        return super().checkpoint_roots | self._queues

    def embed(self, views: tf.Tensor, batch: Batch, training: bool) -> Outputs:
        """Compute an embedding of each clip and stage.

        Returns:
          "stage4_head" and so on: [B, 2, E], of unit length, by the numbers of the stages.

        Raises:
          ValueError: there are not two clips of a video.
        """
        del batch
        if views.shape[1] != len(TEMPOS):
            raise ValueError(
                f"VTHCL compares a slow clip of a video with a fast one, not {views.shape[1]} "
                "clips: bind clips.PacedClips.paces to two, such as (2, 1)."
            )
        frames = tf.reshape(views, [-1, *views.shape[2:]])
        maps = self.encoder.feature_maps(frames, training)
        outputs = {}
        for number, name in zip(self._stages, self._head_names, strict=True):
            features = tf.reduce_mean(tf.cast(maps[number], tf.float32), axis=[1, 2, 3])
            embeddings = getattr(self, name)(features, training=training)
            unit = tf.math.l2_normalize(embeddings, axis=1)
            outputs[name] = tf.reshape(unit, [-1, len(TEMPOS), unit.shape[1]])
        return outputs

    def shown(self, batch: Batch) -> tuple[tf.Tensor, list[str]]:
        """Return the clips, and which are slow; see `Task.shown`."""
        views = self.views(batch)
        return views, list(TEMPOS) * views.shape[0]

    def losses(self, outputs: Outputs, batch: Batch) -> LossResult:
        """Compute the sum of the losses of a video over stages and tempos. Fills the queues.

        2 D ln(1 + K) at chance, for D stages.
        """
        del batch
        results = []
        for name in self._head_names:
            slow, fast = tf.unstack(outputs[name], axis=1)
            results.append(self._contrast(slow, fast, self._queues[f"fast_{name}_queue"]))
            results.append(self._contrast(fast, slow, self._queues[f"slow_{name}_queue"]))
        accuracies = [result.metrics["contrastive_accuracy"] for result in results]
        return LossResult(
            tf.add_n([result.losses for result in results]),
            {"contrastive_accuracy": tf.add_n(accuracies) / len(accuracies)},
        )

    def _contrast(self, queries: tf.Tensor, keys: tf.Tensor, queue: Queue) -> LossResult:
        """Of each query, whose key is in the same row; pushes the keys."""
        keys = tf.stop_gradient(keys)
        positive = tf.eye(tf.shape(queries)[0], dtype=tf.bool)
        negative = tf.zeros_like(positive)  # other videos' keys are, from the next step on
        result = multi_positive(queries, keys, queue.read(), positive, negative, self._temperature)
        queue.push(distribution.gather(keys)[0])
        return result
