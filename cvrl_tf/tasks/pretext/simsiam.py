"""SimSiam on clips (Chen and He, CVPR 2021, arXiv 2011.10566): no negatives, no momentum."""

import tensorflow as tf

from cvrl_tf.augment.chain import ViewChains
from cvrl_tf.losses.negative_cosine import negative_cosine
from cvrl_tf.losses.result import LossResult
from cvrl_tf.models.encoder import Encoder
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.tasks.pretext.base import Outputs, PretextTask
from cvrl_tf.tasks.pretext.contrastive import feature_spread
from cvrl_tf.tasks.task import Batch


class SimSiam(PretextTask):
    """The predicted embedding of each clip points to the embeddings of the video's other clips."""

    metric_names = ("feature_spread",)

    def __init__(
        self,
        encoder: Encoder,
        head: ProjectionHead,
        predictor: ProjectionHead,
        augment: ViewChains | None = None,
        weight_decay: float = 0.0,
        micro_batch: int | None = None,
    ) -> None:
        """Args:
        head: features [N, D] to embeddings [N, E].
        predictor: embeddings to predicted embeddings [N, E].
        encoder, augment, weight_decay, micro_batch: see `PretextTask`.
        """
        predictor.build((None, head.output_layer.units))
        heads = {"head": head, "predictor": predictor}
        super().__init__(encoder, heads, augment, weight_decay, micro_batch)

    def embed(self, views: tf.Tensor, batch: Batch, training: bool) -> Outputs:
        """Compute of the clips "features" [B, V, D], "head" and "predictor" [B, V, E]."""
        frames = tf.reshape(views, [-1, *views.shape[2:]])
        features = self.encoder(frames, training=training)
        embeddings = self.head(features, training=training)
        predicted = self.predictor(embeddings, training=training)
        outputs = {"features": features, "head": embeddings, "predictor": predicted}
        clips = views.shape[1]
        return {name: tf.reshape(x, [-1, clips, x.shape[1]]) for name, x in outputs.items()}

    def losses(self, outputs: Outputs, batch: Batch) -> LossResult:
        """Compute `negative_cosine` of each clip. A collapse shows as a feature spread of 0."""
        del batch
        losses = negative_cosine(outputs["predictor"], outputs["head"])
        features = tf.reshape(outputs["features"], [-1, self.encoder.feature_dim])
        return LossResult(tf.reshape(losses, [-1]), {"feature_spread": feature_spread(features)})
