"""Reads which videos a data set has, and of which class. Each format has a module.

To add a format, write a module with a function `read`, and a line in `FORMATS`.
"""

import itertools
from collections.abc import Callable, Sequence

from etils import epath

from cvrl_tf.preparation.annotations import folders, hmdb51, kinetics, lists, ssv2, table, ucf101
from cvrl_tf.preparation.annotations.video import VIDEO_ENDINGS, Video

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
) -> list[Video]:
    """Lists the videos of a split, sorted by name.

    Args:
      source: the annotation: a file, a folder for "folders", or a pattern for "hmdb51".
      roots: folders of the videos; by default the folder of the annotation.
      split: name of the split that will be written; "hmdb51" takes its part of the lists.
      format_name: a key of `FORMATS`; by default "folders" for a folder and "list" for a file.

    Returns:
      The videos, at least one of whose files is there.

    Raises:
      FileNotFoundError: `source` or a root is not there, or none of the videos is.
      ValueError: no such format, the annotation can't be read, or two videos have one name.
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
    videos = FORMATS[format_name](source, folders_of_videos or [default], split)
    videos.sort(key=lambda video: video.name)
    for one, other in itertools.pairwise(videos):
        if one.name == other.name:
            raise ValueError(f"{str(source)!r} names {one.name!r} twice.")
    if not any(video.path.is_file() for video in videos):
        where = [str(root) for root in folders_of_videos or [default]]
        raise FileNotFoundError(
            f"None of the {len(videos)} videos of {str(source)!r} is in {where}: correct the root. "
            f"Known endings are {sorted(VIDEO_ENDINGS)}."
        )
    return videos
