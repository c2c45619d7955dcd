"""Describes a video as an annotation names it, and finds its file."""

import dataclasses
from collections.abc import Iterable, Sequence

from etils import epath

from cvrl_tf.preparation.annotations.walk import walk


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
      left_out: why it is not to be written, and only named; empty if it is to be written.
    """

    path: epath.Path
    name: str
    label: str | None
    start: float | None = None
    end: float | None = None
    id: str = ""
    left_out: str = ""


class FileIndex:
    """Finds files under some folders, at any depth. Each folder is listed once.

    A file is known by its path below the folder, by its name, and by folder/name.
    """

    def __init__(self, roots: Sequence[epath.Path]) -> None:
        """Args:
        roots: a file is taken from the first that has it, so a folder of replacements for damaged
          files goes first. Within a folder, the file that is nested less is taken.
        """
        self._last = roots[-1]
        self._paths: dict[str, epath.Path] = {}
        for root in roots:
            found = sorted((path for path, _ in walk(root)), key=lambda p: (len(p.parts), p))
            for path in found:
                parts = path.relative_to(root).parts
                for depth in (1, 2, len(parts)):
                    self._paths.setdefault("/".join(parts[-depth:]), path)

    def find(self, names: Iterable[str]) -> epath.Path:
        """Returns the file of the first of these names that is there, or a path without a file."""
        names = list(names)
        found = [self._paths[name] for name in names if name in self._paths]
        return found[0] if found else self._last / names[0]
