"""Reads UCF-101: `trainlist0N.txt` of lines `Class/v_X.avi 1`, `testlist0N.txt` without the 1."""

from collections.abc import Sequence

from etils import epath

from cvrl_tf.preparation.annotations.text import read_text
from cvrl_tf.preparation.annotations.video import FileIndex, Video


def read(source: epath.Path, roots: Sequence[epath.Path], split: str) -> list[Video]:
    """Lists the videos of a UCF-101 list; see `annotations.read`.

    The class is the folder's name.
    """
    del split  # a file is a split
    index = FileIndex(roots)
    videos = []
    for number, line in enumerate(read_text(source).splitlines(), start=1):
        if not line.strip():
            continue
        name = line.split()[0]
        label, _, file = name.partition("/")
        if not file:
            raise ValueError(f"{source}:{number}: {line!r} is not `Class/video.avi`.")
        videos.append(Video(index.find([name, file]), name, label))
    return videos
