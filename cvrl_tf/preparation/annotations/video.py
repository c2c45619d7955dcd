"""A video as an annotation names it, and where its file is."""

import dataclasses
from collections.abc import Iterable, Sequence

from etils import epath

# What FFmpeg knows under these names; other files in an input folder are no videos.
VIDEO_ENDINGS = {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4"}
VIDEO_ENDINGS |= {".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"}


@dataclasses.dataclass(frozen=True)
class Video:
    """A video to be written.

    Attributes:
      path: of the file, which need not be there: it is then reported like any unusable video.
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
    """Where the files under some folders are, by name or folder/name; each is listed once."""

    def __init__(self, roots: Sequence[epath.Path]) -> None:
        """Args:
        roots: folders, flat or with one folder a class. A file is taken from the first that has
          it, so a folder of replacements for damaged files goes first.
        """
        self._last = roots[-1]
        self._paths: dict[str, epath.Path] = {}
        for root in roots:
            for path in (*root.glob("*"), *root.glob("*/*")):
                self._paths.setdefault(path.name, path)
                self._paths.setdefault(path.relative_to(root).as_posix(), path)

    def find(self, names: Iterable[str]) -> epath.Path:
        """The file of the first of these names that is there; else a path where nothing is."""
        names = list(names)
        found = [self._paths[name] for name in names if name in self._paths]
        return found[0] if found else self._last / names[0]
