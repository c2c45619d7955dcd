"""A picture of what training sees: the views of a batch, a row of frames each."""

from pathlib import Path

import tensorflow as tf

from cvrl_tf.data.pipeline import Pipeline
from cvrl_tf.tasks.task import Task

_NUM_EXAMPLES, _NUM_FRAMES = 8, 8


def write_first(model: Task, data: Pipeline, global_batch: int, seed: int, folder: Path) -> None:
    """Write what a model sees of the first batch; see `Pipeline.train_batches` for the batch."""
    # A batch of fewer begins with the same examples.
    batch = next(iter(data.train_batches(min(_NUM_EXAMPLES, global_batch), seed)))
    views = model.augment(batch["frames"], batch["seeds"])
    _write(tf.reshape(views, batch["frames"].shape), folder)


def _write(views: tf.Tensor, folder: Path) -> None:
    """Write `views.png` into a run's folder, and the same for TensorBoard.

    Args:
      views: float32 [B, V, T, H, W, 3] in [0, 1]; all of the B examples are shown.
      folder: of the run.
    """
    count = min(_NUM_FRAMES, views.shape[2])
    times = tf.cast(tf.linspace(0, views.shape[2] - 1, count), tf.int32)
    rows = tf.transpose(tf.gather(views, times, axis=2), [0, 1, 3, 2, 4, 5])  # B V H T W 3
    shape = rows.shape
    strips = tf.reshape(rows, [shape[0], shape[1] * shape[2], shape[3] * shape[4], 3])
    with tf.summary.create_file_writer(str(folder / "tensorboard")).as_default(0):
        tf.summary.image("views of the first batch", strips, max_outputs=_NUM_EXAMPLES)
    sheet = tf.reshape(strips, [-1, *strips.shape[2:]])
    png = tf.io.encode_png(tf.image.convert_image_dtype(sheet, tf.uint8, saturate=True))
    (folder / "views.png").write_bytes(png.numpy())
