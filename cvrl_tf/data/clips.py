"""Which frames make a clip: indices, no pixels yet (section 3.3 of the paper, temporal part).

A sampler is called with the number of frames L of a video and a seed, and answers frame indices
int32 [V, T]: V clips of T frames, `stride` apart. A video shorter than a clip loops.
"""

import dataclasses

import tensorflow as tf


def _consecutive(starts: tf.Tensor, num_frames: int, stride: int, length: tf.Tensor) -> tf.Tensor:
    """Indices [V, T] of clips that begin at `starts` [V], looping over a video of `length`."""
    return (starts[:, tf.newaxis] + tf.range(num_frames) * stride) % length


def _num_starts(num_frames: int, stride: int, length: tf.Tensor) -> tf.Tensor:
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
        return _consecutive(starts, self.num_frames, self.stride, length)


@dataclasses.dataclass(frozen=True)
class DecreasingPair:
    """Two clips, near ones more often than far ones (later versions of the paper; authors' code).

    With M = L - (T-1) * stride possible starts, the time between the starts has the density
    2 (M - delta) / M^2 on [0, M), whose inverse distribution function is
    delta = M (1 - sqrt(1 - u)). The earlier start is uniform on what is left, and which of the two
    clips is the earlier one is a coin toss.

    Attributes:
      num_frames: T.
      stride: frames from one frame of the clip to the next.
    """

    num_frames: int
    stride: int
    num_clips = 2

    def __call__(self, length: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draws = tf.random.stateless_uniform([3], seed)
        num_starts = _num_starts(self.num_frames, self.stride, length)
        delta = _below(1.0 - tf.sqrt(1.0 - draws[0]), num_starts)
        first = _below(draws[1], num_starts - delta)
        pair = tf.stack([first, first + delta])
        starts = tf.where(draws[2] < 0.5, pair, pair[::-1])
        return _consecutive(starts, self.num_frames, self.stride, length)


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
        return _consecutive(starts, self.num_frames, self.stride, length)
