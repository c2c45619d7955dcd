"""Make small synthetic videos of 12 classes that colors do not tell apart.

    python tools/make_demo_videos.py --output=runs/demo/videos

A bright shape (circle, square, triangle or cross) moves horizontally or vertically, or pulses, over
a dark textured background. The class is the shape and the motion. Color, size, tilt, period, phase,
place, noise and background do not depend on the class. The background fades between three textures
of different colors, so that it changes within a video. Two clips of 8 frames and stride 2 still
have much in common besides the class: 96 % of the pairs that are drawn overlap in time, and the
backgrounds correlate at 0.84. A video is a function of (seed, split, class, number), so a smaller
set is a subset of a larger one.
"""

import dataclasses
import itertools
import json
import multiprocessing
import sys
from pathlib import Path

import cv2
import joblib
import numpy as np
from absl import app, flags
from tqdm import tqdm

_OUTPUT = flags.DEFINE_string("output", None, "Folder to write the videos to.", required=True)
_TRAIN_VIDEOS = flags.DEFINE_integer(
    "train_videos", 1200, "Number of training videos.", lower_bound=12
)
_TEST_VIDEOS = flags.DEFINE_integer("test_videos", 396, "Number of test videos.", lower_bound=12)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the videos.", lower_bound=0)

SHAPES = ("circle", "square", "triangle", "cross")
MOTIONS = ("horizontal", "vertical", "pulsing")
CLASSES = tuple(itertools.product(SHAPES, MOTIONS))
SPLITS = ("train", "test")
NUM_FRAMES, SIZE, FRAME_RATE = 32, 64, 30.0

_MARKER = "demo_videos.json"
_TRIANGLE_INRADIUS = (np.pi / 27**0.5) ** 0.5  # of the equilateral triangle of area pi
_TRIANGLE_REACH = 2 * _TRIANGLE_INRADIUS  # of its corners; other shapes of area pi are smaller
_CROSS_WIDTH = 0.45  # half the width of the arms, in radii
_CROSS_LENGTH = (np.pi / _CROSS_WIDTH / 4 + _CROSS_WIDTH) / 2  # half the length, for area pi


@dataclasses.dataclass(frozen=True)
class Job:
    """A video to make."""

    path: Path
    seed: int
    split: int
    class_index: int
    number: int


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the distance to the edge of a shape of area pi around the origin, negative inside.

    Args:
      shape: one of `SHAPES`.
      x: float, of any shape, to the right.
      y: float, of the same shape, downwards.
    """
    if shape == "circle":
        return np.hypot(x, y) - 1
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - np.pi**0.5 / 2
    if shape == "triangle":
        return np.maximum(abs(x) * 0.75**0.5 - y / 2, y) - _TRIANGLE_INRADIUS
    if shape == "cross":
        short, long = np.minimum(abs(x), abs(y)), np.maximum(abs(x), abs(y))
        return np.maximum(short - _CROSS_WIDTH, long - _CROSS_LENGTH)
    raise ValueError(f"No shape {shape!r}; there are {SHAPES}.")


def render(shape: str, motion: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a video, uint8 [32, 64, 64, 3], RGB.

    The draws from `rng` do not depend on the shape and the motion.
    """
    radius, tilt = rng.uniform(9, 12), np.deg2rad(rng.uniform(-15, 15))
    swing, period, phase = rng.uniform(7, 11), rng.uniform(10, 20), rng.uniform(0, 2 * np.pi)
    margin = radius * _TRIANGLE_REACH + swing
    center = rng.uniform(margin, SIZE - margin, size=2)
    color = _color(rng, saturation=rng.uniform(0.3, 1), value=rng.uniform(200, 255))
    background = _background(rng)
    noise = rng.normal(scale=rng.uniform(2, 6), size=background.shape)

    wave = np.sin(2 * np.pi * np.arange(NUM_FRAMES) / period + phase)[:, None, None]
    scale = np.full_like(wave, radius)
    x, y = (np.arange(SIZE) + 0.5 - center[:, None])[:, None, :]
    x, y = np.broadcast_arrays(x[:, None, :], y[:, :, None])
    if motion == "horizontal":
        x = x - swing * wave
    elif motion == "vertical":
        y = y - swing * wave
    else:
        depth = swing / 22  # 0.3 to 0.5; the mean area equals that of moving shapes
        scale = radius * (1 + depth * wave) / (1 + depth**2 / 2) ** 0.5
    along, across = x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt)
    distance = scale * signed_distance(shape, along / scale, across / scale)
    cover = np.clip(0.5 - distance, 0, 1)[..., None]  # share of each pixel, for smooth edges
    return np.clip(cover * color + (1 - cover) * background + noise, 0, 255).astype(np.uint8)


