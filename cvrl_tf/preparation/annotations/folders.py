"""Reads a folder with one folder per class, or a folder of unlabeled videos."""

from collections.abc import Sequence

from absl import logging
from etils import epath

from cvrl_tf.preparation.annotations.video import VIDEO_ENDINGS, Video


def read(source: epath.Path, roots: Sequence[epath.Path], split: str) -> list[Video]:
    """Lists the videos in a folder or its direct subfolders; see `annotations.read`."""
    del split  # a folder is a split
    if list(roots) != [source]:
        raise ValueError(f"A folder needs no root: {[str(root) for root in roots]}.")
    entries = [entry for entry in source.iterdir() if not entry.name.startswith(".")]
    classes = {entry: list(entry.iterdir()) for entry in entries if entry.is_dir()}
    files: dict[epath.Path, str | None] = {path: None for path in entries if path.is_file()}
    flat = [path for path in files if path.suffix.lower() in VIDEO_ENDINGS]
    labeled = {
        path: parent.name for parent, paths in classes.items() for path in paths if path.is_file()
    }
    if flat and any(path.suffix.lower() in VIDEO_ENDINGS for path in labeled):
        raise ValueError(
            f"{str(source)!r} holds videos ({flat[0].name!r}) and folders of videos: "
            "either one folder a class, or unlabeled videos alone."
        )
    videos, ignored = [], []
    for path, label in (files | labeled).items():
        if path.suffix.lower() in VIDEO_ENDINGS:
            videos.append(Video(path, path.relative_to(source).as_posix(), label))
        else:
            ignored.append(path.name)
    if ignored:
        logging.warning("%d files have no video's ending, as %r.", len(ignored), ignored[0])
    return videos
