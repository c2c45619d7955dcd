"""Reads Kinetics: a CSV file `label,youtube_id,time_start,time_end,split`, perhaps with `is_cc`.

The test file may lack the labels. A video is `<id>_<start %06d>_<end %06d>.mp4`, flat or in one
folder per class. The files are clips already, so the times only name them.
"""

import csv
import io
from collections.abc import Sequence

from etils import epath

from cvrl_tf.preparation.annotations.video import FileIndex, Video

_COLUMNS = ("youtube_id", "time_start", "time_end")
_ENDINGS = (".mp4", ".mkv", ".webm")


def read(source: epath.Path, roots: Sequence[epath.Path], split: str) -> list[Video]:
    """Lists the videos of a Kinetics CSV file; see `annotations.read`."""
    del split  # a file is a split
    index = FileIndex(roots)
    videos = []
    rows = csv.DictReader(io.StringIO(source.read_text()))
    if missing := [name for name in _COLUMNS if name not in (rows.fieldnames or ())]:
        raise ValueError(f"{source} has no column {missing}; it has {rows.fieldnames}.")
    for row in rows:
        try:
            start, end = (round(float(row[key])) for key in _COLUMNS[1:])
        except (TypeError, ValueError):
            raise ValueError(f"{source}:{rows.line_num}: no times in {row}.") from None
        name = f"{row['youtube_id']}_{start:06d}_{end:06d}"
        path = index.find(name + ending for ending in _ENDINGS)
        videos.append(Video(path, name, row.get("label") or None))
    return videos
