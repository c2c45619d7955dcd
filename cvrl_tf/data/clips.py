"""Which frames make a clip: positions, no pixels yet (section 3.3 of the paper, temporal part).

A sampler is called with the number of frames L of a video and a seed, and returns positions
int32 [V, T]: V clips of T frames, `stride` apart. Where a video is shorter than a clip, they reach
beyond its end, and `timeline.place` loops: a clip may then begin at any frame, as in the authors'
code.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

import tensorflow as tf


class ClipSampler(Protocol):
    """Positions [V, T] from a video's length, int32 [], and a seed, int32 [2].

    Attributes:
      num_frames: T.
      stride: frames from one frame of a clip to the next, at pace 1.
      num_clips: V.
      span: L from which on no clip loops.
    """

    @property
    def num_frames(self) -> int: ...

    @property
    def stride(self) -> int: ...

    @property
    def num_clips(self) -> int: ...

    @property
    def span(self) -> int: ...

    def __call__(self, length: tf.Tensor, seed: tf.Tensor) -> tf.Tensor: ...


def _from(starts: tf.Tensor, num_frames: int, stride: int | tf.Tensor) -> tf.Tensor:
    """Positions [V, T] of clips that begin at `starts` [V], with one stride or one each [V, 1]."""
    return starts[:, tf.newaxis] + tf.range(num_frames) * stride


def _num_starts(last: int | tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """How many starts leave frame `last` of what is drawn inside the video; L where none does."""
    return tf.where(length > last, length - last, length)


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

    @property
    def span(self) -> int:
        return (self.num_frames - 1) * self.stride + 1

    def __call__(self, length: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draws = tf.random.stateless_uniform([self.num_clips], seed)
        starts = _below(draws, _num_starts((self.num_frames - 1) * self.stride, length))
        return _from(starts, self.num_frames, self.stride)


@dataclasses.dataclass(frozen=True)
class DecreasingPair:
    """Two clips, near ones more often than far ones (later versions of the paper; authors' code).

    With M = L - (T-1) * stride possible starts, the time between the starts has a density that
    falls as 1 - (delta / M)^p on [0, M). Which is the density of M u v^(1 / (p+1)), u and v
    uniform: given v it is uniform below M v^(1 / (p+1)). The earlier start is uniform on what is
    left, and which of the two clips is the earlier one is a coin toss. In a video shorter than a
    clip, both starts are drawn uniformly and independently, as in the authors' code.

    Attributes:
      num_frames: T.
      stride: frames from one frame of the clip to the next.
      power: p; the authors' is 1, and the larger the nearer to uniform.
    """

    num_frames: int
    stride: int
    power: float = 1.0
    num_clips = 2

    @property
    def span(self) -> int:
        return (self.num_frames - 1) * self.stride + 1

    def __call__(self, length: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draws = tf.random.stateless_uniform([4], seed)
        last = (self.num_frames - 1) * self.stride
        num_starts = _num_starts(last, length)
        delta = _below(draws[0] * draws[3] ** (1 / (self.power + 1)), num_starts)
        first = _below(draws[1], num_starts - delta)
        pair = tf.stack([first, first + delta])
        starts = tf.where(draws[2] < 0.5, pair, tf.reverse(pair, [0]))
        starts = tf.where(length > last, starts, _below(draws[:2], length))
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

    @property
    def span(self) -> int:
        return (self.num_frames - 1) * self.stride + 1

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

    @property
    def span(self) -> int:
        return (self.num_frames - 1) * self.stride + 1

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

    In a video shorter than all of them together, it is uniform over the video. Clip v begins at
    start + v * (T * stride + gap).

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

    @property
    def _step(self) -> int:
        """Frames from the beginning of a clip to that of the next."""
        return self.num_frames * self.stride + self.gap

    @property
    def span(self) -> int:
        return (self.num_clips - 1) * self._step + (self.num_frames - 1) * self.stride + 1

    def __call__(self, length: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draws = tf.random.stateless_uniform([1], seed)
        starts = _below(draws, _num_starts(self.span - 1, length))
        starts += self._step * tf.range(self.num_clips)
        return _from(starts, self.num_frames, self.stride)


@dataclasses.dataclass(frozen=True)
class SegmentClips:
    """One clip of each of V equal parts of a video, its start uniform in the part.

    Where a part is shorter than a clip, the clip runs into the next one.

    Attributes:
      num_frames: T.
      stride: frames from one frame of the clip to the next.
      num_clips: V.
    """

    num_frames: int
    stride: int
    num_clips: int

    @property
    def span(self) -> int:
        return self.num_clips * ((self.num_frames - 1) * self.stride + 1)

    def __call__(self, length: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draws = tf.random.stateless_uniform([self.num_clips], seed)
        part = tf.maximum(length // self.num_clips, 1)
        starts = _below(draws, _num_starts((self.num_frames - 1) * self.stride, part))
        return _from(starts + part * tf.range(self.num_clips), self.num_frames, self.stride)


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

    @property
    def span(self) -> int:
        return (self.num_frames - 1) * self.stride * max(self.paces) + 1

    def __call__(self, length: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draws = tf.random.stateless_uniform([2, self.num_clips], seed)
        paces = tf.constant(self.paces, tf.int32)
        if self.drawn_clips:
            paces = tf.gather(paces, _below(draws[1], tf.size(paces)))
        strides = self.stride * paces
        starts = _below(draws[0], _num_starts((self.num_frames - 1) * strides, length))
        return _from(starts, self.num_frames, strides[:, tf.newaxis])


@dataclasses.dataclass(frozen=True)
class SpedUpPair:
    """A clip at normal speed, and one that is sped up (SpeedNet).

    Each draws a factor f and leaves out every frame with probability 1 - 1/f, so that the frames of
    a clip are f * stride apart on average, but not evenly. Starts are uniform and independent.

    Attributes:
      num_frames: T.
      stride: frames from one frame of the clip to the next at factor 1.
      normal, fast: ranges of the factors, drawn uniformly.
    """

    num_frames: int
    stride: int
    normal: tuple[float, float] = (1.0, 1.2)
    fast: tuple[float, float] = (1.7, 2.2)
    num_clips = 2

    @property
    def span(self) -> int:
        """Of the fastest clips on average: how many frames are left out is drawn."""
        return math.ceil((self.num_frames - 1) * self.stride * self.fast[1]) + 1

    def __call__(self, length: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draws = tf.random.stateless_uniform([2, 1 + self.num_frames], seed)
        least, most = tf.unstack(tf.constant([self.normal, self.fast]), axis=1)
        left_out = 1 - 1 / (least + draws[:, 0] * (most - least))
        # How many follow each other that are left out has a geometric distribution.
        runs = tf.math.log1p(-draws[:, 2:]) / tf.math.log(left_out[:, tf.newaxis])
        steps = self.stride * (1 + tf.cast(runs, tf.int32))
        offsets = tf.concat([tf.zeros([2, 1], tf.int32), tf.cumsum(steps, axis=1)], axis=1)
        starts = _below(draws[:, 1], _num_starts(offsets[:, -1], length))
        return starts[:, tf.newaxis] + offsets
