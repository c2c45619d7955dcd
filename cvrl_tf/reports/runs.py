"""Files of runs and evaluations, of this version and of earlier ones."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from absl import logging

from cvrl_tf import files
from cvrl_tf.measures.metrics import gain_over_baselines

_NEWEST = 2  # version of run.json and of an evaluation
# What a run of version 1 does not say of itself, by its kind.
_TASKS = {"pretrain": "Pretraining", "classify": "Classification", "": "Training"}
_METRICS = {"pretrain": ["contrastive_accuracy"], "classify": ["top1"], "": []}


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's folder.

    Attributes:
      folder: of the run.
      facts: the content of run.json, in the form of the newest version. Its "kind" is "pretrain",
        "classify" or, if an earlier version does not tell, empty.
    """

    folder: Path
    facts: dict[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> "Run":
        """Read run.json.

        Raises:
          FileNotFoundError: there is none.
          ValueError: it is damaged, or of a later version.
        """
        path = Path(folder) / "run.json"
        facts = files.read_json(path)
        if _version(facts, path) == 1:
            kind = _kind_before_version_2(path.with_name("encoder.json"))
            facts |= {"kind": kind, "task": _TASKS[kind], "metric_names": _METRICS[kind]}
        return cls(Path(folder), facts)

    @property
    def metric_names(self) -> list[str]:
        """Names of the metrics, the loss first."""
        return list(dict.fromkeys(["loss", *self.facts["metric_names"]]))

    @property
    def log(self) -> list[dict[str, Any]]:
        """The whole lines of metrics.jsonl; empty if there is no such file yet.

        A warning says how many can't be read, after a full disk, say.
        """
        path = self.folder / "metrics.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        lines = [line for line in lines if line.endswith(b"\n")]  # the last may be being written
        found = [values for line in lines if (values := _log_line(line))]
        if left_out := len(lines) - len(found):
            logging.warning("%s: %d damaged lines are left out.", path, left_out)
        return found

    def minutes_of(self, steps: int) -> float | None:
        """Return the time of so many training steps at the mean of the logged speeds.

        Without tests and saving. None if no speed was logged.
        """
        speeds = [line["steps_per_second"] for line in self.log if "steps_per_second" in line]
        return steps * sum(1 / speed for speed in speeds) / len(speeds) / 60 if speeds else None

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """Return epochs and values of a metric, such as "epoch/loss" or "test/top1"."""
        return [
            (line["epoch"], line[metric]) for line in self.log if {"epoch", metric} <= line.keys()
        ]


def _log_line(line: bytes) -> dict[str, Any] | None:
    """Read a line of a log; None for what a killed process or a full disk left of one."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _kind_before_version_2(encoder: Path) -> str:
    """Tell the kind of a run by its encoder.json; empty if that is missing or does not tell."""
    facts = files.read_json(encoder) if encoder.exists() else {}
    if "head" in facts:
        return "pretrain"
    return "classify" if "labels" in facts else ""


def read_evaluation(path: Path) -> dict[str, Any] | None:
    """Read a file of `cvrl_tf.evaluate`, in the form of the newest version.

    Returns:
      Its content, or None if it is another kind of JSON file.

    Raises:
      ValueError: it is damaged, or of a later version.
    """
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}. Restore or remove it.") from error
    if not isinstance(content, dict) or "encoders" not in content:
        return None
    if _version(content, path) == 1:
        encoders = content["encoders"]
        # Early files spell it so.
        content["encoders"] = {
            "mean_color" if name == "mean_colour" else name: of for name, of in encoders.items()
        }
        content["gain_over_baselines"] = gain_over_baselines(content["encoders"])
    return content


def _version(content: dict[str, Any], path: Path) -> int:
    version = content.get("version", 1)
    if version > _NEWEST:
        raise ValueError(
            f"{str(path)!r} is of version {version}; this cvrl_tf reads up to {_NEWEST}: update it."
        )
    return version


def find(paths: Iterable[str | Path], pattern: str) -> list[Path]:
    """List the files of that name at or below the paths, each once; not what runs set aside.

    Raises:
      FileNotFoundError: a path does not exist.
    """
    found = {}
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"No run at {str(path)!r}.")
        inside = sorted(path.rglob(pattern)) if path.is_dir() else [path]
        inside = [each for each in inside if "aside" not in each.relative_to(path).parts]
        found.update({each.resolve(): each for each in inside if each.match(pattern)})
    return list(found.values())
