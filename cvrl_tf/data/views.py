"""Views: chosen frames to pixels, decoding only the crop window (section 3.3, spatial part).

A crop is called with the size of a video's frames and a seed, and answers where to cut: windows
int32 [C, 4] as (top, left, height, width), and flips bool [C], for the C crops it makes of a clip.
"""

import dataclasses
import functools
from collections.abc import Callable

import cv2
import numpy as np
import tensorflow as tf

Windows = tuple[tf.Tensor, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """Inception-style crop and flip, drawn once a clip: all frames share it (temporal consistency).

    Attributes:
      size: side of the square view, pixels.
      area: range of the window's share of the frame.
      aspect: range of its width / height. The authors take 0.5 to 2 in pretraining.
      flip: probability of a horizontal flip.
      per_frame: draw anew for every frame: the row of table 4 without temporal consistency.
      per_video: draw once for all clips of a video.
    """

    size: int
    area: tuple[float, float] = (0.3, 1.0)
    aspect: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    per_frame: bool = False
    per_video: bool = False
    num_crops = 1

    def __call__(self, frame_size: tf.Tensor, seed: tf.Tensor) -> Windows:
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.concat([frame_size, [3]], axis=0),
            bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            seed=seed,
            min_object_covered=0.1,
            aspect_ratio_range=self.aspect,
            area_range=self.area,
            max_attempts=100,
        )
        flip_seed = tf.random.experimental.stateless_fold_in(seed, 1)
        flip = tf.random.stateless_uniform([1], flip_seed) < self.flip
        return tf.concat([begin[:2], extent[:2]], axis=0)[tf.newaxis], flip


