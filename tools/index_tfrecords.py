"""Write the indexes of shards that have none, such as those of earlier versions or other tools.

    python tools/index_tfrecords.py --data_dir=records

Training reads single frames by them. The command reads every byte once, and writes the indexes into
the folder `index` beside the shards. Shards whose index is there and fits are left alone.
"""

import os
import sys

from absl import app, flags

# Before TensorFlow is imported: its start-up messages would hide the output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tqdm import tqdm

from cvrl_tf import commands
from cvrl_tf.data import reading, records, schema, shard_index

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the records.", required=True)
_SPLIT = flags.DEFINE_string("split", None, "Split to index. Default: all splits.")


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"Unexpected {argv[1:]}.")
    try:
        info = schema.DatasetInfo.load(_DATA_DIR.value)
        for split in [_SPLIT.value] if _SPLIT.value else info.splits:
            _index(split, records.shard_paths(_DATA_DIR.value, info.split(split)))
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


def _index(split: str, shards: dict[str, int]) -> None:
    missing = [path for path, count in shards.items() if not _is_indexed(path, count)]
    for path in tqdm(missing, desc=split, unit=" shards"):
        shard_index.scan(path).save(shard_index.path_of(path))
    print(f"{split}: {len(missing)} of {len(shards)} shards had no fitting index; now they have.")


def _is_indexed(path: str, count: int) -> bool:
    try:
        reading.index_of(path, count)
    except (ValueError, FileNotFoundError):
        return False
    return True


if __name__ == "__main__":
    commands.run(main)
