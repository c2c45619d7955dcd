"""Which videos a data set has, and of which class: folders and lists."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from absl import logging

# What FFmpeg knows under these names; other files in an input folder are no videos.
VIDEO_ENDINGS = {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4"}
VIDEO_ENDINGS |= {".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"}


@dataclasses.dataclass(frozen=True)
class Video:
    """A video to be written.

    Attributes:
      path: of the file.
      name: the path as the input has it; with it the video is reported.
      label: name of its class; None in unlabelled data.
    """

    path: Path
    name: str
    label: str | None


def find_videos(source: str | Path, root: str | Path | None = None) -> list[Video]:
    """Lists the videos of a data set, sorted by name.

    Args:
      source: a folder of folders, one a class; or a folder of unlabelled videos; or a text file of
        `path label` lines. There the label is what follows the last white space, so that paths may
        hold spaces and labels may not; integers are labels like any other name.
      root: folder that the paths of a text file are relative to; by default the file's own.

    Raises:
      FileNotFoundError: `source` or `root` is not there, or none of its videos is.
      ValueError: it is not one of the three, or a line of it can't be read.
    """
    source = Path(source)
    if source.is_dir():
        if root is not None:
            raise ValueError(f"A root ({str(root)!r}) goes with a text file; {source} is a folder.")
        videos = list(_in_folder(source))
        where = f"in {str(source)!r} or in its direct subfolders; known are {sorted(VIDEO_ENDINGS)}"
    elif not source.exists():
        raise FileNotFoundError(f"No file or folder {str(source)!r}: correct the input's path.")
    elif source.suffix.lower() in VIDEO_ENDINGS:
        raise ValueError(f"{str(source)!r} is a video: give its folder, or a text file of videos.")
    else:
        root = source.parent if root is None else Path(root)
        videos = list(_in_list(source, root))
        where = f"under {str(root)!r} of those that {str(source)!r} lists: correct the root"
    if not any(video.path.is_file() for video in videos):
        raise FileNotFoundError(f"No videos {where}.")
    return sorted(videos, key=lambda video: video.name)


def _in_folder(folder: Path) -> Iterator[Video]:
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    classes = {entry: list(entry.iterdir()) for entry in entries if entry.is_dir()}
    files = {path: None for path in entries if path.is_file()}
    flat = [path for path in files if path.suffix.lower() in VIDEO_ENDINGS]
    labelled = {
        path: parent.name for parent, paths in classes.items() for path in paths if path.is_file()
    }
    if flat and any(path.suffix.lower() in VIDEO_ENDINGS for path in labelled):
        raise ValueError(
            f"{str(folder)!r} holds videos ({flat[0].name!r}) and folders of videos: "
            "either one folder a class, or unlabelled videos alone."
        )
    ignored = []
    for path, label in (files | labelled).items():
        if path.suffix.lower() in VIDEO_ENDINGS:
            yield Video(path, path.relative_to(folder).as_posix(), label)
        else:
            ignored.append(path.name)
    if ignored:
        logging.warning("%d files have no video's ending, as %r.", len(ignored), ignored[0])


def _in_list(file: Path, root: Path) -> Iterator[Video]:
    if not root.is_dir():
        raise FileNotFoundError(f"No folder {str(root)!r}, which the paths in {file} start from.")
    seen: dict[str, int] = {}
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.rsplit(maxsplit=1)
        if len(fields) != 2:
            raise ValueError(f"{file}:{number}: {line!r} is not `path label`.")
        name, label = fields[0].strip(), fields[1]
        if name in seen:
            raise ValueError(f"{file}:{number}: {name!r} stands in line {seen[name]} already.")
        seen[name] = number
        yield Video(root / name, name, label)
