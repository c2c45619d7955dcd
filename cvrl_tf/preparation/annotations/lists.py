"""Reads a text file of `path label` lines, or of paths alone.

The label is what follows the last white space, so that paths may hold spaces and labels may not.
Integers are labels like any other name. If every line as a whole is the path of a file, the videos
are unlabeled.
"""

from collections.abc import Sequence

from etils import epath

from cvrl_tf.preparation.annotations.text import read_text
from cvrl_tf.preparation.annotations.video import Video
from cvrl_tf.preparation.annotations.walk import VIDEO_ENDINGS

_ALL_ALIKE = "A list has a label on every line, or on none."


def read(source: epath.Path, roots: Sequence[epath.Path], split: str) -> list[Video]:
    """Lists the videos of a list file; see `annotations.read`.

    Args:
      source: see `text.read_text`; with line ends of Unix or Windows.
      roots: paths start from the last one.
      split: unused; a file is a split.

    Raises:
      ValueError: the lines are not all alike, or a line can be read in two ways.
    """
    del split
    # Not `splitlines`, which takes more characters for line ends than Unix and Windows do.
    text = read_text(source).split("\n")
    numbered = [(number, line.strip()) for number, line in enumerate(text, start=1)]
    lines = {number: line for number, line in numbered if line}
    files = _Files(roots[-1])
    whole = {number for number, line in lines.items() if line in files}
    if whole and len(whole) == len(lines):
        _check_unlabeled(source, lines, files)
        return [Video(roots[-1] / line, line, None) for line in lines.values()]
    _check_all_alike(source, lines, whole)
    videos = []
    for number, line in lines.items():
        fields = line.rsplit(maxsplit=1)
        if len(fields) != 2 or epath.Path(fields[1]).suffix.lower() in VIDEO_ENDINGS:
            raise ValueError(
                f"{source}:{number}: {line!r} is not `path label`, and no such file is in "
                f"{str(roots[-1])!r}. Add the label, or correct the path or the root."
            )
        _check_one_label(f"{source}:{number}", line, files)
        path, label = fields
        videos.append(Video(roots[-1] / path, path, label))
    return videos


class _Files:
    """Tells which files are there. Lists each folder once, as a bucket takes long for each file."""

    def __init__(self, root: epath.Path) -> None:
        self._root = root
        self._folders: dict[epath.Path, set[str]] = {}

    def __contains__(self, name: str) -> bool:
        path = self._root / name
        folder = path.parent
        if folder not in self._folders:
            there = folder.iterdir() if folder.is_dir() else ()
            self._folders[folder] = {entry.name for entry in there}
        return path.name in self._folders[folder]


def _check_one_label(place: str, line: str, files: _Files) -> None:
    """Raises ValueError if more than one word follows the path of a file."""
    path = line.rsplit(maxsplit=1)[0]
    while path not in files or epath.Path(path).suffix.lower() not in VIDEO_ENDINGS:
        if len(fields := path.rsplit(maxsplit=1)) < 2:
            return  # no such file, whatever the label
        path = fields[0]
    if words := line[len(path) :].split()[1:]:
        raise ValueError(
            f"{place}: more than one word follows the file {path!r}, up to {words[-1]!r}: a video "
            "has one label, without spaces. Name one class, or use a CSV file with the columns "
            "path and label (--format=csv), whose labels may hold spaces."
        )


def _check_unlabeled(source: epath.Path, lines: dict[int, str], files: _Files) -> None:
    """Raises ValueError if all lines can be read as `path label`, too."""
    for line in lines.values():
        fields = line.rsplit(maxsplit=1)
        if len(fields) != 2 or fields[0] not in files:
            return
    number, line = next(iter(lines.items()))
    raise ValueError(
        f"{source}:{number}: {line!r} can be read as a path and as `path label`: both files are "
        "there. So it is with every line. Use a CSV file with the columns path and label "
        "(--format=csv)."
    )


def _check_all_alike(source: epath.Path, lines: dict[int, str], whole: set[int]) -> None:
    """Raises ValueError if some lines, and not all, are the path of a file as a whole."""
    if not whole:
        return
    if 2 * len(whole) <= len(lines):
        number = min(whole)
        raise ValueError(
            f"{source}:{number}: {lines[number]!r} is not `path label`: it is a file, without a "
            f"label. {_ALL_ALIKE} Add the label, or delete the line."
        )
    number = min(lines.keys() - whole)
    raise ValueError(
        f"{source}:{number}: {lines[number]!r} is no file, but {lines[min(whole)]!r} in line "
        f"{min(whole)} is one, without a label. {_ALL_ALIKE} Correct the path or delete the line. "
        "A CSV file with the column path (--format=csv) may name missing files."
    )
