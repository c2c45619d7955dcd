"""Where a clip moves and where its colors change: the statistics that MotionPred predicts.

Wang et al., CVPR 2019, and the authors' code, github.com/laura-wang/video_repres_sts. Statistics
are numbers of a region, a direction, a field of flow or a color, counted from 1.
"""

import functools
import math

import numpy as np
import tensorflow as tf

COLORS = ("blue", "cyan", "magenta", "white", "black", "green", "red", "yellow")
DIRECTIONS = 8
NUM_MOTION, NUM_APPEARANCE = 14, 13


@functools.cache
def partitions(height: int, width: int) -> tuple[np.ndarray, ...]:
    """Cut a square frame in three ways: masks bool [R, S, S] of the regions.

    Sixteen cells row by row; four rings, the innermost first; and eight triangles, two of each
    quadrant, which share its diagonal through the center of the frame.

    Raises:
      ValueError: the frame is no square, or its side no multiple of 8.
    """
    if height != width or height % 8:
        raise ValueError(
            f"Frames of {height}x{width} have no cells, rings and triangles: crop squares whose "
            "side is a multiple of 8."
        )
    pixels = np.arange(width)
    cell = 4 * pixels // width
    cells = 4 * cell[:, np.newaxis] + cell
    ring = 4 * np.abs(2 * pixels + 1 - width) // width
    rings = np.maximum(ring[:, np.newaxis], ring)
    half = width // 2
    lower = np.tri(half, dtype=bool)
    mirrored = [lower.T[:, ::-1], lower[:, ::-1]]
    triangles = np.zeros([8, height, width], bool)
    for number, triangle in enumerate([lower, lower.T, *mirrored, *mirrored, lower, lower.T]):
        row, column = divmod(number // 2, 2)
        quadrant = slice(row * half, (row + 1) * half), slice(column * half, (column + 1) * half)
        triangles[number][quadrant] = triangle
    numbers = np.arange(16)[:, np.newaxis, np.newaxis]
    return cells == numbers, rings == numbers[:4], triangles


def motion_statistics(flow: tf.Tensor) -> tf.Tensor:
    """Find where the flow changes most from pixel to pixel, in which direction, and when.

    The differences of pixels are summed over the fields. Where nothing moves, all numbers are 1.

    Args:
      flow: float32 [2, N, F, S, S], to the right (u) and down (v), F fields of a clip.

    Returns:
      float32 [N, 14]: for cells, rings and triangles in turn the region where u changes most and
      the direction of the change, and the same of v; then the fields in which u and v change most.
    """
    across, down = motion_boundaries(flow)
    strengths = tf.reduce_sum(tf.sqrt(across**2 + down**2), axis=[3, 4])
    fields = _most(strengths)  # [2, N]
    across, down = (tf.reduce_sum(each, axis=2) for each in (across, down))
    strength, angle = tf.sqrt(across**2 + down**2), tf.atan2(down, across)
    found = []
    for masks in partitions(*flow.shape[3:]):
        masks = masks.astype(np.float32)
        sums = tf.reduce_sum(strength[:, :, tf.newaxis] * masks, axis=[3, 4])
        region = _most(sums / masks.sum(axis=(1, 2)))
        inside = strength * tf.gather(masks, region)
        direction = _most(directions(inside, angle))
        found += [region[0], direction[0], region[1], direction[1]]
    return 1 + tf.cast(tf.stack([*found, *tf.unstack(fields)], axis=1), tf.float32)


def motion_boundaries(flow: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Compute how much a flow [2, N, F, H, W] falls to the right, and how much it falls downward.

    Over two pixels, summed over three rows or columns. The authors convolve with Prewitt's filters,
    which turns them around: the result points to where the flow is less.
    """
    around = tf.pad(flow, [[0, 0], [0, 0], [0, 0], [1, 1], [1, 1]], "SYMMETRIC")
    rows = around[..., :-2, :] + around[..., 1:-1, :] + around[..., 2:, :]
    columns = around[..., :-2] + around[..., 1:-1] + around[..., 2:]
    return rows[..., :-2] - rows[..., 2:], columns[..., :-2, :] - columns[..., 2:, :]


def directions(strength: tf.Tensor, angle: tf.Tensor) -> tf.Tensor:
    """Sum the strength [..., H, W] of each direction, float32 [..., 8], from 0 on by 45 degrees.

    A pixel shares its strength linearly between the two directions next to its angle, radians.
    """
    angle *= DIRECTIONS / (2 * math.pi)
    sums = []
    for direction in range(DIRECTIONS):
        half = DIRECTIONS / 2
        apart = tf.abs(tf.math.floormod(angle - direction + half, DIRECTIONS) - half)
        sums.append(tf.reduce_sum(strength * tf.nn.relu(1 - apart), axis=[-2, -1]))
    return tf.stack(sums, axis=-1)


def appearance_statistics(frames: tf.Tensor) -> tf.Tensor:
    """Find where the colors change most and least, and which color is the most frequent.

    Args:
      frames: uint8 [N, T, S, S, 3], RGB.

    Returns:
      float32 [N, 13]: for cells, rings and triangles in turn the region where the colors change
      most, its color, the region where they change least, its color; then the color of the clip.
      Colors count in the order of `COLORS`, the eight halves of each channel.
    """
    red, green, blue = tf.unstack(tf.cast(frames >= 128, tf.int32), axis=-1)
    colors = 4 * (1 - blue) + 2 * red + green
    counts = [tf.reduce_sum(tf.cast(colors == c, tf.float32), axis=1) for c in range(len(COLORS))]
    counts = tf.stack(counts, axis=1)  # [N, 8, S, S]
    found = []
    for masks in partitions(*frames.shape[2:4]):
        alike = color_overlap(frames, masks)
        for region in (_most(-alike), _most(alike)):
            inside = tf.gather(masks.astype(np.float32), region)[:, tf.newaxis]
            found += [region, _most(tf.reduce_sum(counts * inside, axis=[2, 3]))]
    found.append(_most(tf.reduce_sum(counts, axis=[2, 3])))
    return 1 + tf.cast(tf.stack(found, axis=1), tf.float32)


def color_overlap(frames: tf.Tensor, masks: np.ndarray) -> tf.Tensor:
    """Compute how much of its colors a region keeps over a clip, the mean over the channels.

    The intersection of the histograms of all frames over their union. 1 where nothing changes.

    Args:
      frames: uint8 [N, T, H, W, 3].
      masks: bool [R, H, W], of `partitions`.

    Returns:
      float32 [N, R].
    """
    layers = masks.sum(axis=0).max()  # two of the triangles, which share diagonals
    parts = [_histograms(frames, masks[first::layers]) for first in range(layers)]
    histograms = tf.stack(parts, axis=4)  # [N, T, 3, R / layers, layers, 256]
    shared, either = (
        tf.reduce_sum(reduce(histograms, axis=1), axis=-1)
        for reduce in (tf.reduce_min, tf.reduce_max)
    )
    return tf.reshape(tf.reduce_mean(shared / either, axis=1), [-1, len(masks)])


def _histograms(frames: tf.Tensor, masks: np.ndarray) -> tf.Tensor:
    """Counts values in disjoint regions: float32 [N, T, 3, R, 256]."""
    batch, num_frames = tf.shape(frames)[0], frames.shape[1]
    regions = len(masks)
    region = np.where(masks.any(axis=0), masks.argmax(axis=0), -1)[..., np.newaxis]
    histogram = tf.reshape(tf.range(batch * num_frames * 3), [-1, num_frames, 1, 1, 3])
    bins = (histogram * regions + region) * 256 + tf.cast(frames, tf.int32)
    bins = tf.where(region < 0, -1, bins)  # which is not counted
    counts = tf.math.unsorted_segment_sum(
        tf.ones_like(bins, tf.float32), bins, batch * num_frames * 3 * regions * 256
    )
    return tf.reshape(counts, [-1, num_frames, 3, regions, 256])


def _most(values: tf.Tensor) -> tf.Tensor:
    """The number of the largest value along the last axis, the first of equal ones, from 0."""
    return tf.argmax(values, axis=-1, output_type=tf.int32)
