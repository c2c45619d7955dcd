"""Runs every step on synthetic videos, each by the command that a user would type (`make demo`).

Videos -> records -> pretraining -> evaluation -> report -> export -> features of a few clips.
Interrupted demos resume: rerun the same command.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

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
    "Neither the mean color nor the same network with random weights tells that. The page shows "
    "nothing about real videos."
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


def _embed(export: Path, videos: list[Path]) -> None:
    """Print how similar the features of some videos are, computed by the export alone."""
    import cv2
    import tensorflow as tf

    def clip(path: Path) -> np.ndarray:
        capture = cv2.VideoCapture(str(path))
        frames = [capture.read()[1] for _ in range(16)]
        return np.stack(frames)[::2, :, :, ::-1]

    encoder = tf.saved_model.load(str(export)).signatures["clips"]
    features = encoder(clips=tf.constant(np.stack([clip(path) for path in videos])))["feature"]
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
    _step(
        "Report",
        *("-m", "cvrl_tf.report", str(run), str(evaluation), f"--output={output}"),
        f"--note={_NOTE}",
    )
    if not export.exists():
        _step("Export", "-m", "cvrl_tf.export", f"--checkpoint={run}", f"--output={export}")
    print("\n== Embed clips with the export")
    folders = sorted((videos / "test").iterdir())[:4]
    _embed(export, [path for folder in folders for path in sorted(folder.iterdir())[:2]])
    print(f"\nDone. The results are in {output / 'report.html'}.")


if __name__ == "__main__":
    commands.run(main)
