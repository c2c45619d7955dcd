"""Runs a table of the paper, or all four, on whatever data it is given.

    run_table.py --table=4 --seeds=3 --data_dir=records/k400 --output=runs/tables
    run_table.py --table=2 --data_dir=records/k400 --output=runs/tables \
      --transfer_dir=records/ucf101_split1 --transfer_dir=records/hmdb51_split1

Every step is the command that a user would type; --dry_run shows them. What is done is not done
again, so a table that was stopped goes on with the same command, and a further table takes over
the runs that it shares with one before. At the end stands OUTPUT/report/report.html.

For data, or a machine, that asks for other sizes there is --overlay: a folder of gin files that go
behind the recipes. Behind gin/ablation/k400_ta.gin goes its ablation/k400_ta.gin or, if it has no
such file, its ablation.gin; gin/common/demo is one.
"""

import dataclasses
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from absl import app, flags

from cvrl_tf.data import schema

_ROOT = Path(__file__).parents[1]
_TABLE = flags.DEFINE_multi_enum("table", ["1", "2", "3", "4"], ["1", "2", "3", "4"], "Which.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Records to pretrain on.", required=True)
_TRANSFER_DIR = flags.DEFINE_multi_string(
    "transfer_dir", [], "Records to fine-tune on, for table 2; one for each data set and split."
)
_IMAGENET = flags.DEFINE_string(
    "imagenet", None, "Weights of a ResNet of images, as tools/inflate.py takes them; without them "
    "the tables have no row ImageNet."
)  # fmt: skip
_OUTPUT = flags.DEFINE_string("output", None, "Folder for all runs and the report.", required=True)
_SEEDS = flags.DEFINE_integer("seeds", 1, "Runs of each row of table 4.", lower_bound=1)
_PROTOCOL = flags.DEFINE_enum(
    "protocol", "cached", ["cached", "paper"],
    "Linear evaluation on cached features, or as in the paper, encoding anew in every epoch."
)  # fmt: skip
_OVERLAY = flags.DEFINE_string("overlay", None, "Folder of gin files; see above.")
_GIN_PARAM = flags.DEFINE_multi_string("gin_param", [], "For every run, as in cvrl_tf.train.")
_NOTE = flags.DEFINE_string("note", "", "What a reader of the report must know about the data.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only show the commands that are left to be run.")

_ABLATION = {"TA": "ta", "SA": "sa", "TA+SA": "ta_sa", "TA+SA+TC": "ta_sa_tc"}


@dataclasses.dataclass(frozen=True)
class Step:
    """A command, and the name under which it is remembered that it is done."""

    name: str
    command: tuple[str, ...]


class Plan:
    """The steps of some tables, each once, in an order in which they can run."""

    def __init__(self, output: Path, splits: Collection[str]) -> None:
        """Args:
        output: folder of the runs.
        splits: that the data has already.
        """
        self._output, self._splits = output, splits
        self.steps: dict[str, Step] = {}

    def _add(self, name: str, *command: str) -> None:
        if self.steps.setdefault(name, Step(name, command)).command != command:
            sys.exit(f"Two steps would be called {name}: give folders of different names.")

    def _gin(self, recipe: str, seed_of: str, seed: int, **macros: str | None) -> list[str]:
        recipes = [recipe]
        if _OVERLAY.value:
            inside = Path(_absolute(_OVERLAY.value)) / Path(recipe).relative_to("gin")
            found = [p for p in (inside, inside.parent.with_suffix(".gin")) if p.is_file()]
            recipes += map(str, found[:1])
        macros = {"DATA_DIR": _absolute(_DATA_DIR.value), **macros}
        params = [f"{name}={value!r}" for name, value in macros.items()]
        params.append(f"{seed_of}.seed={seed}")
        # An evaluation knows no training's parameters, but for what recipes have as macros.
        macros_alone = seed_of != "run.Run"
        params += [p for p in _GIN_PARAM.value if not macros_alone or re.match(r"\w+\s*=", p)]
        return [f"--gin_file={r}" for r in recipes] + [f"--gin_param={p}" for p in params]

    def train(self, name: str, recipe: str, seed: int = 0, **macros: str | None) -> str:
        """A training run; returns its folder."""
        folder = str(self._output / name)
        gin = self._gin(recipe, "run.Run", seed, **macros)
        self._add(name, "-m", "cvrl_tf.train", *gin, f"--model_dir={folder}")
        return folder

    def pretrained(self, method: str) -> str:
        """The encoder of a row of tables 1 to 3; returns its run's folder."""
        cvrl = self.train("pretrain/cvrl", "gin/pretrain/k400.gin")
        if method == "CVRL":
            return cvrl
        source = _IMAGENET.value and _absolute(_IMAGENET.value)
        if method == "SimCLR":
            source = self.train("pretrain/simclr", "gin/baselines/simclr.gin")
        name = f"pretrain/{method.lower()}_inflated"
        flags_ = f"--source={source}", f"--like={cvrl}", f"--output={self._output / name}"
        self._add(name, "tools/inflate.py", *flags_)
        return str(self._output / name)

    def probe(self, name: str, cell: str, checkpoint: str, seed: int = 0) -> None:
        """Linear evaluation, by --protocol, with encoders at random to compare with."""
        if _PROTOCOL.value == "paper":
            recipe, table = "gin/probe/k400.gin", cell[0]
            self.train(f"probe/{name}", recipe, seed, CHECKPOINT=checkpoint, CELL=cell)
            at_random = f"{table}/Random weights"
            self.train(
                f"probe/{table}-random-{seed}", recipe, seed, CHECKPOINT=None, CELL=at_random
            )
            return
        gin = self._gin(
            "gin/probe/cached.gin",
            "frozen.FrozenEvaluation",
            seed,
            CHECKPOINT=checkpoint,
            CELL=cell,
        )
        output = self._output / "probe" / f"{name}.json"
        self._add(f"probe/{name}", "-m", "cvrl_tf.evaluate", *gin, f"--output={output}")

    def table_1(self) -> None:
        for method in _methods():
            self.probe(f"1-{method.lower()}", f"1/{method}", self.pretrained(method))
        self.train("supervised", "gin/baselines/supervised_k400.gin")

    def table_2(self) -> None:
        if not _TRANSFER_DIR.value:
            sys.exit("Table 2 wants --transfer_dir: records of UCF-101, say. Or leave it out.")
        for folder in _TRANSFER_DIR.value:
            data = Path(folder).name
            recipe = f"gin/finetune/{'hmdb51' if data.startswith('hmdb51') else 'ucf101'}.gin"
            for method, checkpoint in (("CVRL", self.pretrained("CVRL")), ("Supervised", None)):
                self.train(
                    f"finetune/{data}-{method.lower()}",
                    recipe,
                    DATA_DIR=_absolute(folder),
                    CHECKPOINT=checkpoint,
                    CELL=f"2/{method}",
                )

    def table_3(self) -> None:
        checkpoints: dict[str, str | None] = {m: self.pretrained(m) for m in _methods()}
        checkpoints["Supervised"] = None
        for percent in (1, 10):
            name = f"{percent}pct"
            if f"train_{name}" not in self._splits:
                flags_ = f"--data_dir={_absolute(_DATA_DIR.value)}", f"--percent={percent}"
                self._add(f"subset/{name}", "tools/make_subset.py", *flags_)
            for method, checkpoint in checkpoints.items():
                self.train(
                    f"semi/{name}-{method.lower()}",
                    f"gin/semi/k400_{name}.gin",
                    CHECKPOINT=checkpoint,
                    CELL=f"3/{method}",
                )

    def table_4(self) -> None:
        for seed in range(_SEEDS.value):
            for row, name in _ABLATION.items():
                run = self.train(f"ablation/{name}-{seed}", f"gin/ablation/k400_{name}.gin", seed)
                self.probe(f"4-{name}-{seed}", f"4/{row}", run, seed)


