"""A run's folder, apart from its checkpoints: who may write there, facts, and logs."""

import contextlib
import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from absl import logging
from etils import epath

from cvrl_tf import checkpoint_files, files
from cvrl_tf.training.failures import Stopped

RUN_VERSION = 2
# What a run writes, apart from its lock.
_WRITTEN = (
    CONFIG_FILE := "config.gin",
    RUN_FILE := "run.json",
    "encoder.json",
    "views.png",
    "metrics.jsonl",
    "tensorboard",
    NOT_FINITE_FILE := "not_finite.json",
    "checkpoints",
    "best",
)
_PACKAGES = ("cvrl_tf", "tensorflow", "tf-keras", "tf-models-official", "numpy")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder against other runs. The lock ends with this process.

    Raises:
      Stopped: another process holds it.
    """
    try:
        with files.locked(folder / ".lock", "wait for it, stop it, or choose another --model_dir"):
            yield
    except files.InUse as error:
        raise Stopped(str(error)) from None


def write_facts(folder: Path, **facts: Any) -> None:
    """Write `run.json`: versions of packages, and what else is said."""
    packages = {name: _version(name) for name in _PACKAGES}
    text = json.dumps({"version": RUN_VERSION, "packages": packages, **facts}, indent=2)
    files.write_text(epath.Path(folder / RUN_FILE), text + "\n")


def facts(folder: Path) -> dict[str, Any]:
    """Read `run.json`; nothing if it is not there or, with a warning, if it is damaged."""
    path = folder / RUN_FILE
    try:
        return files.read_json(path) if path.exists() else {}
    except ValueError as error:
        logging.warning("%s It is written anew.", error)
        return {}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def set_aside(folder: Path, step: int) -> None:
    """Move what a run would overwrite, delete or log again into `aside/N`, a new folder.

    A run that resumes moves logs and checkpoints later than its step, and damaged ones, and what it
    said of a loss that was not finite. A new run moves everything by whose name it will write.
    TensorBoard passes over logs later than a step by itself, see `callbacks.MetricsLog`.

    Args:
      folder: of the run.
      step: at which it goes on; 0 for a new run.
    """
    aside = _next_aside(folder)
    if step:
        moved = _unused_checkpoints(folder / "checkpoints", step)
        if (folder / NOT_FINITE_FILE).exists():
            moved.append(folder / NOT_FINITE_FILE)
        _cut_log(folder / "metrics.jsonl", step, aside)
    else:
        moved = [folder / name for name in _WRITTEN if (folder / name).exists()]
    for path in moved:
        target = aside / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    if aside.exists():
        print(f"What {str(folder)!r} held beyond step {step} is in {str(aside)!r} now.")


def _next_aside(folder: Path) -> Path:
    numbers = [int(path.name) for path in (folder / "aside").glob("*") if path.name.isdecimal()]
    return folder / "aside" / str(max(numbers, default=0) + 1)


def _unused_checkpoints(folder: Path, step: int) -> list[Path]:
    """Files of the checkpoints that are later than a step, or damaged; an index before its data."""
    prefixes = {path.with_suffix("") for path in folder.glob("ckpt-*") if path.is_file()}
    return [
        path
        for prefix in sorted(prefixes)
        if checkpoint_files.step_of(prefix) > step or checkpoint_files.damage(str(prefix))
        for path in checkpoint_files.files_of(prefix)
    ]


def _cut_log(path: Path, step: int, aside: Path) -> None:
    """Move the lines later than a step, and damaged ones, to a file aside."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if _is_until(line, step)]
    cut = [line for line in lines if not _is_until(line, step)]
    if cut:
        aside.mkdir(parents=True)
        (aside / path.name).write_bytes(b"".join(cut))
        files.write_text(epath.Path(path), b"".join(kept).decode())


def _is_until(line: bytes, step: int) -> bool:
    """Tell whether a line is whole and of a step up to this one."""
    try:
        return line.endswith(b"\n") and json.loads(line)["step"] <= step
    except (ValueError, TypeError, LookupError):  # a process killed while it wrote, a full disk
        return False
