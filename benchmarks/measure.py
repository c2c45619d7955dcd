"""Timing and reporting that the benchmarks share."""

import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def alternate(
    contenders: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, list[float]]:
    """Run the contenders in turn, so that noise affects all alike, and return seconds by round."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
            print(f"  {name}: {seconds[name][-1]:.3f} s", file=sys.stderr)
    return seconds


def speed_up(seconds: dict[str, list[float]], ours: str, theirs: str) -> float:
    """Return the median over the rounds of their time / our time."""
    pairs = zip(seconds[theirs], seconds[ours], strict=True)
    return round(statistics.median(theirs / ours for theirs, ours in pairs), 3)


def report(script: str, ratios: dict[str, float], **figures: Any) -> None:
    """Print one JSON object as the last line, and write it to a file next to the script.

    Args:
      script: `__file__` of the script.
      ratios: speed-ups; ours is faster above 1.
      figures: other measurements.
    """
    result = {
        "ratios": ratios,
        **figures,
        "date": datetime.date.today().isoformat(),
        "hardware": f"{os.cpu_count()} cores, {_cpu()}",
        "python": platform.python_version(),
    }
    Path(script).with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()
