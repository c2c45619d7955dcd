"""Reads which videos a data set has, and of which class. Each format has a module.

To add a format, write a module with a function `read`, and a line in `FORMATS`.
"""

import collections
import dataclasses
import functools
import unicodedata
from collections.abc import Callable, Sequence

from absl import logging
from etils import epath

from cvrl_tf.preparation.annotations import folders, hmdb51, kinetics, lists, ssv2, table, ucf101
from cvrl_tf.preparation.annotations.folders import LABEL_FROM
from cvrl_tf.preparation.annotations.video import Video
from cvrl_tf.preparation.annotations.walk import IGNORED, VIDEO_ENDINGS, walk

__all__ = [
    "FORMATS",
    "IGNORED",
    "LABEL_FROM",
    "UNLABELED",
    "VIDEO_ENDINGS",
    "Video",
    "read",
    "walk",
]

UNLABELED = ("error", "skip", "keep")

FORMATS: dict[str, Callable[[epath.Path, Sequence[epath.Path], str], list[Video]]] = {
    "folders": folders.read,
    "list": lists.read,
    "csv": table.read,
    "kinetics": kinetics.read,
    "ucf101": ucf101.read,
    "hmdb51": hmdb51.read,
    "ssv2": ssv2.read,
}


def read(
    source: str | epath.Path,
    roots: Sequence[str | epath.Path] = (),
    split: str = "train",
    format_name: str | None = None,
    label_from: str | None = None,
    unlabeled: str = UNLABELED[0],
) -> list[Video]:
    """Lists the videos of a split, sorted by name.

    Args:
      source: the annotation: a file, a folder for "folders", or a pattern for "hmdb51".
      roots: folders of the videos; by default the folder of the annotation.
      split: name of the split that will be written; "hmdb51" takes its part of the lists.
      format_name: a key of `FORMATS`; by default "folders" for a folder and "list" for a file.
      label_from: see `folders.read`; of that format alone.
      unlabeled: what becomes of videos without a label where others have one: "error", "skip" to
        leave them out, or "keep" to write them without a class.

    Returns:
      The videos, at least one of whose files is there; and, with the reason in `left_out`, all else
      that a folder holds.

    Raises:
      FileNotFoundError: `source` or a root is not there, or none of the videos is.
      ValueError: no such format, the annotation can't be read, a video has several labels, some
        have none, or class names are nearly equal.
    """
    source = epath.Path(source)
    if format_name is None:
        format_name = "folders" if source.is_dir() else "list"
    if format_name not in FORMATS:
        raise ValueError(f"No format {format_name!r}; choose one of {', '.join(FORMATS)}.")
    if format_name != "hmdb51" and not source.exists():
        raise FileNotFoundError(f"No file or folder {str(source)!r}: correct the input's path.")
    if source.is_dir() != (format_name == "folders") or source.suffix.lower() in VIDEO_ENDINGS:
        raise ValueError(f"{str(source)!r} is not what the format {format_name!r} reads.")
    folders_of_videos = [epath.Path(root) for root in roots]
    for root in folders_of_videos:
        if not root.is_dir():
            raise FileNotFoundError(f"No folder {str(root)!r} of videos: correct the root.")
    default = source if format_name == "folders" else source.parent
    reader = FORMATS[format_name]
    if label_from is not None:
        if format_name != "folders":
            raise ValueError(f"label_from is for folders; {format_name!r} names the labels.")
        reader = functools.partial(folders.read, label_from=label_from)
    videos = _each_once(str(source), reader(source, folders_of_videos or [default], split))
    _check_classes(str(source), videos)
    videos = _settle_unlabeled(str(source), videos, unlabeled)
    listed = [video for video in videos if not video.left_out]
    if not any(video.path.is_file() for video in listed):
        where = [str(root) for root in folders_of_videos or [default]]
        raise FileNotFoundError(
            f"None of the {len(listed)} videos of {str(source)!r} is in {where}: correct the root. "
            f"Known endings are {sorted(VIDEO_ENDINGS)}."
        )
    return videos


def _each_once(source: str, videos: Sequence[Video]) -> list[Video]:
    """Returns videos sorted by name, each once.

    Raises:
      ValueError: a video has several labels.
    """
    found: dict[str, Video] = {}
    for video in videos:
        first = found.setdefault(video.name, video)
        if first != video:
            raise ValueError(
                f"{source!r} names {video.name!r} twice, with the labels {first.label!r} and "
                f"{video.label!r}: a video has one label. Delete one of the lines, or make one "
                "class of both labels, such as 'cat+dog'."
            )
    if repeated := len(videos) - len(found):
        logging.warning("%s names %d videos again, with the same label.", source, repeated)
    return [found[name] for name in sorted(found)]


def _check_classes(source: str, videos: Sequence[Video]) -> None:
    """Raises ValueError if names of classes differ only by what hardly shows."""
    alike = collections.defaultdict(set)
    for label in {video.label for video in videos if video.label is not None}:
        plain = unicodedata.normalize("NFKC", label).casefold().replace("_", " ")
        alike[" ".join(plain.split())].add(label)
    if doubtful := [sorted(labels) for labels in alike.values() if len(labels) > 1]:
        raise ValueError(
            f"Classes of {source!r} differ only by case, spaces, underscores or the encoding of "
            f"letters: {sorted(doubtful)}. Write each class in one way."
        )


def _settle_unlabeled(source: str, videos: list[Video], policy: str) -> list[Video]:
    """Leaves out videos without a label, if that is the policy.

    Raises:
      ValueError: no such policy; or it is "error", and some videos have a label and some don't.
    """
    if policy not in UNLABELED:
        raise ValueError(f"unlabeled={policy!r} is none of {', '.join(UNLABELED)}.")
    listed = [video for video in videos if not video.left_out]
    without = [video.name for video in listed if video.label is None]
    if policy == "skip":
        if len(without) == len(listed):
            raise ValueError(f"No video of {source!r} has a label: drop --unlabeled=skip.")
        return [
            video
            if video.left_out or video.label is not None
            else dataclasses.replace(video, left_out="no label")
            for video in videos
        ]
    if policy == "error" and 0 < len(without) < len(listed):
        raise ValueError(
            f"{len(without)} of {len(listed)} videos of {source!r} have no label: {without[:5]}. "
            "Add the labels; or pass --unlabeled=skip to leave these videos out, or "
            "--unlabeled=keep to write them without a class."
        )
    return videos
