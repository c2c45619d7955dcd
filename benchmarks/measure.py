"""What the benchmarks share: alternating runs, and the line that ends each of them."""

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
    """Seconds that each takes, in each round; they take turns, so that noise meets all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
            print(f"  {name}: {seconds[name][-1]:.3f} s", file=sys.stderr)
    return seconds


def speed_up(seconds: dict[str, list[float]], ours: str, theirs: str) -> float:
    """Median over the rounds of their time / our time."""
    pairs = zip(seconds[theirs], seconds[ours], strict=True)
    return round(statistics.median(theirs / ours for theirs, ours in pairs), 3)


def report(script: str, ratios: dict[str, float], **figures: Any) -> None:
    """Prints one JSON object as the last line, and keeps it beside the script.

    Args:
      script: its `__file__`.
      ratios: speed-ups; above 1 ours is faster.
      figures: whatever else was measured.
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
