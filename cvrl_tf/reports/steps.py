"""Steps of a plan: commands that run one after the other, each once."""

import contextlib
import dataclasses
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from cvrl_tf import output

_SAVING = 60.0  # seconds


class StepFailed(RuntimeError):
    """A step ended with an error, which its own output explains."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A command of Python.

    Attributes:
      name: under which it is recorded as done.
      command: arguments of the interpreter.
    """

    name: str
    command: tuple[str, ...]

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


def run(steps: list[Step], done: Path) -> None:
    """Run the steps and record each that is done.

    Raises:
      StepFailed: a step failed; the steps behind it have not run.
      BrokenPipeError: it ended because nobody reads its output.
    """
    done.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    for number, step in enumerate(steps):
        minutes = (time.monotonic() - begin) / 60
        left = f", about {minutes / number * (len(steps) - number):.0f} left" if number else ""
        print(f"\n== {step.name}: {number + 1} of {len(steps)}; {minutes:.0f} min so far{left}")
        print(f"$ {step}", flush=True)
        status = _status(step)
        if status and output.unread():
            raise BrokenPipeError  # which may have ended the step, whatever its exit code
        if status:
            raise StepFailed(
                f"Stopped at {step.name} (exit status {status}). Rerun the same command to resume."
            )
        step.marker(done).write_text(json.dumps(step.command))


def _status(step: Step) -> int:
    """Run a step and return its exit code; on a signal, end the step first."""
    with subprocess.Popen([sys.executable, *step.command]) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()  # a run saves where it stands
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_SAVING)
            process.kill()
            raise
