"""Describes a video as an annotation names it, and finds its file."""

import dataclasses
from collections.abc import Iterable, Sequence

from etils import epath

# What FFmpeg knows under these names; other files in an input folder are no videos.
VIDEO_ENDINGS = {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4"}
VIDEO_ENDINGS |= {".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"}
VIDEO_ENDINGS |= {".asf", ".gif", ".m2ts", ".mts", ".mxf", ".vob"}
VIDEO_ENDINGS |= {".webp"}  # is not decoded, and therefore named among the unusable


@dataclasses.dataclass(frozen=True)
class Video:
    """Describes a video to be written.

    Attributes:
      path: of the file. If it is not there, the video is reported like any unusable one.
      name: with which the video is reported; unique in a split.
      label: name of its class; None in unlabeled data.
      start: seconds into the file at which the record begins; None for its beginning.
      end: seconds into the file before which the record ends; None for its end.
      id: in the records; empty in an annotation.
    """

    path: epath.Path
    name: str
    label: str | None
    start: float | None = None
    end: float | None = None
    id: str = ""


class FileIndex:
    """Finds files under some folders by name or folder/name. Each folder is listed once."""

    def __init__(self, roots: Sequence[epath.Path]) -> None:
        """Args:
        roots: folders, flat or with one folder per class. A file is taken from the first that has
          it, so a folder of replacements for damaged files goes first.
        """
        self._last = roots[-1]
        self._paths: dict[str, epath.Path] = {}
        for root in roots:
            for path in (*root.glob("*"), *root.glob("*/*")):
                self._paths.setdefault(path.name, path)
                self._paths.setdefault(path.relative_to(root).as_posix(), path)

    def find(self, names: Iterable[str]) -> epath.Path:
        """Returns the file of the first of these names that is there, or a path without a file."""
        names = list(names)
        found = [self._paths[name] for name in names if name in self._paths]
        return found[0] if found else self._last / names[0]