def _absolute(path: str) -> str:
    """Of the caller's folder: the steps run in the project's."""
    return str(Path(path).resolve())


def _methods() -> Iterator[str]:
    """The rows of the tables whose encoders have seen no labels of the data."""
    yield "CVRL"
    yield "SimCLR"
    if _IMAGENET.value:
        yield "ImageNet"


def _left(steps: list[Step], done: Path) -> list[Step]:
    """Those that are not done; ends the command if one was done by another command."""
    left = []
    for step in steps:
        marker = done / f"{step.name.replace('/', '_')}.json"
        if not marker.exists():
            left.append(step)
        elif (before := json.loads(marker.read_text())) != list(step.command):
            sys.exit(
                f"{step.name} was done with other settings before:\n  {shlex.join(before)}\nnow:\n"
                f"  {shlex.join(step.command)}\nChoose another --output, or delete {str(marker)!r} "
                "and what that command has written."
            )
    return left


def _run(steps: list[Step], done: Path) -> None:
    done.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    for number, step in enumerate(steps):
        minutes = (time.monotonic() - begin) / 60
        left = f", about {minutes / number * (len(steps) - number):.0f} left" if number else ""
        print(f"\n== {step.name}: {number + 1} of {len(steps)}; {minutes:.0f} min so far{left}")
        print(f"$ python {shlex.join(step.command)}", flush=True)
        status = subprocess.run([sys.executable, *step.command], cwd=_ROOT).returncode
        if status:
            sys.exit(f"Stopped at {step.name} (exit status {status}); the same command goes on.")
        marker = done / f"{step.name.replace('/', '_')}.json"
        marker.write_text(json.dumps(step.command))


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"Unexpected {argv[1:]}.")
    output = Path(_OUTPUT.value).resolve()
    try:
        splits, *_ = (
            schema.DatasetInfo.load(folder).splits
            for folder in (_DATA_DIR.value, *_TRANSFER_DIR.value)
        )
    except FileNotFoundError as error:
        sys.exit(f"Error: {error}")
    plan = Plan(output, splits)
    for table in sorted(set(_TABLE.value)):
        getattr(plan, f"table_{table}")()
    done = output / "done"
    left = _left(list(plan.steps.values()), done)
    if _DRY_RUN.value:
        for step in left:
            print(f"python {shlex.join(step.command)}")
        return
    _run(left, done)
    report = ["-m", "cvrl_tf.report", str(output), f"--output={output / 'report'}"]
    report.append(f"--note={_NOTE.value}")
    sys.exit(subprocess.run([sys.executable, *report], cwd=_ROOT).returncode)


if __name__ == "__main__":
    app.run(main)
