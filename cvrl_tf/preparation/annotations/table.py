"""Reads a CSV file whose header names the columns: `path`, perhaps `label`, `start` and `end`."""

import csv
import io
from collections.abc import Sequence

from etils import epath

from cvrl_tf.preparation.annotations.video import Video


def read(source: epath.Path, roots: Sequence[epath.Path], split: str) -> list[Video]:
    """Lists the videos of a CSV file; see `annotations.read`.

    Paths start from the last root. `start` and `end` are seconds into the file, between which the
    record is cut out.
    """
    del split  # a file is a split
    videos = []
    rows = csv.DictReader(io.StringIO(source.read_text()))
    if "path" not in (rows.fieldnames or ()):
        raise ValueError(f"{source} has no column 'path'; it has {rows.fieldnames}.")
    for row in rows:
        try:
            start, end = (float(row[k]) if row.get(k) else None for k in ("start", "end"))
        except ValueError:
            raise ValueError(f"{source}:{rows.line_num}: no seconds in {row}.") from None
        if start is not None and end is not None and end <= start:
            raise ValueError(f"{source}:{rows.line_num}: it ends at {end}, before {start}.")
        cut = "" if start is None and end is None else f"[{start or 0:g}-{end or ''}]"
        path, label = row["path"], row.get("label") or None
        videos.append(Video(roots[-1] / path, path + cut, label, start, end))
    return videos
