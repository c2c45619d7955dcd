"""Write a subset of a training split, such as 1 % or 10 % of each class, for semi-supervision.

    python tools/make_subset.py --data_dir=records/k400 --split=train --percent=1

This command adds the split `train_1pct` to the folder.
"""

import os
import sys

from absl import app, flags

# Before TensorFlow is imported: its start-up messages would hide the output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from cvrl_tf import commands
from cvrl_tf.data import schema
from cvrl_tf.preparation import subsets

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the records.", required=True)
_SPLIT = flags.DEFINE_string("split", "train", "Split to draw the subset from.")
_PERCENT = flags.DEFINE_float("percent", None, "Share of each class, in percent.", required=True)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the draw.")


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"Unexpected {argv[1:]}.")
    name = f"{_SPLIT.value}_{_PERCENT.value:g}pct"
    try:
        split = subsets.write_subset(
            _DATA_DIR.value, _SPLIT.value, _PERCENT.value / 100, name, _SEED.value
        )
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(f"Wrote split {name!r}: {split.num_examples} videos, {len(split.class_counts)} classes.")
    total = schema.DatasetInfo.load(_DATA_DIR.value).split(_SPLIT.value).num_examples
    wanted = subsets.share(total, _PERCENT.value / 100)
    if split.num_examples > wanted:
        print(f"{_PERCENT.value:g} % of {total} are {wanted}, but each class has at least one.")


if __name__ == "__main__":
    commands.run(main)