@dataclasses.dataclass(frozen=True)
class EvenCrops:
    """Square crops evenly spaced along the long side: one center crop, or three that cover it.

    As if the short side were scaled to `short_side` and squares of `size` cut from the result.

    Attributes:
      size: side of the view, pixels.
      short_side: pixels; the authors test at 256, with `size` 256 and three crops (section 4.1).
      num_crops: C.
    """

    size: int
    short_side: int
    num_crops: int
    per_frame = False
    per_video = False

    def __call__(self, frame_size: tf.Tensor, seed: tf.Tensor) -> Windows:
        del seed  # nothing here is random
        short = tf.cast(tf.reduce_min(frame_size), tf.float32)
        side = tf.cast(tf.round(short * self.size / self.short_side), tf.int32)
        room = frame_size - side  # in height and width
        steps = tf.range(self.num_crops) if self.num_crops > 1 else tf.constant([1])
        along = steps * tf.reduce_max(room) // max(self.num_crops - 1, 2)
        across = tf.fill([self.num_crops], tf.reduce_min(room) // 2)
        wide = frame_size[1] >= frame_size[0]
        top, left = tf.where(wide, across, along), tf.where(wide, along, across)
        sides = tf.fill([self.num_crops], side)
        windows = tf.stack([top, left, sides, sides], axis=1)
        return windows, tf.zeros([self.num_crops], tf.bool)


Crop = RandomResizedCrop | EvenCrops


def evaluation_size(size: int) -> int:
    """Return the side of test crops for a side of training crops.

    The paper trains at 224 and tests at 256 pixels (section 4.1). Other sizes are tested as they
    are trained.

    Args:
      size: pixels.
    """
    return 256 if size == 224 else size


def _windows(crop: Crop, frame_size: tf.Tensor, seeds: tf.Tensor, num_frames: int) -> Windows:
    """Draws for every clip, every frame, or all: windows [V, C, T, 4] and flips [V, C, T]."""
    num_clips = seeds.shape[0]
    per_draw = 1
    if crop.per_video:
        seeds = seeds[:1]
    if crop.per_frame:
        per_draw = num_frames
        fold_in = tf.random.experimental.stateless_fold_in
        seeds = tf.stack([fold_in(s, t) for s in tf.unstack(seeds) for t in range(num_frames)])
    windows, flips = zip(*[crop(frame_size, seed) for seed in tf.unstack(seeds)], strict=True)
    shape = [-1, per_draw, crop.num_crops]
    by_frame = tf.transpose(tf.reshape(tf.stack(windows), [*shape, 4]), [0, 2, 1, 3])
    flip_by_frame = tf.transpose(tf.reshape(tf.stack(flips), shape), [0, 2, 1])
    full = [num_clips, crop.num_crops, num_frames]
    return tf.broadcast_to(by_frame, [*full, 4]), tf.broadcast_to(flip_by_frame, full)


def by_tensorflow(pixels: tf.Tensor, size: int, flip: tf.Tensor) -> tf.Tensor:
    """Resize frames, bilinearly and without antialiasing, and perhaps flip them.

    Args:
      pixels: uint8 [N, height, width, 3].
      size: of the result.
      flip: bool [], whether to exchange left and right.

    Returns:
      uint8 [N, size, size, 3].
    """
    resized = tf.image.resize(pixels, [size, size])
    rounded = tf.cast(resized + 0.5, tf.uint8)  # tf.round and saturate_cast take twice as long
    return tf.cond(flip, lambda: tf.reverse(rounded, [2]), lambda: rounded)


def by_opencv(pixels: tf.Tensor, size: int, flip: tf.Tensor) -> tf.Tensor:
    """Do what `by_tensorflow` does in a third of the time.

    One pixel in eight is another, by 1. The service of tf.data and exports can't call Python.
    """
    resized = functools.partial(_by_opencv, size=size)
    return tf.numpy_function(resized, [pixels, flip], tf.uint8, stateful=False)


def _by_opencv(pixels: np.ndarray, flip: np.bool_, size: int) -> np.ndarray:
    views = np.empty((len(pixels), size, size, 3), np.uint8)
    for frame, view in zip(pixels, views, strict=True):
        cv2.resize(frame, (size, size), dst=view, interpolation=cv2.INTER_LINEAR)
        if flip:
            cv2.flip(view, 1, dst=view)
    return views


def extract(
    jpegs: tf.Tensor,
    crop: Crop,
    seeds: tf.Tensor,
    resize: Callable[[tf.Tensor, int, tf.Tensor], tf.Tensor] = by_tensorflow,
) -> tf.Tensor:
    """Decode the views of one video.

    Args:
      jpegs: string [V, T], the frames of clips, of one size; V and T are static.
      crop: makes C crops of each clip.
      seeds: int32 [V, 2], one a clip.
      resize: `by_tensorflow` or `by_opencv`.

    Returns:
      uint8 [V * C, T, size, size, 3], RGB.
    """
    num_clips, num_frames = jpegs.shape
    frame_size = tf.image.extract_jpeg_shape(jpegs[0, 0])[:2]
    windows, flips = _windows(crop, frame_size, seeds, num_frames)
    # A clip's frames stand behind each of its crops.
    jpegs = tf.broadcast_to(jpegs[:, tf.newaxis], [num_clips, crop.num_crops, num_frames])
    alike = 1 if crop.per_frame else num_frames  # frames with the same window, one after another

    def cut(chosen: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        jpegs, window, flip = chosen
        pixels = tf.map_fn(
            lambda jpeg: tf.io.decode_and_crop_jpeg(jpeg, window, channels=3),
            jpegs,
            fn_output_signature=tf.uint8,
        )
        return resize(pixels, crop.size, flip)

    flat = (
        tf.reshape(jpegs, [-1, alike]),
        tf.reshape(windows[:, :, ::alike], [-1, 4]),
        tf.reshape(flips[:, :, ::alike], [-1]),
    )
    views = tf.map_fn(cut, flat, fn_output_signature=tf.uint8)
    return tf.reshape(views, [num_clips * crop.num_crops, num_frames, crop.size, crop.size, 3])
