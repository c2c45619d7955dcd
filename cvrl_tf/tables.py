"""Makes tables of the paper on given data: every run, every evaluation and the report.

    python -m cvrl_tf.tables --table=4 --seeds=3 --data_dir=records/k400 --output=runs/tables
    python -m cvrl_tf.tables --table=2 --data_dir=records/k400 --output=runs/tables \
      --transfer_dir=records/ucf101_split1 --transfer_dir=records/hmdb51_split1

Every step is a command that a user could type; --dry_run shows them. Interrupted tables resume:
rerun the same command. Steps that are done do not run again, and tables share their runs. The
report is OUTPUT/report/report.html.

The recipe of a row says so in its head, by a line such as "# Rows:     1/CVRL, 2/CVRL".

For data, or a machine, that needs other sizes, --overlay names a folder of gin files that go behind
the recipes. Behind gin/ablation/k400_ta.gin goes its ablation/k400_ta.gin or, without such a file,
its ablation.gin; gin/common/demo is one.
"""

import subprocess
import sys
from pathlib import Path

from absl import flags

from cvrl_tf import commands
from cvrl_tf.data import schema
from cvrl_tf.reports import plan, steps

_TABLE = flags.DEFINE_multi_enum(
    "table", ["1", "2", "3", "4"], ["1", "2", "3", "4"], "Table to make."
)
_ROW = flags.DEFINE_multi_string("row", [], "Row to make, such as PacePred; default: all rows.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Records to pretrain on.", required=True)
_TRANSFER_DIR = flags.DEFINE_multi_string(
    "transfer_dir", [], "Records to fine-tune on, for table 2: one for each data set and split."
)
_IMAGENET = flags.DEFINE_string(
    "imagenet", None, "Weights of a ResNet of images, for the rows ImageNet; see tools/inflate.py."
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for all runs and the report.", required=True)
_SEEDS = flags.DEFINE_integer("seeds", 1, "Number of runs of each row.", lower_bound=1)
_JOBS = flags.DEFINE_integer(
    "jobs", 1, "Steps that run at a time, each on its share of the cores.", lower_bound=1
)
_PROTOCOL = flags.DEFINE_enum(
    "protocol",
    "cached",
    ["cached", "paper"],
    "Linear evaluation on cached features, or as in the paper, with new crops in every epoch.",
)
_OVERLAY = flags.DEFINE_string("overlay", None, "Folder of gin files that go behind the recipes.")
_GIN_PARAM = flags.DEFINE_multi_string("gin_param", [], "Parameter of every run, for gin.")
_NOTE = flags.DEFINE_string("note", "", "Text for the top of the report.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only show the commands that remain.")


def _request() -> plan.Request:
    return plan.Request(
        data_dir=Path(_DATA_DIR.value).resolve(),
        output=Path(_OUTPUT.value).resolve(),
        transfer_dirs=[Path(folder).resolve() for folder in _TRANSFER_DIR.value],
        imagenet=Path(_IMAGENET.value).resolve() if _IMAGENET.value else None,
        only=_ROW.value,
        seeds=_SEEDS.value,
        protocol=_PROTOCOL.value,
        overlay=Path(_OVERLAY.value).resolve() if _OVERLAY.value else None,
        gin_params=_GIN_PARAM.value,
    )


def main(argv: list[str]) -> None:
    commands.start(argv)
    request = _request()
    done = request.output / "done"
    with commands.explained():
        folders = request.data_dir, *request.transfer_dirs
        infos = {folder: schema.DatasetInfo.load(folder) for folder in folders}
        planned = plan.Plan(request, infos)
        for table in sorted(set(_TABLE.value)):
            planned.add_table(table)
        left = steps.remaining(planned.steps, done)
    if _DRY_RUN.value:
        for step in left:
            print(step)
        return
    with commands.explained(steps.StepFailed):
        steps.run(left, done, _JOBS.value)
    report = ["-m", "cvrl_tf.report", str(request.output), f"--output={request.output / 'report'}"]
    report.append(f"--note={_NOTE.value}")
    sys.exit(subprocess.run([sys.executable, *report]).returncode)


if __name__ == "__main__":
    commands.run(main)
