"""Statistics of MotionPred: oracles, and the authors' label for label."""

import authors_statistics
import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from cvrl_tf.tasks.pretext import statistics

# Of the 14: where the label of u stands.
CELL, RING, TRIANGLE = 0, 4, 8
FIELD_U, FIELD_V = 12, 13


def motion_of(u: np.ndarray, v: np.ndarray, fields: int = 15) -> np.ndarray:
    """Labels of a clip whose fields are all alike."""
    flow = np.broadcast_to(np.stack([u, v])[:, None, None], (2, 1, fields, *u.shape))
    return statistics.motion_statistics(tf.constant(flow, tf.float32)).numpy()[0]


@pytest.mark.parametrize(
    ("slope_x", "slope_y", "cell", "direction"),
    [(1, 0, 2, 5), (-1, 0, 2, 1), (0, 1, 5, 7), (0, -1, 5, 3)],
)
def test_slopes(slope_x: int, slope_y: int, cell: int, direction: int) -> None:
    """The direction points to where the flow is less; borders are mirrored."""
    y, x = np.mgrid[:112, :112]
    u = slope_x * x + slope_y * y
    flow = tf.constant(np.broadcast_to(u, (2, 1, 15, 112, 112)), tf.float32)
    across, down = (tf.reduce_sum(each, axis=2) for each in statistics.motion_boundaries(flow))
    np.testing.assert_array_equal(across[:, 0, 1:-1, 1:-1], -90 * slope_x)
    np.testing.assert_array_equal(down[:, 0, 1:-1, 1:-1], -90 * slope_y)
    found = motion_of(u, 0 * u)
    assert found[CELL : CELL + 4].tolist() == [cell, direction, 1, 1]
    assert found[RING : RING + 4].tolist() == [1, direction, 1, 1]
    swapped = motion_of(0 * u, u)
    assert swapped[CELL : CELL + 4].tolist() == [1, 1, cell, direction]


@pytest.mark.parametrize(
    ("row", "column", "cell", "ring", "triangle"),
    [
        (40, 20, 5, 3, 1), (20, 40, 2, 3, 2), (20, 70, 3, 3, 3), (40, 100, 8, 4, 4),
        (65, 20, 9, 3, 5), (100, 45, 14, 4, 6), (100, 65, 15, 4, 7), (65, 100, 12, 4, 8),
    ],
)  # fmt: skip
def test_bumps(row: int, column: int, cell: int, ring: int, triangle: int) -> None:
    y, x = np.mgrid[:112, :112]
    bump = np.exp(-((y - row) ** 2 + (x - column) ** 2) / 18)
    assert motion_of(bump, 0 * bump)[[CELL, RING, TRIANGLE]].tolist() == [cell, ring, triangle]


def test_field_that_changes_most() -> None:
    flow = np.zeros([2, 2, 15, 40, 40], np.float32)
    flow[0, 0, 4, 10:20, 10:20], flow[1, 0, 14, 10:20, 10:20] = 2, -1
    flow[:, 0, 8, 10:20, 10:20] = 0.5
    found = statistics.motion_statistics(tf.constant(flow)).numpy()
    assert found[0, [FIELD_U, FIELD_V]].tolist() == [5, 15]
    np.testing.assert_array_equal(found[1], np.ones(14))  # nothing moves


@pytest.mark.parametrize("size", [40, 112])
@pytest.mark.parametrize("sigma", [0, 3])
def test_motion_is_the_authors_label_for_label(size: int, sigma: float) -> None:
    rng = np.random.default_rng(size)
    flow = rng.normal(size=(2, 24, 15, size, size))
    flow = ndimage.gaussian_filter(flow, (0, 0, 0, sigma, sigma)).astype(np.float32)
    found = statistics.motion_statistics(tf.constant(flow)).numpy()
    expected = [authors_statistics.motion(flow[:, clip]) for clip in range(24)]
    np.testing.assert_array_equal(found, expected)
    assert found.shape == (24, statistics.NUM_MOTION)


@pytest.mark.parametrize("size", [16, 40, 112])
def test_appearance_is_the_authors_label_for_label(size: int) -> None:
    rng = np.random.default_rng(size)
    clips = [np.stack([authors_statistics.texture(rng, size, size, 4) for _ in range(4)])]
    clips += [rng.integers(0, 256, (4, size, size, 3))]
    clips += [authors_statistics.moving_shape(rng, 4, size)[0] for _ in range(4)]
    frames = np.stack(clips).astype(np.uint8)
    found = statistics.appearance_statistics(tf.constant(frames)).numpy()
    np.testing.assert_array_equal(found, [authors_statistics.appearance(clip) for clip in frames])
    assert found.shape == (6, statistics.NUM_APPEARANCE)


def test_overlap_of_colors_is_the_authors() -> None:
    frames = np.random.default_rng(0).integers(0, 64, (2, 3, 16, 16, 3), np.uint8)
    for number, masks in enumerate(statistics.partitions(16, 16)):
        expected = [
            [
                authors_statistics.overlap(np.swapaxes(part, 0, 1))
                for part in authors_statistics.regions(np.moveaxis(clip, 0, 2))[number]
            ]
            for clip in frames
        ]
        found = statistics.color_overlap(tf.constant(frames), masks)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_still_clips_keep_all_their_colors() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (2, 1, 40, 40, 3), np.uint8)
    still = tf.constant(np.repeat(frame, 8, axis=1))
    for masks in statistics.partitions(40, 40):
        np.testing.assert_array_equal(statistics.color_overlap(still, masks), 1)
    places = statistics.appearance_statistics(still).numpy()[:, [0, 2, 4, 6, 8, 10]]
    np.testing.assert_array_equal(places, 1)


def test_colors() -> None:
    """Red, green, blue: below 128 or not, in the authors' order."""
    rgb = {
        "blue": (0, 127, 128), "cyan": (127, 128, 255), "magenta": (128, 0, 255),
        "white": (128, 128, 128), "black": (127, 127, 127), "green": (0, 128, 0),
        "red": (128, 127, 127), "yellow": (255, 255, 0),
    }  # fmt: skip
    assert tuple(rgb) == statistics.COLORS
    frames = np.zeros([8, 2, 8, 8, 3], np.uint8)
    frames[:] = np.array(list(rgb.values()))[:, None, None, None]
    found = statistics.appearance_statistics(tf.constant(frames)).numpy()
    np.testing.assert_array_equal(found[:, 1::2], np.arange(1, 9)[:, None].repeat(6, axis=1))
    np.testing.assert_array_equal(found[:, 12], np.arange(1, 9))


def test_sizes_of_the_regions() -> None:
    cells, rings, triangles = statistics.partitions(112, 112)
    np.testing.assert_array_equal(cells.sum(axis=(1, 2)), 28**2)
    sides = np.array([0, 28, 56, 84, 112])
    np.testing.assert_array_equal(rings.sum(axis=(1, 2)), np.diff(sides**2))
    np.testing.assert_array_equal(triangles.sum(axis=(1, 2)), 1596)
    assert cells.sum() == rings.sum() == 112**2 and triangles.any(axis=0).all()


@pytest.mark.parametrize(("height", "width"), [(44, 44), (40, 48)])
def test_frames_without_regions_are_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"{height}x{width} .*a multiple of 8"):
        statistics.motion_statistics(tf.zeros([2, 1, 3, height, width]))
