"""MotionPred's statistics as the authors compute them, in NumPy, and clips to measure.

Motion transcribes `read_batch` of input_data.py and the three patterns of
comput_motion_statistics_fast.py of github.com/laura-wang/video_repres_mas. Appearance transcribes
compute_appearance_statistics.py of github.com/laura-wang/video_repres_sts, with the dominant color
of its `compute_dominant_color_traverse`. Both for squares whose side is a multiple of 8.
"""

import cv2
import numpy as np
from scipy import ndimage

# Numbers that each statistic takes, of clips of 16 frames.
PLACES = (16, 4, 8)
MOTION_COUNTS = [n for places in PLACES for n in (places, 8, places, 8)] + [15, 15]
APPEARANCE_COUNTS = [n for places in PLACES for n in (places, 8, places, 8)] + [8]


def regions(plane: np.ndarray) -> list[list[np.ndarray]]:
    """The pixels of the regions of [S, S, ...], [P, ...] each: cells, rings, triangles."""
    side = len(plane)
    quarter, half, eighth = side // 4, side // 2, side // 8
    cells = [
        plane[i * quarter : (i + 1) * quarter, j * quarter : (j + 1) * quarter]
        for i in range(4)
        for j in range(4)
    ]
    rings = []
    for number in range(4):
        is_inside = np.zeros([side, side], bool)
        outer, inner = (3 - number) * eighth, (4 - number) * eighth
        is_inside[outer : side - outer, outer : side - outer] = True
        if number:
            is_inside[inner : side - inner, inner : side - inner] = False
        rings.append(plane[is_inside])
    left_above, right_above = plane[:half, :half], np.flip(plane[:half, half:], 1)
    left_below, right_below = np.flip(plane[half:, :half], 1), plane[half:, half:]
    lower, upper = np.tril_indices(half), np.triu_indices(half)
    triangles = [left_above[lower], left_above[upper], right_above[upper], right_above[lower]]
    triangles += [left_below[upper], left_below[lower], right_below[lower], right_below[upper]]
    flat = [cell.reshape(-1, *plane.shape[2:]) for cell in cells]
    return [flat, rings, triangles]


def histogram_of_directions(strength: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    sums = np.zeros(8)
    lower = (degrees / 45).astype(int) % 8
    share = degrees % 45 / 45
    np.add.at(sums, lower, strength * (1 - share))
    np.add.at(sums, (lower + 1) % 8, strength * share)
    return sums


def motion(flow: np.ndarray) -> np.ndarray:
    """The 14 numbers of the fields [2, F, S, S] of a clip."""
    filters = np.array([[-1, 0, 1]] * 3), np.array([[-1, 0, 1]] * 3).T
    labels: list[list[int]] = [[], [], []]
    fields = []
    for component in flow:
        slopes = np.stack([[ndimage.convolve(f, each) for f in component] for each in filters])
        strengths, _ = cv2.cartToPolar(slopes[0], slopes[1])
        fields.append(strengths.sum(axis=(1, 2)).argmax() + 1)
        strength, degrees = cv2.cartToPolar(*slopes.sum(axis=1), angleInDegrees=True)
        for number, parts in enumerate(regions(np.stack([strength, degrees], axis=-1))):
            place = int(np.argmax([part[:, 0].mean() for part in parts]))
            direction = histogram_of_directions(*parts[place].T).argmax()
            labels[number] += [place + 1, direction + 1]
    return np.array([*labels[0], *labels[1], *labels[2], *fields])


def overlap(values: np.ndarray) -> float:
    """Intersection over union of the histograms of frames [T, P, 3], the mean of the channels."""
    found = []
    for channel in range(3):
        histograms = [np.bincount(frame[:, channel], minlength=256) for frame in values]
        found.append(np.min(histograms, axis=0).sum() / np.max(histograms, axis=0).sum())
    return float(np.mean(found))


def dominant_color(pixels: np.ndarray) -> int:
    """The number, from 1, of the most frequent of eight colors of [..., 3]."""
    counts = np.bincount((pixels >= 128).reshape(-1, 3) @ [4, 2, 1], minlength=8)
    return int(np.argmax(counts[[0b001, 0b011, 0b101, 0b111, 0b000, 0b010, 0b100, 0b110]])) + 1


def appearance(frames: np.ndarray) -> np.ndarray:
    """The 13 numbers of a clip, uint8 [T, S, S, 3]."""
    labels = []
    for parts in regions(np.moveaxis(frames, 0, 2)):  # [P, T, 3] each
        found = [overlap(np.swapaxes(part, 0, 1)) for part in parts]
        for place in (int(np.argmin(found)), int(np.argmax(found))):
            labels += [place + 1, dominant_color(parts[place])]
    return np.array([*labels, dominant_color(frames)])


def texture(rng: np.random.Generator, height: int, width: int, sigma: float = 1.5) -> np.ndarray:
    """Smooth colored noise, float [H, W, 3] in [0, 255]."""
    noise = ndimage.gaussian_filter(rng.normal(size=(height, width, 3)), (sigma, sigma, 0.7))
    return np.clip(128 + 50 * noise / noise.std(), 0, 255)


def moving_shape(
    rng: np.random.Generator, num_frames: int, size: int, path: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Make a clip of a textured disk that moves over a still texture.

    By half a pixel to two in each frame, in one direction.

    Args:
      path: number of a disk's size and way; drawn if None.

    Returns:
      Frames, uint8 [T, S, S, 3], and their flow, float32 [2, T - 1, S, S].
    """
    still, disk = texture(rng, size, size), texture(rng, size, size) * rng.uniform(0.3, 1, 3)
    if path is not None:
        rng = np.random.default_rng(path)
    radius, angle = size * rng.uniform(0.12, 0.2), rng.uniform(0, 2 * np.pi)
    speeds = rng.uniform(0.5, 2, num_frames)
    path = np.outer(np.cumsum(speeds), [np.cos(angle), np.sin(angle)])
    room = np.maximum(size - 2 * radius - np.ptp(path, axis=0), 0)
    centers = path - path.min(axis=0) + radius + rng.uniform(0, 1, 2) * room
    y, x = np.mgrid[:size, :size]
    frames, depths = [], []
    for cx, cy in centers:
        moved = ndimage.shift(disk, (cy - size / 2, cx - size / 2, 0), order=1, mode="wrap")
        depths.append(radius - np.hypot(x - cx, y - cy))
        share = np.clip(depths[-1] + 0.5, 0, 1)[..., np.newaxis]
        frames.append(share * moved + (1 - share) * still)
    steps = np.diff(centers, axis=0).T[..., np.newaxis, np.newaxis]
    flow = steps * (np.stack(depths[:-1]) > 0)
    return np.round(frames).clip(0, 255).astype(np.uint8), flow.astype(np.float32)


def moving_shapes(clips: int, num_frames: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames [N, T, S, S, 3] and flow [2, N, T - 1, S, S] of clips of `moving_shape`."""
    rng = np.random.default_rng(0)
    frames, flows = zip(*[moving_shape(rng, num_frames, size) for _ in range(clips)], strict=True)
    return np.stack(frames), np.stack(flows, axis=1)
