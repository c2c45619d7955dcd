"""What runs and evaluations have measured of the paper's tables, out of their files."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cvrl_tf.measures.metrics import Estimate, share
from cvrl_tf.reports.tables import BASELINES, Measurement, place


def gather(paths: Iterable[str | Path]) -> list[Measurement]:
    """What runs and evaluations measured that say their cell.

    Args:
      paths: folders of runs, files of `cvrl_tf.evaluate`, or folders that hold any of them.

    Raises:
      FileNotFoundError: there is nothing at a path.
      ValueError: a cell that isn't in the tables.
    """
    found = []
    for path in files(paths, "run.json"):
        facts = json.loads(path.read_text())
        if facts.get("cell"):
            found += _of_run(path.parent, facts)
    for path in files(paths, "*.json"):
        content = json.loads(path.read_text())
        if isinstance(content, dict) and "encoders" in content and content.get("cell"):
            found += _of_evaluation(path, content)
    # Evaluations that share their baseline have all measured it.
    return list({(_baseline(run) or run.source): run for run in found}.values())


def _baseline(run: Measurement) -> tuple[str, str, str, int, Estimate] | None:
    """What makes a measurement of a baseline of `BASELINES` the same as another's."""
    if run.row not in BASELINES.values():
        return None
    return run.table, run.row, run.column, run.seed, run.top1


def files(paths: Iterable[str | Path], pattern: str) -> list[Path]:
    """The files of that name at or below the paths, each once.

    Raises:
      FileNotFoundError: there is nothing at a path.
    """
    found = {}
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"No run at {str(path)!r}.")
        inside = sorted(path.rglob(pattern)) if path.is_dir() else [path]
        found.update({each.resolve(): each for each in inside if each.match(pattern)})
    return list(found.values())


def log_lines(run: str | Path) -> list[dict[str, Any]]:
    """What stands in a run's metrics.jsonl; nothing if it isn't there yet."""
    path = Path(run) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _column(table: str, data: str, split: str) -> str:
    name = re.sub(r"_split\d+$", "", data)
    part = re.fullmatch(r".*_([\d.]+)pct", split)
    return f"{name} {part[1]} %" if table == "3" and part else name


def _of_run(folder: Path, facts: dict[str, Any]) -> list[Measurement]:
    table, row = place(facts["cell"])
    tests = [line for line in log_lines(folder) if "test/top1" in line]
    if not tests or facts["test"] is None:
        return []  # it has not come to its test yet
    count = facts["test"]["videos"]
    hits = np.arange(count) < round(tests[-1]["test/top1"] * count)
    return [
        Measurement(
            table,
            row,
            _column(table, facts["train"]["data"], facts["train"]["split"]),
            share(hits),
            f"{facts['test']['views']} views",
            facts["train"]["videos"],
            (_pretraining_epochs(facts["initial_checkpoint"]), facts["epochs"]),
            facts["seed"],
            str(folder),
        )
    ]


def _of_evaluation(path: Path, content: dict[str, Any]) -> list[Measurement]:
    table, row = place(content["cell"])
    protocol = content["protocol"]
    train, test = protocol["train"], protocol["test"]
    rows = {"trained": row, **BASELINES}
    epochs = _pretraining_epochs(protocol["checkpoint"])
    return [
        Measurement(
            table,
            rows[name],
            _column(table, train["data"], train["split"]),
            Estimate(**measures["linear_probe"]["top1"]),
            f"{test['views']} views, {protocol['features']}",
            train["videos"],
            (epochs if name == "trained" else 0, protocol["epochs"]),
            content["seed"],
            str(path),
        )
        for name, measures in content["encoders"].items()
    ]


def _pretraining_epochs(checkpoint: str | None) -> int | None:
    """Of the run of a checkpoint, which may be gone, or be no run of ours; 0 without one."""
    if checkpoint is None:
        return 0
    path = Path(checkpoint)
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "run.json").exists():
            return json.loads((folder / "run.json").read_text()).get("epochs")
    return None
