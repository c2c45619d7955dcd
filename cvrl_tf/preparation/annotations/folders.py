"""Reads a folder with one folder per class, or a folder of unlabeled videos."""

from collections.abc import Sequence

from etils import epath

from cvrl_tf.preparation.annotations.video import Video
from cvrl_tf.preparation.annotations.walk import walk

LABEL_FROM = ("top", "parent", "none")
_SPLITS = {"train", "val", "valid", "validation", "test"}


def read(
    source: epath.Path, roots: Sequence[epath.Path], split: str, label_from: str | None = None
) -> list[Video]:
    """Lists the videos in a folder, at any depth, and what else is in it; see `annotations.read`.

    Args:
      source: the folder.
      roots: the same.
      split: unused; a folder is a split.
      label_from: which folder's name is the class: "top", the first below `source`; "parent", that
        of the file; or "none". By default "top". Files beside the folders have no label.

    Raises:
      ValueError: there is a root, no such `label_from`, or the folders are splits.
    """
    del split
    if list(roots) != [source]:
        raise ValueError(f"A folder needs no root: {[str(root) for root in roots]}.")
    label_from = label_from or LABEL_FROM[0]
    if label_from not in LABEL_FROM:
        raise ValueError(f"label_from={label_from!r} is none of {', '.join(LABEL_FROM)}.")
    videos = []
    for path, ignored in walk(source):
        parts = path.relative_to(source).parts
        label = None
        if len(parts) > 1 and label_from != "none" and not ignored:
            label = parts[0] if label_from == "top" else parts[-2]
        videos.append(Video(path, "/".join(parts), label, left_out=ignored))
    labels = {video.label for video in videos if video.label}
    if label_from == "top" and labels and labels <= _SPLITS:
        raise ValueError(
            f"The folders {sorted(labels)} of {str(source)!r} are splits, no classes: give one of "
            "them, with its --split; or --label_from=parent or none to write all as one split."
        )
    return videos
