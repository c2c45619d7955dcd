"""VINCE: video noise contrastive estimation (Gordon et al., 2020, arXiv 2003.07990).

"Watching the World Go By: Representation Learning from Unlabeled Videos"; numbers are those of the
authors' code, github.com/danielgordon10/vince. There a view is a frame, here a clip.
"""

import tensorflow as tf

from cvrl_tf.tasks.pretext.moco import MomentumContrast
from cvrl_tf.tasks.task import Batch


class Vince(MomentumContrast):
    """The first half of a video's clips is to find the second, among the keys of other videos.

    ln(1 + B - F + K) at chance, for B keys of all videos, F of each, and K in the queue.
    """

    min_batch = 2

    def split(self, views: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Tell which clips ask and which are keys: half of them each.

        Raises:
          ValueError: their number is odd.
        """
        if views.shape[1] % 2:
            raise ValueError(
                f"VINCE needs as many keys as queries of a video, not {views.shape[1]} clips: bind "
                "clips.UniformClips.num_clips to an even number."
            )
        half = views.shape[1] // 2
        return views[:, :half], views[:, half:]

    def shown(self, batch: Batch) -> tuple[tf.Tensor, list[str]]:
        """Return the clips, and which are queries or keys; see `Task.shown`."""
        views = self.views(batch)
        half = views.shape[1] // 2
        return views, [*["query"] * half, *["key"] * half] * views.shape[0]

    def pairs(self, same_video: tf.Tensor, same_row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """All keys of the video are positives, those of the other videos negatives."""
        del same_row
        return same_video, ~same_video
