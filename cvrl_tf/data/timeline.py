"""How the frames of a video are counted, and which ones a sampler's positions are."""

import dataclasses

import tensorflow as tf

from cvrl_tf.data.clips import ClipSampler


@dataclasses.dataclass(frozen=True)
class Timeline:
    """The frames of a video as a sampler counts them: one by one, or in ticks of a rate.

    Attributes:
      length: int32 [], how many it counts.
      step: float32 [], frames of mean duration from one tick to the next; None: one by one.
      begins: float32 [L], from which tick on, times `step`, each frame is chosen; None likewise.
    """

    length: tf.Tensor
    step: tf.Tensor | None = None
    begins: tf.Tensor | None = None

    @classmethod
    def of(cls, times: tf.Tensor, frame_rate: tf.Tensor, fps: float | None) -> "Timeline":
        """Count in frames, or in ticks of 1/fps of a second.

        At a tick it is the nearest frame's turn. But a frame that stays longer than the video's
        frames do on average is left only half a mean duration before the next one is shown.

        Args:
          times: float32 [L], seconds from the first frame; not numbers if unknown.
          frame_rate: float32 [], 0 if unknown.
          fps: the rate in which to count; None for that of each video. Where neither times nor rate
            are known, the video is taken to have this rate.
        """
        count = tf.size(times)
        if fps is None:
            return cls(count)
        rate = mean_rate(times, frame_rate)
        shown, index = times * rate, tf.cast(tf.range(count), tf.float32)
        # At a constant rate, without the rounding of time stamps.
        is_even = tf.reduce_all(tf.abs(shown - index) < 0.5) | tf.math.is_nan(rate)
        shown = tf.where(is_even, index, shown)
        step = tf.where(tf.math.is_nan(rate), 1.0, rate / fps)
        ticks = tf.cast((shown[-1] + 1) / step, tf.int32)  # the last frame has the mean duration
        before = tf.minimum(shown[1:] - shown[:-1], 1)
        return cls(tf.maximum(ticks, 1), step, shown + 0.5 - 0.5 * tf.concat([[1.0], before], 0))

    def frames(self, positions: tf.Tensor) -> tf.Tensor:
        """Return the frames of the video, int32 [...], at positions below `length`."""
        if self.step is None:
            return positions
        ticks = tf.cast(tf.reshape(positions, [-1]), tf.float32) * self.step + 0.5
        frames = tf.searchsorted(self.begins, ticks, side="right") - 1
        return tf.reshape(frames, tf.shape(positions))


def mean_rate(times: tf.Tensor, frame_rate: tf.Tensor) -> tf.Tensor:
    """Return frames per second, float32 []: the given rate, or that of the times; NaN if unknown.

    Args: as of `Timeline.of`.
    """
    elapsed = times[-1] - times[0]
    steps = tf.cast(tf.size(times) - 1, tf.float32)
    measured = tf.where(elapsed > 0, steps / elapsed, float("nan"))
    return tf.where(frame_rate > 0, frame_rate, measured)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the clips of a video lie.

    Attributes:
      positions: int32 [V, T], frames or ticks as the sampler counts them, before looping.
      frames: int32 [V, T], frames of the video, in [0, L).
      loops: int32 [V, T], how often the video has begun anew before.
    """

    positions: tf.Tensor
    frames: tf.Tensor
    loops: tf.Tensor


def place(sampler: ClipSampler, timeline: Timeline, seed: tf.Tensor) -> Placement:
    """Place clips in a video; one shorter than a clip loops.

    On a timeline with a rate the sampler chooses what it would choose if the video had that frame
    rate, so that a stride means the same time in all videos: a clip of 16 frames with stride 2 at
    25 frames a second spans 1.2 s.

    Args:
      sampler: counts in frames.
      timeline: of the video.
      seed: int32 [2].
    """
    positions = sampler(timeline.length, seed)
    frames = timeline.frames(positions % timeline.length)
    return Placement(positions, frames, positions // timeline.length)