def _color(rng: np.random.Generator, saturation: float, value: float) -> np.ndarray:
    """Draw a hue and return the color, float [3], RGB from 0 to 255."""
    hsv = np.array([[[rng.uniform(0, 360), saturation, value]]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(float)


def _background(rng: np.random.Generator) -> np.ndarray:
    """Draw three textures of different colors and fade between them: float [32, 64, 64, 3]."""
    time = np.linspace(0, 2, NUM_FRAMES)
    frames = np.zeros((NUM_FRAMES, SIZE, SIZE, 3))
    for peak in range(3):
        coarse = rng.uniform(0.4, 1, size=(8, 8)).astype(np.float32)
        texture = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
        color = _color(rng, rng.uniform(0.3, 1), rng.uniform(30, 100))
        weight = np.maximum(0, 1 - abs(time - peak))
        frames += weight[:, None, None, None] * texture[..., None] * color
    return frames


def make_video(job: Job) -> None:
    """Render a video and write it as an mp4 file.

    Raises:
      OSError: the file can't be written.
    """
    shape, motion = CLASSES[job.class_index]
    rng = np.random.default_rng([job.seed, job.split, job.class_index, job.number])
    job.path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(job.path), cv2.CAP_FFMPEG, code, FRAME_RATE, (SIZE, SIZE))
    if not writer.isOpened():
        raise OSError(f"Can't write {str(job.path)!r} as an mp4 file.")
    for frame in render(shape, motion, rng):
        writer.write(frame[:, :, ::-1])
    writer.release()


def jobs(output: Path, seed: int, **num_videos: int) -> list[Job]:
    """List the videos to make: `num_videos` of each split, dealt to the classes in turn."""
    found = []
    for split, count in num_videos.items():
        for i in range(count):
            number, class_index = divmod(i, len(CLASSES))
            path = output / split / "_".join(CLASSES[class_index]) / f"{number:04d}.mp4"
            found.append(Job(path, seed, SPLITS.index(split), class_index, number))
    return found


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"Unexpected {argv[1:]}.")
    output = Path(_OUTPUT.value)
    numbers = {"train": _TRAIN_VIDEOS.value, "test": _TEST_VIDEOS.value}
    wanted = {"seed": _SEED.value, **numbers}
    marker = output / _MARKER
    found = json.loads(marker.read_text()) if marker.is_file() else {}
    if found == {**wanted, "complete": True}:
        print(f"{output} already holds these videos.")
        return
    if found and found != {**wanted, "complete": False}:
        sys.exit(
            f"Error: {output} holds other videos, {found}: delete it, or choose another --output."
        )
    output.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps({**wanted, "complete": False}))
    todo = jobs(output, _SEED.value, **numbers)
    context = multiprocessing.get_context("spawn")
    with context.Pool(joblib.cpu_count(), cv2.setNumThreads, (1,)) as pool:
        made = pool.imap_unordered(make_video, todo, chunksize=8)
        for _ in tqdm(made, total=len(todo), unit=" videos"):
            pass
    marker.write_text(json.dumps({**wanted, "complete": True}))
    print(f"Made {numbers['train']:,} training and {numbers['test']:,} test videos in {output}.")


if __name__ == "__main__":
    app.run(main)
