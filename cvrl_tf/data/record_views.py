"""One record: where its clips lie, when their frames are, and the views of a test."""

import tensorflow as tf

from cvrl_tf.data import clips as clip_samplers
from cvrl_tf.data import records, views
from cvrl_tf.data.sampling import Sampling


def evaluation_views(
    serialized: tf.Tensor, sampling: Sampling, num_clips: int, num_crops: int
) -> tf.Tensor:
    """Make the views of one record as `Pipeline.eval_batches` does, where nothing is drawn.

    Args:
      serialized: string [].
      sampling: what a clip is.
      num_clips: K, evenly spaced over the video.
      num_crops: C of each clip.

    Returns:
      uint8 [K * C, T, size, size, 3]; a clip's crops stand side by side.

    Raises:
      InvalidArgumentError: it is no record, has no frames, or one that doesn't decode.
    """
    record = records.parse(serialized)
    length = tf.size(record["frames"])
    some = tf.debugging.assert_positive(length, "A record has at least one frame.")
    seeds = tf.zeros([num_clips, 2], tf.int32)
    with tf.control_dependencies([some]):
        where = placed(record, sampling.clips(num_clips), seeds[0], sampling.fps)
        crops = sampling.crops(num_crops)
        return views.extract(record["frames"], where.frames, crops, seeds)


def placed(
    record: dict[str, tf.Tensor],
    clips: clip_samplers.ClipSampler,
    seed: tf.Tensor,
    fps: float | None,
) -> clip_samplers.Placement:
    """Place clips in a record of `records.parse`; see `clips.place`."""
    length = tf.size(record["frames"])
    return clip_samplers.place(clips, length, seed, record["frame_rate"], fps)


def seconds(record: dict[str, tf.Tensor], where: clip_samplers.Placement) -> tf.Tensor:
    """Compute the times of chosen frames, float32 [V, T]; in a video that loops they continue."""
    times = record["times"]
    length = tf.cast(tf.size(times), tf.float32)
    # The last frame stays as long as the others do on average.
    duration = (times[-1] - times[0]) * length / tf.maximum(length - 1, 1)
    return tf.gather(times, where.frames) + tf.cast(where.loops, tf.float32) * duration
