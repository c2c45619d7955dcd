"""Finds the videos of a folder and, with the reason, all else that is in it."""

import os
from collections.abc import Iterator

from etils import epath

# What FFmpeg knows under these names; other files in an input folder are no videos.
VIDEO_ENDINGS = {".3g2", ".3gp", ".avi", ".f4v", ".flv", ".m4v", ".mkv", ".mov", ".mp4"}
VIDEO_ENDINGS |= {".m1v", ".m2v", ".mpe", ".mpeg", ".mpg", ".ogm", ".ogv", ".qt", ".ts", ".webm"}
VIDEO_ENDINGS |= {".asf", ".divx", ".dv", ".gif", ".m2t", ".m2ts", ".mts", ".mxf", ".vob", ".wmv"}
VIDEO_ENDINGS |= {".webp"}  # is not decoded, and therefore named among the unusable

IGNORED = "ignored: "  # begins the reasons of what is not taken for a video


def walk(folder: epath.Path) -> Iterator[tuple[epath.Path, str]]:
    """Lists all files in a folder and its subfolders, at any depth and behind links.

    Yields:
      The path of a file, and "" for a video, or why it is ignored. Of hidden folders, and of links
      to a folder that they are in, the path of the folder itself.

    Raises:
      OSError: a folder can't be read.
    """
    folders = [(folder, frozenset[str]())]
    while folders:
        parent, above = folders.pop()
        above |= {os.path.realpath(parent)}
        for path in parent.iterdir():
            if path.name.startswith("."):
                yield path, f"{IGNORED}hidden"
            elif not path.is_dir():
                yield path, _why_ignored(path)
            elif os.path.realpath(path) in above:
                yield path, f"{IGNORED}a link to a folder that it is in"
            else:
                folders.append((path, above))


def _why_ignored(path: epath.Path) -> str:
    """Returns the reason; "" for a video, also one that isn't there: a broken link is no secret."""
    if path.suffix.lower() not in VIDEO_ENDINGS:
        return f"{IGNORED}{path.suffix!r} is no video's ending"
    # Of `os.path`, as `epath` takes a pipe for a file. In a bucket none exists, and all are files.
    is_odd = not os.path.isfile(path) and os.path.exists(path)
    return f"{IGNORED}no file" if is_odd else ""
