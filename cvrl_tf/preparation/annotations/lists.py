"""A text file of `path label` lines.

The label is what follows the last white space, so that paths may hold spaces and labels may not;
integers are labels like any other name.
"""

from collections.abc import Sequence

from etils import epath

from cvrl_tf.preparation.annotations.video import Video


def read(source: epath.Path, roots: Sequence[epath.Path], split: str) -> list[Video]:
    """The videos of a list; see `annotations.read`. Paths start from the last root."""
    del split  # a file is a split
    videos = []
    for number, line in enumerate(source.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.rsplit(maxsplit=1)
        if len(fields) != 2:
            raise ValueError(f"{source}:{number}: {line!r} is not `path label`.")
        name, label = fields[0].strip(), fields[1]
        videos.append(Video(roots[-1] / name, name, label))
    return videos
