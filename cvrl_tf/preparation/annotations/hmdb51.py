"""Reads HMDB-51: files `<class>_test_splitN.txt` of lines `name.avi 1`: 1 train, 2 test, 0 unused.

Names hold `#`, `(`, `!`, `;` and `&`.
"""

import re
from collections.abc import Sequence

from etils import epath

from cvrl_tf.preparation.annotations.text import read_text
from cvrl_tf.preparation.annotations.video import FileIndex, Video

_PARTS = {"train": "1", "test": "2"}


def read(source: epath.Path, roots: Sequence[epath.Path], split: str) -> list[Video]:
    """Lists the videos of one of the three splits; see `annotations.read`.

    Args:
      source: the lists of one split, as `hmdb51_splits/*_test_split1.txt`.
      roots: folders of videos.
      split: "train" or "test", which stand in the same lists.
    """
    if split not in _PARTS:
        raise ValueError(f"HMDB-51 has the splits {sorted(_PARTS)}, not {split!r}.")
    lists = sorted(source.parent.glob(source.name))
    folds = {re.fullmatch(r".*_test_split(\d)\.txt", path.name) for path in lists}
    if None in folds or len({match[1] for match in folds if match}) != 1:
        raise ValueError(
            f"{str(source)!r} matches {len(lists)} files; name the lists of one split, as "
            "'hmdb51_splits/*_test_split1.txt'."
        )
    index = FileIndex(roots)
    videos = []
    for path in lists:
        label = path.name[: path.name.rindex("_test_split")]
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            if not line.strip():
                continue
            name, _, part = line.strip().rpartition(" ")
            if part not in ("0", "1", "2") or not name:
                raise ValueError(f"{path}:{number}: {line!r} is not `name.avi 0|1|2`.")
            if part == _PARTS[split]:
                videos.append(
                    Video(index.find([f"{label}/{name}", name]), f"{label}/{name}", label)
                )
    return videos
