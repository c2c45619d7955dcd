"""A picture of what training sees: the clips of a batch, a row of frames each."""

from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFont

from cvrl_tf.data.pipeline import Pipeline
from cvrl_tf.tasks.task import Task

_NUM_EXAMPLES, _NUM_CLIPS, _NUM_FRAMES = 8, 16, 8
_MARGIN, _POINTS = 160, 13  # pixels beside the clips, and the size of the text there


def write_first(model: Task, data: Pipeline, global_batch: int, seed: int, folder: Path) -> None:
    """Write what a model sees of the first batch, and is to tell of it.

    `views.png` in the run's folder, and the same for TensorBoard.
    """
    # A batch of fewer begins with the same examples.
    batch = next(iter(data.train_batches(min(_NUM_EXAMPLES, global_batch), seed)))
    clips, captions = model.shown(batch)
    sheet = drawn(tf.reshape(clips, [-1, *clips.shape[2:]]).numpy(), captions)
    Image.fromarray(sheet).save(folder / "views.png")
    with tf.summary.create_file_writer(str(folder / "tensorboard")).as_default(0):
        tf.summary.image("clips of the first batch", sheet[np.newaxis])


def drawn(clips: np.ndarray, captions: list[str]) -> np.ndarray:
    """Draw the first clips, a row of frames each, and their captions.

    Args:
      clips: float32 [N, T, H, W, 3] in [0, 1].
      captions: N.

    Returns:
      uint8 [height, width, 3].
    """
    count, length, height, width, _ = clips.shape
    count, columns = min(count, _NUM_CLIPS), min(length, _NUM_FRAMES)
    times = np.linspace(0, length - 1, columns).astype(int)
    rows = clips[:count, times].transpose(0, 2, 1, 3, 4).reshape(count * height, columns * width, 3)
    beside = Image.new("RGB", (_MARGIN, count * height), "white")
    draw = ImageDraw.Draw(beside)
    for row, caption in enumerate(captions[:count]):
        draw.text((6, row * height + 4), caption, "black", ImageFont.load_default(_POINTS))
    pixels = np.round(255 * rows.clip(0, 1)).astype(np.uint8)
    return np.concatenate([np.asarray(beside), pixels], axis=1)
