"""Draw what training sees: the augmented clips of the first batch of a recipe. Builds no model.

    python tools/browse_views.py --gin_file=gin/pretrain/k400.gin \\
      --gin_param="DATA_DIR='records/k400'" --output=views.png

The recipe and its parameters are those of cvrl_tf.train or cvrl_tf.evaluate. A .png shows up to
eight frames of each view. In a .gif or .webp the views move. A checkpoint is not read: where a
recipe asks for one, give --gin_param="CHECKPOINT=None". A .gif has 256 colors; only a .png has the
exact pixels.
"""

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import gin
import matplotlib
import numpy as np
from absl import flags
from PIL import Image, ImageDraw, ImageFont

from cvrl_tf import commands  # first, because it silences TensorFlow
from cvrl_tf.augment.chain import Chain, ViewChains
from cvrl_tf.data.pipeline import Pipeline
from cvrl_tf.evaluation.frozen import FrozenEvaluation
from cvrl_tf.training.run import Run
from cvrl_tf.training.settings import Execution

commands.define_gin_flags()
_OUTPUT = flags.DEFINE_string(
    "output", None, "Picture to write: .png, .gif or .webp.", required=True
)
_NUM_CLIPS = flags.DEFINE_integer("num_clips", 8, "Number of videos to draw.", lower_bound=1)

_ENDINGS = (".png", ".gif", ".webp")
_SHEET_FRAMES = 8
_FRAME_MILLISECONDS = 80  # a stride of 2 at 25 frames per second
_SMALLEST_SIDE = 150  # pixels; smaller views are enlarged to this
_FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"  # knows most alphabets
_PAGE, _PANEL = 255, 232  # gray values


def _bound(configurable: Callable, *names: str) -> list[Any]:
    """Return the values of these parameters in gin, without building the others.

    Raises:
      ValueError: a parameter has neither a value nor a default.
    """
    bound = gin.get_bindings(configurable, resolve_references=False)
    parameters = inspect.signature(configurable).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    values = {**defaults, **bound}
    for name in names:
        if values.get(name, inspect.Parameter.empty) is inspect.Parameter.empty:
            raise ValueError(
                f"The gin files give {configurable.__name__} no {name!r}; "
                "take a whole recipe, such as gin/pretrain/k400.gin."
            )
    return copy.deepcopy([values[name] for name in names])  # copying resolves gin's references


def _is_configured(configurable: Callable) -> bool:
    try:
        return bool(gin.get_bindings(configurable, resolve_references=False))
    except ValueError:  # no gin file imports it
        return False


def _training(num_clips: int) -> tuple[Pipeline, ViewChains, Iterable[Any]]:
    """Return the training data of a run, its augmentation, and batches of its first examples."""
    data, global_batch, _ = _bound(Run, "train_data", "global_batch", "task")
    (seed,) = _bound(Execution, "seed")
    task = gin.get_bindings(Run, resolve_references=False)["task"]
    with gin.config_scope(task.scopes):
        (augment,) = _bound(task.configurable.wrapped, "augment")
    seen = data.num_examples // global_batch * global_batch
    if not seen:
        raise ValueError(
            f"global_batch={global_batch} is more than the {data.num_examples} training "
            'examples; take less: --gin_param="run.Run.global_batch=..."'
        )
    # An example and its draws depend only on its position, so the batch may be smaller.
    return data, augment, data.train_batches(min(num_clips, seen), seed)


def first_views(num_clips: int) -> tuple[np.ndarray, list[str]]:
    """Return the first views of the recipe that gin has parsed.

    They do not depend on the batch size or the number of replicas.

    Args:
      num_clips: number of videos; fewer are returned if an epoch has fewer.

    Returns:
      Augmented pixels, uint8 [N, V, T, H, W, 3], and a caption for each video.

    Raises:
      FileNotFoundError: there are no records.
      ValueError: gin has parsed no recipe, or the global batch is larger than the data.
    """
    if _is_configured(FrozenEvaluation):
        (data,) = _bound(FrozenEvaluation, "train_data")
        augment = ViewChains([Chain()])
        batches = data.eval_batches(min(num_clips, data.num_examples))
    elif _is_configured(Run):
        data, augment, batches = _training(num_clips)
    else:
        raise ValueError(
            f"{', '.join(flags.FLAGS.gin_file)}: it has no run and no probe; "
            "take a whole recipe, such as gin/pretrain/k400.gin."
        )
    batch = next(iter(batches))
    frames = augment(batch["frames"], batch["seeds"]).numpy().reshape(batch["frames"].shape)
    captions = [
        f"{number}: {data.labels[label]}" if label >= 0 else f"video {number}"
        for number, label in enumerate(batch["label"].numpy(), 1)
    ]
    return np.round(255 * frames).astype(np.uint8), captions


