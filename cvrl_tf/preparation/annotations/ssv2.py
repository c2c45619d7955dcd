"""Reads Something-Something v2: JSON lists of `{id, label, template}`, files `<id>.webm`."""

import json
from collections.abc import Sequence

from etils import epath

from cvrl_tf.preparation.annotations.text import read_text
from cvrl_tf.preparation.annotations.video import FileIndex, Video


def read(source: epath.Path, roots: Sequence[epath.Path], split: str) -> list[Video]:
    """Lists the videos of a Something-Something v2 list; see `annotations.read`.

    The class is the template without its brackets. Test items have none.
    """
    del split  # a file is a split
    index = FileIndex(roots)
    videos = []
    for item in json.loads(read_text(source)):
        if "id" not in item:
            raise ValueError(f"{source}: an item without `id`: {item}.")
        template = item.get("template")
        label = template.replace("[", "").replace("]", "") if template else None
        videos.append(Video(index.find([f"{item['id']}.webm"]), str(item["id"]), label))
    return videos
