"""One example: first which frames, then their bytes, then the pixels."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from cvrl_tf.data import clips as clip_samplers
from cvrl_tf.data import reading, record_views, views

# Which draw a seed is for; folded into the seed of the example.
_CLIPS, _CROPS, _PHOTOMETRIC = range(3)


@dataclasses.dataclass(frozen=True)
class Examples:
    """Makes the examples of a `Pipeline` from records; both steps are for `Dataset.map`.

    Attributes:
      reader: of the split.
      clips, crop, fps, augment: as of the `Pipeline`.
    """

    reader: reading.Reader
    clips: clip_samplers.ClipSampler
    crop: views.Crop
    fps: float | None
    augment: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None

    @property
    def num_views(self) -> int:
        """Views of an example."""
        return self.clips.num_clips * self.crop.num_crops

    def read(
        self,
        position: tf.Tensor,
        number: tf.Tensor,
        seed: int,
        whole: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """Choose the frames and read them.

        Args:
          position: int64 []; all draws depend on it and on the seed.
          number: int64 [], of the record.
          seed: of the run.
          whole: string [], the record of `Reader.whole`, where no Python can read a part of it.

        Returns:
          A dict: jpegs, string [V, T]; label; and what `Pipeline` returns of each clip.

        Raises:
          InvalidArgumentError: the record can't be read or is damaged.
        """
        reader = self.reader
        record = reader.record(number) if whole is None else reader.parsed(number, whole)
        clip_seed = _draw(position, seed, _CLIPS, 1)[0]
        placed = record_views.placed(record, self.clips, clip_seed, self.fps)
        if whole is None:
            jpegs = reader.jpegs(number, placed.frames)
        else:
            jpegs = tf.gather(record["frames"], placed.frames)
        return {
            "jpegs": jpegs,
            "positions": placed.positions,
            "seconds": record_views.seconds(record, placed),
            "label": record["label"],
        }

    def decode(
        self,
        position: tf.Tensor,
        read: dict[str, tf.Tensor],
        limit: int,
        seed: int,
        resize: Callable[..., tf.Tensor] = views.by_tensorflow,
    ) -> dict[str, tf.Tensor]:
        """Make the views.

        Args:
          position, seed: as of `read`.
          read: what it returned.
          limit: what stands there or later has weight 0.
          resize: as of `views.extract`.

        Returns:
          An example of `Pipeline`.

        Raises:
          InvalidArgumentError: a frame doesn't decode.
        """
        crop_seeds = _draw(position, seed, _CROPS, self.clips.num_clips)
        frames = views.extract(read["jpegs"], self.crop, crop_seeds, resize)
        seeds = _draw(position, seed, _PHOTOMETRIC, self.num_views)
        if self.augment is not None:
            frames = self.augment(frames[tf.newaxis], seeds[tf.newaxis])
        return {
            "frames": frames,
            "seeds": seeds,
            "positions": tf.repeat(read["positions"], self.crop.num_crops, axis=0),
            "seconds": tf.repeat(read["seconds"], self.crop.num_crops, axis=0),
            "label": read["label"],
            "weight": tf.cast(position < limit, tf.float32),
        }


def _draw(position: tf.Tensor, seed: int, purpose: int, count: int) -> tf.Tensor:
    """Draws independent seeds [count, 2] for one purpose."""
    key = tf.stack([tf.constant(seed, tf.int64), position])
    key = tf.random.experimental.stateless_fold_in(key, purpose)
    return tf.random.stateless_uniform([count, 2], key, minval=None, maxval=None, dtype=tf.int32)
