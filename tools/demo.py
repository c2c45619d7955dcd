"""Runs every step on synthetic videos, each by the command that a user would type (`make demo`).

Videos -> records -> pretraining -> evaluation -> report -> export -> features of a few clips.
Interrupted demos resume: rerun the same command.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from absl import app, flags

from cvrl_tf import commands
from cvrl_tf.data import schema

# Before TensorFlow is imported, here and in the steps.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_OUTPUT = flags.DEFINE_string("output", "runs/demo", "Folder for everything that the demo makes.")
_EPOCHS = flags.DEFINE_integer("epochs", None, "Epochs of pretraining; by default the recipe's.")
_TRAIN_VIDEOS = flags.DEFINE_integer("train_videos", 1200, "Number of training videos.")
_TEST_VIDEOS = flags.DEFINE_integer("test_videos", 396, "Number of test videos.")

_NOTE = (
    "The videos are synthetic: four shapes in three motions, with random color, background, scale, "
    "phase and speed. The page shows that this code learns, without labels, what moves and how. "
    "Neither the mean color nor the same network with random weights tells that. Features of "
    "motion made by hand do tell it, with the same probe on whole videos: {changes:.1f} % top-1 "
    "with the mean change between frames in 8x8 cells, {edges:.1f} % with the directions of moving "
    "edges. "
    "The two clips of a video share most of their background, and 96 % of the pairs overlap in "
    "time. The page shows nothing about real videos."
)


def _step(title: str, *command: str) -> None:
    print(f"\n== {title}\n$ python {' '.join(command)}", flush=True)
    begin = time.monotonic()
    status = subprocess.run([sys.executable, *command]).returncode
    if status:
        sys.exit(f"The demo stopped at: {title} (exit status {status}).")
    print(f"   {time.monotonic() - begin:.0f} s", flush=True)


def _make_records(videos: Path, records: Path) -> None:
    """Make the videos, and records of the splits that do not exist yet."""
    _step(
        "Make videos",
        str(Path(__file__).with_name("make_demo_videos.py")),
        f"--output={videos}",
        f"--train_videos={_TRAIN_VIDEOS.value}",
        f"--test_videos={_TEST_VIDEOS.value}",
    )
    for split in ("train", "test"):
        exists = (records / schema.INFO_FILE).exists()
        if exists and split in schema.DatasetInfo.load(records).splits:
            continue
        _step(
            f"Make records: {split}",
            *("-m", "cvrl_tf.prepare", f"--input={videos / split}", f"--output={records}"),
            *(f"--split={split}", "--short_side=64"),
        )


def changes(video: np.ndarray) -> np.ndarray:
    """Return the mean absolute change between frames in 8x8 cells, float [64].

    Args:
      video: gray, float32 [L, H, W].
    """
    change = np.abs(np.diff(video, axis=0)).mean(axis=0)
    return cv2.resize(change, (8, 8), interpolation=cv2.INTER_AREA).ravel()


def edges(video: np.ndarray) -> np.ndarray:
    """Return a histogram of the directions of edges, weighted by gradient and change, float [16].

    Args:
      video: gray, float32 [L, H, W].
    """
    change = np.abs(np.diff(video, axis=0))
    down, right = np.gradient((video[1:] + video[:-1]) / 2, axis=(1, 2))
    direction = np.floor(np.arctan2(down, right) / np.pi * 8).astype(int) % 16
    weight = change * np.hypot(down, right)
    histogram = np.bincount(direction.ravel(), weight.ravel(), minlength=16)
    return histogram / max(histogram.sum(), 1e-12)


def _probe_by_hand(videos: Path) -> dict[str, float]:
    """Measure hand-made features of motion by the linear probe, top-1 in percent."""
    from cvrl_tf.evaluation.probe import linear_probe

    names = sorted(path.name for path in (videos / "train").iterdir())
    paths = {split: sorted((videos / split).glob("*/*.mp4")) for split in ("train", "test")}
    labels = {s: np.array([names.index(p.parent.name) for p in ps]) for s, ps in paths.items()}
    gray = {split: [_gray(path) for path in found] for split, found in paths.items()}
    top1 = {}
    for feature in (changes, edges):
        train, test = (
            np.stack([feature(video) for video in gray[split]])[:, np.newaxis]
            for split in ("train", "test")
        )
        probed = linear_probe((train, labels["train"]), test, len(names))
        right = probed.scores.argmax(axis=1) == labels["test"]
        top1[feature.__name__] = 100 * float(np.mean(right))
        print(f"{feature.__name__:<8} {top1[feature.__name__]:5.1f} %", flush=True)
    return top1


def _gray(path: Path) -> np.ndarray:
    """Return all frames of a video, float32 [L, H, W] in [0, 1]."""
    frames = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in _read(path)]
    return np.stack(frames).astype(np.float32) / 255


def _read(path: Path) -> np.ndarray:
    """Return all frames of a video, uint8 [L, H, W, 3], BGR."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (frame := capture.read()[1]) is not None:
        frames.append(frame)
    return np.stack(frames)


def _embed(export: Path, videos: list[Path]) -> None:
    """Print how similar the features of some videos are, computed by the export alone."""
    import tensorflow as tf

    clips = np.stack([_read(path)[:16:2, :, :, ::-1] for path in videos])
    encoder = tf.saved_model.load(str(export)).signatures["clips"]
    features = encoder(clips=tf.constant(clips))["feature"]
    unit = tf.math.l2_normalize(features - tf.reduce_mean(features, axis=0), axis=1)
    similarities = tf.matmul(unit, unit, transpose_b=True).numpy()
    print(f"Features {features.shape} of the export; cosine similarities after centering:")
    width = max(len(path.parent.name) for path in videos)
    for path, row in zip(videos, similarities, strict=True):
        print(f"  {path.parent.name:<{width}}  " + " ".join(f"{value:5.2f}" for value in row))


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"Unexpected {argv[1:]}.")
    output = Path(_OUTPUT.value).resolve()
    videos, records, run = output / "videos", output / "records", output / "pretrain"
    evaluation, export = output / "probe.json", output / "export"
    data_dir = f"--gin_param=DATA_DIR='{records}'"
    epochs = [] if _EPOCHS.value is None else [f"--gin_param=run.Run.epochs={_EPOCHS.value}"]

    _make_records(videos, records)
    _step(
        "Pretrain",
        *("-m", "cvrl_tf.train", "--gin_file=gin/demo/pretrain.gin", f"--model_dir={run}"),
        *(data_dir, *epochs),
    )
    _step(
        "Evaluate the pretrained encoder and the baselines on held-out videos",
        *("-m", "cvrl_tf.evaluate", "--gin_file=gin/demo/probe.gin", f"--output={evaluation}"),
        *(data_dir, f"--gin_param=CHECKPOINT='{run}'"),
    )
    print("\n== Evaluate hand-made features of motion", flush=True)
    by_hand = _probe_by_hand(videos)
    _step(
        "Report",
        *("-m", "cvrl_tf.report", str(run), str(evaluation), f"--output={output}"),
        f"--note={_NOTE.format(**by_hand)}",
    )
    if not export.exists():
        _step("Export", "-m", "cvrl_tf.export", f"--checkpoint={run}", f"--output={export}")
    print("\n== Embed clips with the export")
    folders = sorted((videos / "test").iterdir())[:4]
    _embed(export, [path for folder in folders for path in sorted(folder.iterdir())[:2]])
    print(f"\nDone. The results are in {output / 'report.html'}.")


if __name__ == "__main__":
    commands.run(main)
