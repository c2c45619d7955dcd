"""Reads Kinetics: a CSV file `label,youtube_id,time_start,time_end,split`, perhaps with `is_cc`.

The test file may lack the labels. A video is `<id>_<start %06d>_<end %06d>.mp4`, flat or in one
folder per class. The files are clips already, so the times only name them.
"""

from collections.abc import Sequence

from etils import epath

from cvrl_tf.preparation.annotations.text import read_rows
from cvrl_tf.preparation.annotations.video import FileIndex, Video

_COLUMNS = ("youtube_id", "time_start", "time_end")
_OTHERS = ("label", "split", "is_cc")
_ENDINGS = (".mp4", ".mkv", ".webm")


def read(source: epath.Path, roots: Sequence[epath.Path], split: str) -> list[Video]:
    """Lists the videos of a Kinetics CSV file; see `annotations.read`."""
    del split  # a file is a split
    index = FileIndex(roots)
    videos = []
    for place, row in read_rows(source, _COLUMNS, _OTHERS):
        try:
            start, end = (round(float(row[key])) for key in _COLUMNS[1:])
        except (ValueError, OverflowError):
            raise ValueError(f"{place}: no times in {row}.") from None
        name = f"{row['youtube_id']}_{start:06d}_{end:06d}"
        path = index.find(name + ending for ending in _ENDINGS)
        videos.append(Video(path, name, row["label"] or None))
    return videos
