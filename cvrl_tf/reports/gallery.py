"""Moving pictures of videos and of those nearest to them."""

import io
import math
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from cvrl_tf.data.pipeline import Pipeline
from cvrl_tf.evaluation.features import Features
from cvrl_tf.measures import neighbors
from cvrl_tf.preparation.decoding import glimpse

_LONGEST = 128  # pixels
_SECONDS = 2.0  # of a round
_FRAMES = 16  # of a clip of a video file


def nearest_videos(
    train: tuple[Pipeline, Features],
    test: tuple[Pipeline, Features],
    folder: Path,
    num_queries: int = 8,
    num_nearest: int = 5,
) -> list[dict[str, Any]]:
    """Find the nearest training videos, by cosine, of the first test video of some classes.

    The classes are spread evenly over all; no query is chosen for how well it does.

    Args:
      train, test: data and its features.
      folder: for .webp files of the first views. Existing files stay.
      num_queries: number of queries; at most one a class.
      num_nearest: number of training videos for each query.

    Returns:
      For each query picture, a path, class, and nearest: a list of picture, class and cosine.
      Nothing where damaged records are skipped: the position of a feature then does not tell its
      video.
    """
    if train[0].skip_damaged or test[0].skip_damaged:
        return []
    folder.mkdir(parents=True, exist_ok=True)

    def shown(of: tuple[Pipeline, Features], position: int) -> dict[str, Any]:
        data, features = of
        path = folder / f"{data.summary['split']}-{position}.webp"
        if not path.exists():
            moving_picture(data.views_at(position)[0].numpy(), path)
        return {"picture": str(path), "class": data.labels[features.labels[position]]}

    (gallery, _), (videos, labels) = train[1].of_videos, test[1].of_videos
    _, first = np.unique(labels, return_index=True)
    chosen = np.linspace(0, len(first) - 1, min(num_queries, len(first))).round().astype(int)
    queries = first[chosen]
    indices, cosines = neighbors.nearest(videos[queries], gallery, min(num_nearest, len(gallery)))
    return [
        {
            **shown(test, query),
            "nearest": [
                {**shown(train, index), "cosine": round(float(cosine), 3)}
                for index, cosine in zip(*near, strict=True)
            ],
        }
        for query, *near in zip(queries, indices, cosines, strict=True)
    ]


def picture_of_clip(video: str, start: float, end: float) -> bytes | None:
    """Read a clip of a video file as a moving picture, WebP.

    Args:
      video: path.
      start, end: seconds; not a number for the first second of the video.

    Returns:
      The picture, or None if the video can't be read.
    """
    # An index may name anything: pipes that never end, and names on which OpenCV crashes. Embedding
    # takes no such videos.
    if not (video.isprintable() and os.path.isfile(video)):
        return None
    span = (0.0, 1.0) if math.isnan(start) else (start, end)
    frames = glimpse(video, *span, _FRAMES, _LONGEST)
    if frames is None:
        return None
    file = io.BytesIO()
    moving_picture(frames, file)
    return file.getvalue()


def moving_picture(frames: np.ndarray, file: Path | BinaryIO) -> None:
    """Write frames uint8 [T, H, W, 3] as an endless moving picture, WebP."""
    pictures = [Image.fromarray(frame) for frame in frames]
    for picture in pictures:
        picture.thumbnail((_LONGEST, _LONGEST))
    pictures[0].save(
        file,
        format="webp",
        save_all=True,
        append_images=pictures[1:],
        duration=round(1000 * _SECONDS / len(pictures)),
        loop=0,
    )
