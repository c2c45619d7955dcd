"""Where and how a clip moves: MotionPred (Wang et al., CVPR 2019, arXiv 1904.03597).

"Self-supervised Spatio-temporal Representation Learning for Videos by Predicting Motion and
Appearance Statistics"; numbers are those of the authors' code of the journal version,
github.com/laura-wang/video_repres_sts. There flow of TV-L1 lies on the disk; here the step
computes it.
"""

import tensorflow as tf
import tf_keras as keras

from cvrl_tf.augment.chain import ViewChains
from cvrl_tf.losses.result import LossResult
from cvrl_tf.models.encoder import Encoder
from cvrl_tf.tasks.pretext import statistics
from cvrl_tf.tasks.pretext.base import Outputs, PretextTask
from cvrl_tf.tasks.pretext.flow import optical_flow
from cvrl_tf.tasks.task import Batch


class MotionPrediction(PretextTask):
    """Two linear layers predict the statistics of motion and of appearance of each clip.

    Those of the frames before augmentation.
    """

    metric_names = ("motion_error", "appearance_error")

    def __init__(
        self,
        encoder: Encoder,
        appearance: float = 0.1,
        augment: ViewChains | None = None,
        weight_decay: float = 0.0,
        micro_batch: int | None = None,
    ) -> None:
        """Args:
        appearance: weight of the statistics of appearance; those of motion have 1.
        encoder, augment, weight_decay, micro_batch: see `PretextTask`.
        """
        sizes = {"motion": statistics.NUM_MOTION, "appearance": statistics.NUM_APPEARANCE}
        heads = {
            f"{name}_head": keras.Sequential([keras.layers.Dense(size, dtype="float32")])
            for name, size in sizes.items()
        }
        super().__init__(encoder, heads, augment, weight_decay, micro_batch)
        self._appearance = appearance

    def losses(self, outputs: Outputs, batch: Batch) -> LossResult:
        """Compute the mean squared errors of each clip.

        8.881 + 0.1 * 7.096 for the best constants, if clips have 16 frames and all statistics are
        equally frequent.
        """
        motion, appearance = clip_statistics(batch)
        motion_error = tf.reduce_mean((outputs["motion_head"] - motion) ** 2, axis=1)
        appearance_error = tf.reduce_mean((outputs["appearance_head"] - appearance) ** 2, axis=1)
        return LossResult(
            motion_error + self._appearance * appearance_error,
            {"motion_error": motion_error, "appearance_error": appearance_error},
        )

    def shown(self, batch: Batch) -> tuple[tf.Tensor, list[str]]:
        """Return the clips, and where each moves most to the side and down; see `Task.shown`."""
        motion, _ = clip_statistics(batch)
        cells = motion.numpy()[:, [0, 2]].astype(int)  # of four by four, row by row, from 1
        return self.views(batch), [f"moves in {u} and {v} of 16" for u, v in cells]


def clip_statistics(batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
    """Compute the statistics of all clips, float32 [B * V, 14] of motion and [B * V, 13] of color.

    Args:
      batch: of `data.pipeline`.

    Raises:
      ValueError: the frames are augmented already.
    """
    frames = batch["frames"]
    if frames.dtype != tf.uint8:
        raise ValueError(
            "MotionPrediction measures frames as they are recorded, and the input pipeline has "
            "augmented these: leave pipeline.Pipeline.augment at None."
        )
    frames = tf.reshape(frames, [-1, *frames.shape[2:]])
    flow = optical_flow(frames)
    return statistics.motion_statistics(flow), statistics.appearance_statistics(frames)
