"""Steps of a plan: commands that run once, in order, several at a time if they may."""

import contextlib
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from cvrl_tf import output

_SAVING = 60.0  # seconds
_PAUSE = 0.1  # seconds between two looks at what runs


class StepFailed(RuntimeError):
    """A step ended with an error, which its own output explains."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A command of Python.

    Attributes:
      name: under which it is recorded as done.
      command: arguments of the interpreter.
      needs: names of steps that have to be done before.
    """

    name: str
    command: tuple[str, ...]
    needs: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"python {shlex.join(self.command)}"

    def marker(self, done: Path) -> Path:
        """Return the file in the folder `done` that says it is done."""
        return done / f"{self.name.replace('/', '_')}.json"


def remaining(steps: Iterable[Step], done: Path) -> list[Step]:
    """List the steps that are not done.

    Args:
      steps: all of them.
      done: folder that records the steps done.

    Raises:
      ValueError: a step was done by another command.
    """
    left = []
    for step in steps:
        marker = step.marker(done)
        if not marker.exists():
            left.append(step)
        elif (before := json.loads(marker.read_text())) != list(step.command):
            raise ValueError(
                f"{step.name} was done with other settings before:\n  {shlex.join(before)}\nnow:\n"
                f"  {shlex.join(step.command)}\nChoose another --output, or delete {str(marker)!r} "
                "and what that command wrote."
            )
    return left


def run(steps: list[Step], done: Path, jobs: int = 1) -> None:
    """Run the steps and record each that is done.

    Args:
      steps: in an order in which they can run.
      done: folder that records them.
      jobs: how many run at a time. If several, each has its share of the cores, and its output goes
        into a file beside the record.

    Raises:
      StepFailed: a step failed; steps that had not begun have not run.
      BrokenPipeError: one ended because nobody reads its output.
    """
    done.mkdir(parents=True, exist_ok=True)
    cores = sorted(os.sched_getaffinity(0)) if jobs > 1 else []
    waiting, free = list(steps), [cores[slot::jobs] or cores for slot in range(jobs)]
    running: list[_Running] = []
    begin = time.monotonic()
    try:
        while waiting or running:
            unmade = {step.name for step in waiting} | {each.step.name for each in running}
            ready = [step for step in waiting if not step.needs & unmade]
            for step in ready[: len(free)]:
                waiting.remove(step)
                begun = len(steps) - len(waiting)
                left = _left(begin, begun - len(running) - 1, len(steps))
                print(f"\n== {step.name}: {begun} of {len(steps)}; {left}")
                print(f"$ {step}", flush=True)
                log = step.marker(done).with_suffix(".log") if jobs > 1 else None
                running.append(_start(step, log, free.pop()))
            for each in [each for each in running if each.process.poll() is not None]:
                running.remove(each)
                free.append(each.cores)
                _finish(each, done)
            time.sleep(_PAUSE)
    finally:
        _end(running)


@dataclasses.dataclass(frozen=True)
class _Running:
    """A step that runs on some cores, or all; its output goes into a file, or where ours does."""

    step: Step
    process: subprocess.Popen
    cores: list[int]
    log: Path | None


def _left(begin: float, finished: int, count: int) -> str:
    minutes = (time.monotonic() - begin) / 60
    left = f", about {minutes / finished * (count - finished):.0f} left" if finished else ""
    return f"{minutes:.0f} min so far{left}"


def _start(step: Step, log: Path | None, cores: list[int]) -> _Running:
    command = [sys.executable, *step.command]
    if log is None:
        return _Running(step, subprocess.Popen(command), cores, log)
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    with contextlib.suppress(ProcessLookupError):  # it has ended
        os.sched_setaffinity(process.pid, cores)  # and so its threads, which come later
    return _Running(step, process, cores, log)


def _finish(ended: _Running, done: Path) -> None:
    """Record a step that has ended, or say why it failed."""
    status = ended.process.returncode
    if status and output.unread():
        raise BrokenPipeError  # which may have ended the step, whatever its exit code
    if status:
        said = ended.log.read_text(errors="replace").splitlines()[-20:] if ended.log else []
        said.append(f"Stopped at {ended.step.name} (exit status {status}).")
        raise StepFailed("\n".join([*said, "Rerun the same command to resume."]))
    ended.step.marker(done).write_text(json.dumps(ended.step.command))


def _end(running: list[_Running]) -> None:
    """End what runs still, after a signal or because another step failed."""
    for each in running:
        each.process.terminate()  # a run saves where it stands
    for each in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            each.process.wait(_SAVING)
        each.process.kill()
