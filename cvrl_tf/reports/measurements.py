"""Measurements of the paper's tables, read from the files of runs and evaluations."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cvrl_tf.measures.metrics import Estimate, share
from cvrl_tf.reports import runs
from cvrl_tf.reports.runs import Run
from cvrl_tf.reports.tables import BASELINES, Measurement, place


def gather(paths: Iterable[str | Path]) -> list[Measurement]:
    """Read the measurements of all runs and evaluations that name their cell.

    Args:
      paths: folders of runs, files of `cvrl_tf.evaluate`, or folders that hold any of them.

    Raises:
      FileNotFoundError: a path does not exist.
      ValueError: a cell is not in the tables, or a file is of a later version.
    """
    paths = list(paths)
    found: list[Measurement] = []
    for path in runs.find(paths, "run.json"):
        run = Run.read(path.parent)
        if run.facts.get("cell"):
            found += _of_run(run)
    for path in runs.find(paths, "*.json"):
        content = runs.read_evaluation(path)
        if content and content.get("cell"):
            found += _of_evaluation(path, content)
    # Evaluations that share a baseline have all measured it: it counts once.
    return list({(_baseline(each) or each.source): each for each in found}.values())


def _baseline(measured: Measurement) -> tuple[str, str, str, int, Estimate] | None:
    """Return what identifies a measurement of a row of `BASELINES`; None for other rows."""
    if measured.row not in BASELINES.values():
        return None
    return measured.table, measured.row, measured.column, measured.seed, measured.top1


def _column(table: str, data: str, split: str) -> str:
    """Name a column, such as "ucf101" or "k400 10 %".

    Args:
      table: its number.
      data: name of the data set, perhaps with the suffix of its split, such as "ucf101_split1".
      split: name of the split of the records, such as "train_10pct".
    """
    name = re.sub(r"_split\d+$", "", data)
    part = re.fullmatch(r".*_([\d.]+)pct", split)
    return f"{name} {part[1]} %" if table == "3" and part else name


def _of_run(run: Run) -> list[Measurement]:
    facts = run.facts
    table, row = place(facts["cell"])
    tests = run.curve("test/top1")
    if not tests or facts["test"] is None:
        return []  # not tested yet
    count = facts["test"]["videos"]
    hits = np.arange(count) < round(tests[-1][1] * count)
    return [
        Measurement(
            table,
            row,
            _column(table, facts["train"]["data"], facts["train"]["split"]),
            share(hits),
            f"{facts['test']['views']} views",
            facts["train"]["videos"],
            *_pretraining(facts["initial_checkpoint"], tests[-1][0]),
            facts["seed"],
            str(run.folder),
        )
    ]


def _of_evaluation(path: Path, content: dict[str, Any]) -> list[Measurement]:
    table, row = place(content["cell"])
    protocol = content["protocol"]
    train, test = protocol["train"], protocol["test"]
    rows = {"trained": row, **BASELINES}
    return [
        Measurement(
            table,
            rows[name],
            _column(table, train["data"], train["split"]),
            Estimate(**measures["linear_probe"]["top1"]),
            f"{test['views']} views, {protocol['features']}",
            train["videos"],
            *_pretraining(
                protocol["checkpoint"] if name == "trained" else None, protocol["epochs"]
            ),
            content["seed"],
            str(path),
        )
        for name, measures in content["encoders"].items()
    ]


def _pretraining(
    checkpoint: str | None, epochs: float
) -> tuple[tuple[float | None, float], float | None]:
    """Return `Measurement.epochs` and `Measurement.minutes`.

    Of the run of a checkpoint: for how many epochs it was trained until there, fewer than planned
    if its run goes on, and for how long.

    Args:
      checkpoint: None for random weights.
      epochs: of training on the labels.
    """
    if checkpoint is None:
        return (0, epochs), None
    path = Path(checkpoint)
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "run.json").exists():
            run = Run.read(folder)
            per_epoch, step = run.facts.get("steps_per_epoch"), re.search(r"-(\d+)$", path.name)
            if not per_epoch:
                return (run.facts.get("epochs"), epochs), None
            steps = int(step[1]) if step else run.facts["epochs"] * per_epoch
            return (round(steps / per_epoch, 1), epochs), run.minutes_of(steps)
    return (None, epochs), None