def _tiled(images: Sequence[np.ndarray], columns: int, gap: int, gray: int) -> np.ndarray:
    """Arrange images uint8 [H, W, 3] of one size in rows, with gaps around and between them."""
    height, width, _ = images[0].shape
    rows = math.ceil(len(images) / columns)
    size = rows * (height + gap) + gap, columns * (width + gap) + gap, 3
    page = np.full(size, gray, np.uint8)
    for number, image in enumerate(images):
        top, left = (number // columns) * (height + gap), (number % columns) * (width + gap)
        page[top + gap :, left + gap :][:height, :width] = image
    return page


def _titled(image: np.ndarray, title: str, points: int) -> np.ndarray:
    """Put a line of text above an image uint8 [H, W, 3], shortened to fit."""
    font = ImageFont.truetype(_FONT, points)
    while font.getlength(title) > image.shape[1]:
        title = title.rstrip("…")[:-1] + "…"
    line = Image.new("RGB", (image.shape[1], round(1.7 * points)), (_PANEL,) * 3)
    ImageDraw.Draw(line).text((0, 0), title, fill="black", font=font)
    return np.concatenate([np.asarray(line), image])


def _panel(
    views: Sequence[np.ndarray], caption: str, title: str, columns: int, points: int
) -> np.ndarray:
    """Draw the numbered views uint8 [H, W, 3] of one video on a gray panel."""
    titled = [_titled(view, f"view {v}{title}", points) for v, view in enumerate(views, 1)]
    captioned = _titled(_tiled(titled, columns, 8, _PANEL), caption, points * 4 // 3)
    return _tiled([captioned], 1, 8, _PANEL)


def _enlarged(views: np.ndarray) -> np.ndarray:
    """Enlarge small views [..., H, W, 3] by repeating pixels."""
    factor = math.ceil(_SMALLEST_SIDE / min(views.shape[-3:-1]))
    return views.repeat(factor, axis=-3).repeat(factor, axis=-2)


def sheet(views: np.ndarray, captions: list[str]) -> Image.Image:
    """Draw a panel for each video, with a row of frames for each view.

    Args:
      views: uint8 [N, V, T, H, W, 3].
      captions: one for each video.
    """
    num_frames = views.shape[2]
    shown = np.linspace(0, num_frames - 1, min(num_frames, _SHEET_FRAMES)).round().astype(int)
    title = f", frames {', '.join(map(str, shown))}"
    panels = []
    for video, caption in zip(_enlarged(views[:, :, shown]), captions, strict=True):
        rows = [_tiled(view, len(shown), 2, _PANEL) for view in video]
        panels.append(_panel(rows, caption, title, columns=1, points=15))
    return Image.fromarray(_tiled(panels, 1, 16, _PAGE))


def moving(views: np.ndarray, captions: list[str]) -> list[Image.Image]:
    """Draw T pictures, each a grid of panels, one panel for each video.

    Args: as `sheet`.
    """
    num_videos, num_views = views.shape[:2]
    columns = max(1, round(math.sqrt(num_videos / num_views)))  # about a square
    pictures = []
    for frames in np.moveaxis(_enlarged(views), 2, 0):
        panels = [
            _panel(video, caption, "", columns=num_views, points=12)
            for video, caption in zip(frames, captions, strict=True)
        ]
        pictures.append(Image.fromarray(_tiled(panels, columns, 16, _PAGE)))
    return pictures


def draw(views: np.ndarray, captions: list[str], output: Path) -> None:
    """Write a picture in the format that the suffix of `output` says. Args: as `sheet`."""
    if output.suffix == ".png":
        sheet(views, captions).save(output)
        return
    pictures = moving(views, captions)
    if output.suffix == ".gif":
        # Pillow would choose a palette for each frame, whose bands flicker. This one is shared.
        everything = np.concatenate([np.asarray(each) for each in pictures])
        palette = Image.fromarray(everything).quantize()
        pictures = [each.quantize(palette=palette) for each in pictures]
    first, *others = pictures
    first.save(output, save_all=True, append_images=others, duration=_FRAME_MILLISECONDS, loop=0)


def main(argv: list[str]) -> None:
    commands.start(argv)
    output = Path(_OUTPUT.value)
    with commands.explained():
        if output.suffix not in _ENDINGS:
            raise ValueError(
                f"--output={output} ends in {output.suffix!r}; "
                "take .png for a sheet of frames, .gif or .webp for views that move."
            )
        commands.parse_gin()
        views, captions = first_views(_NUM_CLIPS.value)
        output.parent.mkdir(parents=True, exist_ok=True)
        draw(views, captions, output)
    videos, num_views, num_frames, height, width, _ = views.shape
    print(f"Wrote {output}: {videos} videos x {num_views} views x {num_frames} frames", end=" ")
    print(f"of {height}x{width} pixels.")


if __name__ == "__main__":
    commands.run(main)
