"""A run's folder, apart from its checkpoints: who may write there, facts, and logs."""

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from cvrl_tf.training.failures import Stopped

RUN_FILE, RUN_VERSION = "run.json", 2
_PACKAGES = ("cvrl_tf", "tensorflow", "tf-keras", "tf-models-official", "numpy")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder against other runs. The lock ends with this process.

    Raises:
      Stopped: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise Stopped(
                f"{str(folder)!r} is in use by {lock.read().strip()}: wait for it, stop it, or "
                "choose another --model_dir."
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        yield


def write_facts(folder: Path, **facts: Any) -> None:
    """Write `run.json`: versions of packages, and what else is said."""
    packages = {name: _version(name) for name in _PACKAGES}
    text = json.dumps({"version": RUN_VERSION, "packages": packages, **facts}, indent=2)
    (folder / RUN_FILE).write_text(text + "\n")


def facts(folder: Path) -> dict[str, Any]:
    """Read `run.json`; nothing if it is not there."""
    path = folder / RUN_FILE
    return json.loads(path.read_text()) if path.exists() else {}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def discard_after(folder: Path, step: int) -> None:
    """Remove from the logs what a resumed run will log again.

    TensorBoard drops it by itself, see `callbacks.MetricsLog`.

    Args:
      folder: of the run.
      step: at which it resumes; 0 leaves no logs at all.
    """
    if not step:
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    lines = folder / "metrics.jsonl"
    if lines.exists():
        kept = lines.with_name("metrics.new")
        kept.write_bytes(b"".join(_lines_until(lines, step)))
        kept.replace(lines)


def _lines_until(path: Path, step: int) -> Iterator[bytes]:
    for line in path.read_bytes().splitlines(keepends=True):
        with contextlib.suppress(json.JSONDecodeError):  # a process killed while it wrote
            if json.loads(line)["step"] <= step:
                yield line
