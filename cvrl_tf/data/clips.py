"""Which frames make a clip: positions, no pixels yet (section 3.3 of the paper, temporal part).

A sampler is called with the number of frames L of a video and a seed, and returns positions
int32 [V, T]: V clips of T frames, `stride` apart. Where a video is shorter than a clip, they lie
beyond its end, and `place` loops.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import tensorflow as tf


class ClipSampler(Protocol):
    """Positions [V, T] from a video's length, int32 [], and a seed, int32 [2].

    Attributes:
      num_frames: T.
      stride: frames from one frame of a clip to the next, at pace 1.
      num_clips: V.
    """

    @property
    def num_frames(self) -> int: ...

    @property
    def stride(self) -> int: ...

    @property
    def num_clips(self) -> int: ...

    def __call__(self, length: tf.Tensor, seed: tf.Tensor) -> tf.Tensor: ...


def _from(starts: tf.Tensor, num_frames: int, stride: int | tf.Tensor) -> tf.Tensor:
    """Positions [V, T] of clips that begin at `starts` [V], with one stride or one each [V, 1]."""
    return starts[:, tf.newaxis] + tf.range(num_frames) * stride


def _num_starts(num_frames: int, stride: int | tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """How many starts leave the whole clip inside the video; at least 1."""
    return tf.maximum(length - (num_frames - 1) * stride, 1)


def _below(uniform: tf.Tensor, limit: tf.Tensor) -> tf.Tensor:
    """Turns U[0, 1) into uniform integers of [0, limit)."""
    scaled = tf.cast(uniform * tf.cast(limit, tf.float32), tf.int32)
    return tf.minimum(scaled, limit - 1)  # float32 may round up to the limit


@dataclasses.dataclass(frozen=True)
class UniformClips:
    """Clips whose starts are drawn uniformly and independently.

    Two are the pair of the paper's first version; one is for supervised and the probe's training.

    Attributes:
      num_frames: T.
      stride: frames from one frame of the clip to the next.
      num_clips: V.
    """

    num_frames: int
    stride: int
    num_clips: int

    def __call__(self, length: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draws = tf.random.stateless_uniform([self.num_clips], seed)
        starts = _below(draws, _num_starts(self.num_frames, self.stride, length))
        return _from(starts, self.num_frames, self.stride)


@dataclasses.dataclass(frozen=True)
class DecreasingPair:
    """Two clips, near ones more often than far ones (later versions of the paper; authors' code).

    With M = L - (T-1) * stride possible starts, the time between the starts has a density that
    falls as 1 - (delta / M)^p on [0, M). Which is the density of M u v^(1 / (p+1)), u and v
    uniform: given v it is uniform below M v^(1 / (p+1)). The earlier start is uniform on what is
    left, and which of the two clips is the earlier one is a coin toss.

    Attributes:
      num_frames: T.
      stride: frames from one frame of the clip to the next.
      power: p; the authors' is 1, and the larger the nearer to uniform.
    """

    num_frames: int
    stride: int
    power: float = 1.0
    num_clips = 2

    def __call__(self, length: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draws = tf.random.stateless_uniform([4], seed)
        num_starts = _num_starts(self.num_frames, self.stride, length)
        delta = _below(draws[0] * draws[3] ** (1 / (self.power + 1)), num_starts)
        first = _below(draws[1], num_starts - delta)
        pair = tf.stack([first, first + delta])
        starts = tf.where(draws[2] < 0.5, pair, tf.reverse(pair, [0]))
        return _from(starts, self.num_frames, self.stride)


@dataclasses.dataclass(frozen=True)
class SamePair:
    """The same clip twice, its start uniform: the 'spatial augmentation only' row of table 4.

    Attributes:
      num_frames: T.
      stride: frames from one frame of the clip to the next.
    """

    num_frames: int
    stride: int
    num_clips = 2

    def __call__(self, length: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return tf.repeat(UniformClips(self.num_frames, self.stride, 1)(length, seed), 2, axis=0)


@dataclasses.dataclass(frozen=True)
class EvenClips:
    """Clips evenly spaced over a video, the first at its start and the last at L - T * stride.

    The authors' test protocol has ten (section 4.1). One clip is taken from the middle.

    Attributes:
      num_frames: T.
      stride: frames from one frame of the clip to the next.
      num_clips: V.
    """

    num_frames: int
    stride: int
    num_clips: int

    def __call__(self, length: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        del seed  # nothing here is random
        last = tf.cast(tf.maximum(length - self.num_frames * self.stride, 0), tf.float32)
        if self.num_clips == 1:
            starts = tf.cast([last / 2], tf.int32)
        else:
            starts = tf.cast(tf.linspace(0.0, last, self.num_clips), tf.int32)
        return _from(starts, self.num_frames, self.stride)


@dataclasses.dataclass(frozen=True)
class ConsecutiveClips:
    """Clips one behind the other, the first start uniform over what leaves all of them inside.

    Clip v begins at start + v * (T * stride + gap).

    Attributes:
      num_frames: T.
      stride: frames from one frame of the clip to the next.
      num_clips: V.
      gap: frames between the end of a clip and the beginning of the next.
    """

    num_frames: int
    stride: int
    num_clips: int
    gap: int = 0

    def __call__(self, length: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        step = self.num_frames * self.stride + self.gap
        room = length - (self.num_clips - 1) * step
        start = _below(
            tf.random.stateless_uniform([1], seed), _num_starts(self.num_frames, self.stride, room)
        )
        return _from(start + step * tf.range(self.num_clips), self.num_frames, self.stride)


@dataclasses.dataclass(frozen=True)
class PacedClips:
    """Clips of several paces: at pace p, frames are p * stride apart. Starts are uniform.

    Attributes:
      num_frames: T.
      stride: frames from one frame of the clip to the next at pace 1.
      paces: if `drawn_clips` is None, those of the clips, in order; else to draw from.
      drawn_clips: V, of paces drawn uniformly and independently.
    """

    num_frames: int
    stride: int
    paces: Sequence[int]
    drawn_clips: int | None = None

    @property
    def num_clips(self) -> int:
        return self.drawn_clips or len(self.paces)

    def __call__(self, length: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draws = tf.random.stateless_uniform([2, self.num_clips], seed)
        paces = tf.constant(self.paces, tf.int32)
        if self.drawn_clips:
            paces = tf.gather(paces, _below(draws[1], tf.size(paces)))
        strides = self.stride * paces
        starts = _below(draws[0], _num_starts(self.num_frames, strides, length))
        return _from(starts, self.num_frames, strides[:, tf.newaxis])


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the clips of a video lie.

    Attributes:
      positions: int32 [V, T], frames as the sampler counts them (of the video, or of the same
        video at another rate), before looping.
      frames: int32 [V, T], frames of the video, in [0, L).
      loops: int32 [V, T], how often the video has begun anew before.
    """

    positions: tf.Tensor
    frames: tf.Tensor
    loops: tf.Tensor


def place(
    sampler: ClipSampler,
    length: tf.Tensor,
    seed: tf.Tensor,
    frame_rate: tf.Tensor,
    fps: float | None,
) -> Placement:
    """Place clips in a video; one shorter than a clip loops.

    With `fps` the sampler chooses what it would choose if the video had that frame rate, so that a
    stride means the same time in all videos: a clip of 16 frames with stride 2 at 25 frames a
    second spans 1.2 s.

    Args:
      sampler: counts in frames.
      length: int32 [], frames of the video.
      seed: int32 [2].
      frame_rate: float32 [], of the video; 0 if unknown, and then it is taken as it is.
      fps: the rate in which the sampler counts; None for that of each video.
    """
    if fps is None:
        positions = sampler(length, seed)
        return Placement(positions, positions % length, positions // length)
    step = tf.where(frame_rate > 0, frame_rate / fps, 1.0)  # from one frame at `fps` to the next
    at_rate = tf.maximum(tf.cast(tf.cast(length, tf.float32) / step, tf.int32), 1)
    positions = sampler(at_rate, seed)
    frames = tf.cast(tf.cast(positions % at_rate, tf.float32) * step + 0.5, tf.int32)
    return Placement(positions, tf.minimum(frames, length - 1), positions // at_rate)
