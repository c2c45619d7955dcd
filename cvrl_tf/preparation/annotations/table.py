"""Reads a CSV file whose header names the columns: `path`, perhaps `label`, `start` and `end`."""

from collections.abc import Sequence

from etils import epath

from cvrl_tf.preparation.annotations.text import read_rows
from cvrl_tf.preparation.annotations.video import Video


def read(source: epath.Path, roots: Sequence[epath.Path], split: str) -> list[Video]:
    """Lists the videos of a CSV file; see `annotations.read`.

    Paths start from the last root. `start` and `end` are seconds into the file, between which the
    record is cut out.
    """
    del split  # a file is a split
    videos = []
    for place, row in read_rows(source, ["path"], ["label", "start", "end"]):
        try:
            start, end = (float(row[key]) if row[key] else None for key in ("start", "end"))
        except ValueError:
            raise ValueError(f"{place}: no seconds in {row}.") from None
        if not row["path"]:
            raise ValueError(f"{place}: no path in {row}.")
        if start is not None and end is not None and end <= start:
            raise ValueError(f"{place}: it ends at {end}, before {start}.")
        cut = "" if start is None and end is None else f"[{start or 0:g}-{end or ''}]"
        path, label = row["path"], row["label"] or None
        videos.append(Video(roots[-1] / path, path + cut, label, start, end))
    return videos
