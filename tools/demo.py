"""The whole way on synthetic videos, each step by the command a user would type (`make demo`).

Videos -> records -> pretraining -> probe -> report -> export -> features of a few clips. A second
call goes on where the first one stopped.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from absl import app, flags

from cvrl_tf.data import schema

# Before TensorFlow is imported, here and in the steps.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_ROOT = Path(__file__).parents[1]
_OUTPUT = flags.DEFINE_string("output", "runs/demo", "Folder for everything that the demo makes.")
_EPOCHS = flags.DEFINE_integer("epochs", None, "Epochs of pretraining; by default the recipe's.")
_TRAIN_VIDEOS = flags.DEFINE_integer("train_videos", 1200, "Training videos to make.")
_TEST_VIDEOS = flags.DEFINE_integer("test_videos", 396, "Test videos to make.")

_NOTE = (
    "The videos are synthetic: four shapes in three motions, with color, background, scale, phase "
    "and speed at random. What the page shows is that this code learns, without labels, what moves "
    "and how, where neither the mean color nor the same network with random weights tells. It "
    "shows nothing about real videos."
)


def _step(what: str, *command: str) -> None:
    print(f"\n== {what}\n$ {' '.join(command)}", flush=True)
    begin = time.monotonic()
    status = subprocess.run([sys.executable, *command], cwd=_ROOT).returncode
    if status:
        sys.exit(f"The demo stopped at: {what} (exit status {status}).")
    print(f"   {time.monotonic() - begin:.0f} s", flush=True)


def _splits(records: Path) -> set[str]:
    """The splits that are there already."""
    if not (records / schema.INFO_FILE).exists():
        return set()
    return set(schema.DatasetInfo.load(records).splits)


def _embed(export: Path, videos: list[Path]) -> None:
    """Prints how alike the features of some videos are, through the export alone."""
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
    print(f"Features {features.shape} through the export; centerd cosine similarities:")
    width = max(len(path.parent.name) for path in videos)
    for path, row in zip(videos, similarities, strict=True):
        print(f"  {path.parent.name:<{width}}  " + " ".join(f"{value:5.2f}" for value in row))


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"Unexpected {argv[1:]}.")
    output = Path(_OUTPUT.value).resolve()
    videos, records, run = output / "videos", output / "records", output / "pretrain"
    probe, export = output / "probe.json", output / "export"
    data_dir = f"--gin_param=DATA_DIR='{records}'"

    _step(
        "Make videos",
        "tools/make_demo_videos.py",
        f"--output={videos}",
        f"--train_videos={_TRAIN_VIDEOS.value}",
        f"--test_videos={_TEST_VIDEOS.value}",
    )
    for split in ("train", "test"):
        if split not in _splits(records):
            _step(
                f"Make records: {split}",
                "tools/make_tfrecords.py",
                f"--input={videos / split}",
                f"--output={records}",
                f"--split={split}",
                "--short_side=64",
            )
    epochs = [] if _EPOCHS.value is None else [f"--gin_param=run.Run.epochs={_EPOCHS.value}"]
    _step(
        "Pretrain",
        *("-m", "cvrl_tf.train", "--gin_file=gin/demo/pretrain.gin", f"--model_dir={run}"),
        *(data_dir, *epochs),
    )
    _step(
        "Probe the pretrained and the random encoder on held-out videos",
        *("-m", "cvrl_tf.evaluate", "--gin_file=gin/demo/probe.gin", f"--output={probe}"),
        *(data_dir, f"--gin_param=CHECKPOINT='{run}'"),
    )
    _step(
        "Report",
        *("-m", "cvrl_tf.report", str(run), str(probe), f"--output={output}", f"--note={_NOTE}"),
    )
    if not export.exists():
        _step("Export", "-m", "cvrl_tf.export", f"--checkpoint={run}", f"--output={export}")
    print("\n== Embed clips through the export")
    _embed(
        export,
        [
            path
            for folder in sorted((videos / "test").iterdir())[:4]
            for path in sorted(folder.iterdir())[:2]
        ],
    )
    print(f"\nDone. Open {output / 'report.html'} to see what came out.")


if __name__ == "__main__":
    app.run(main)
