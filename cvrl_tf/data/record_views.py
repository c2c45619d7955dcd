"""One record: where its clips lie, when their frames are, and the views of a test."""

import tensorflow as tf

from cvrl_tf.data import clips as clip_samplers
from cvrl_tf.data import records, timeline, views
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
        return views.extract(tf.gather(record["frames"], where.frames), crops, seeds)


def placed(
    record: dict[str, tf.Tensor],
    clips: clip_samplers.ClipSampler,
    seed: tf.Tensor,
    fps: float | None,
) -> timeline.Placement:
    """Place clips in a record of `records.parse`; see `timeline.place`."""
    return timeline.place(clips, _timeline(record, fps), seed)


def _timeline(record: dict[str, tf.Tensor], fps: float | None) -> timeline.Timeline:
    return timeline.Timeline.of(record["times"], record["frame_rate"], fps)


def _duration(record: dict[str, tf.Tensor]) -> tf.Tensor:
    """Seconds, float32 []; the last frame stays as long as frames do on average."""
    times = record["times"]
    return times[-1] + 1 / timeline.mean_rate(times, record["frame_rate"])


def seconds(record: dict[str, tf.Tensor], where: timeline.Placement) -> tf.Tensor:
    """Compute the times of chosen frames, float32 [V, T]; in a video that loops they continue."""
    before = tf.math.multiply_no_nan(_duration(record), tf.cast(where.loops, tf.float32))
    return tf.gather(record["times"], where.frames) + before


def spans(record: dict[str, tf.Tensor], sampling: Sampling, num_clips: int) -> tf.Tensor:
    """Compute from when to when the clips of `evaluation_views` last, float32 [K, 2].

    In seconds into the source, as players count. A clip lasts until the frame is shown that would
    be its next one, or the video ends. In a video that loops it lasts from the beginning to the
    end. Times that are unknown are not numbers.

    Args: as of `evaluation_views`, but for the record, which is one of `records.parse`.
    """
    clips, timeline = sampling.clips(num_clips), _timeline(record, sampling.fps)
    first = clips(timeline.length, tf.zeros([2], tf.int32))[:, 0]
    behind = first + clips.num_frames * clips.stride
    times = record["times"]
    next_shown = tf.gather(times, timeline.frames(tf.minimum(behind, timeline.length - 1)))
    ends = tf.where(behind < timeline.length, next_shown, _duration(record))
    return record["start"] + tf.stack([tf.gather(times, timeline.frames(first)), ends], axis=1)
