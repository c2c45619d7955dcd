"""The files of checkpoints: which of a folder are whole, and how they get there whole."""

import functools
import glob
import os
import re
import shutil
from pathlib import Path

import tensorflow as tf
from absl import logging
from etils import epath

from cvrl_tf import files

STATE_FILE = "checkpoint"  # TensorFlow's: says which is the latest
_NAME = "ckpt"


def newest(folder: str | Path) -> str | None:
    """Find the newest whole checkpoint of a folder, and log which are passed over and why.

    That is the one which the state file names or, if that or the state file is damaged, the one of
    the highest step.

    Returns:
      Its prefix; None if there is no sign of a checkpoint.

    Raises:
      ValueError: there are checkpoints, or were, and none can be read.
    """
    folder = Path(folder)
    found = sorted((str(path)[: -len(".index")] for path in folder.glob("*.index")), key=step_of)
    named, problems = _named(folder, bool(found))
    for prefix in dict.fromkeys([*named, *reversed(found)]):
        problem = damage(prefix)
        if problem is None:
            if problems:
                logging.warning("Passed over %s. Taking %s.", "; ".join(problems), prefix)
            return prefix
        problems.append(f"{prefix}: {problem}")
    if not problems:
        return None
    raise ValueError(
        f"No checkpoint in {str(folder)!r} can be read:\n  " + "\n  ".join(problems) + "\nRestore "
        "the folder from a copy. To begin anew, choose another folder, or move this one away."
    )


def latest(folder: Path) -> str | None:
    """Return the prefix of the checkpoint that the state file names; None for none."""
    named, _ = _named(folder, expected=False)
    return named[0] if named else None


def _named(folder: Path, expected: bool) -> tuple[list[str], list[str]]:
    """The checkpoint that the state file names, and what is wrong with the state file."""
    path = folder / STATE_FILE
    try:
        state = tf.train.get_checkpoint_state(str(folder))
    except ValueError:  # empty, or no text
        state = None
    if state is not None:
        return [state.model_checkpoint_path], []
    if path.exists():
        return [], [f"{path}: it names no checkpoint"]
    return [], [f"{path}: it is missing"] if expected else []


def step_of(path: str | Path) -> int:
    """Return the number at the end of a checkpoint's name, before any suffix; -1 for none."""
    number = re.search(r"-(\d+)(\.index|\.data-\d+-of-\d+)?$", Path(path).name)
    return int(number[1]) if number else -1


def damage(prefix: str) -> str | None:
    """Say why a checkpoint can't be read; None if it can.

    Reads every tensor, so that TensorFlow compares its checksums. The answer is remembered for as
    long as size and time of the files stay the same.
    """
    return _damage(prefix, stamp(prefix))


def stamp(prefix: str) -> tuple[tuple[str, int, int], ...]:
    """Return names, sizes and times of a checkpoint's files."""
    stats = [(part, part.stat()) for part in files_of(prefix)]
    return tuple((part.name, stat.st_size, stat.st_mtime_ns) for part, stat in stats)


def files_of(prefix: str | Path) -> list[Path]:
    """List the files of a checkpoint: the index, if it is there, and then the data."""
    path = Path(prefix)
    index = path.with_name(path.name + ".index")
    data = sorted(path.parent.glob(f"{glob.escape(path.name)}.data-*"))
    return [index, *data] if index.exists() else data


@functools.lru_cache
def _damage(prefix: str, parts: tuple[tuple[str, int, int], ...]) -> str | None:
    if not any(name.endswith(".index") for name, _, _ in parts):
        return "its index is missing"
    try:
        reader = tf.train.load_checkpoint(prefix)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except Exception as error:  # of many types; nothing else is called here
        return " ".join(str(error).split()) or type(error).__name__
    return None


class Saver:
    """Saves checkpoints of a run so that a power cut leaves the last one whole.

    What `tf.train.CheckpointManager` does, but for what it knows of earlier checkpoints: the folder
    tells, not the state file, which is written for other readers.

    Attributes:
      checkpoint: what is saved.
    """

    def __init__(self, checkpoint: tf.train.Checkpoint, folder: str | Path, keep: int) -> None:
        """Args:
        checkpoint: what is saved.
        folder: where; made when it is needed.
        keep: how many stay.
        """
        self.checkpoint, self._folder, self._keep = checkpoint, Path(folder), keep

    def save(self, step: int) -> str:
        """Save, unless that was done at this very step, and remove what is too many.

        Returns:
          The checkpoint's prefix.
        """
        prefix = str(self._folder / f"{_NAME}-{step}")
        if latest(self._folder) == prefix and damage(prefix) is None:
            return prefix
        self._folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint.save_counter.assign_add(1)  # `tf.train.Checkpoint.restore` asks for it
        try:
            self.checkpoint.write(prefix)
        except tf.errors.OpError:  # such as a full disk
            shutil.rmtree(f"{prefix}_temp", ignore_errors=True)
            raise
        for part in (*self._folder.glob(f"{_NAME}-{step}.data-*"), Path(f"{prefix}.index")):
            _sync(part)
        _sync(self._folder)
        earlier = sorted(self._steps() - {step})
        kept = earlier[max(len(earlier) - self._keep + 1, 0) :]
        self._write_state([*kept, step])
        for each in set(earlier) - set(kept):
            for part in files_of(self._folder / f"{_NAME}-{each}"):
                part.unlink()
        return prefix

    def _steps(self) -> set[int]:
        return {step_of(path) for path in self._folder.glob(f"{_NAME}-*.index")}

    def _write_state(self, steps: list[int]) -> None:
        lines = [f'model_checkpoint_path: "{_NAME}-{steps[-1]}"']
        lines += [f'all_model_checkpoint_paths: "{_NAME}-{step}"' for step in steps]
        files.write_text(epath.Path(self._folder / STATE_FILE), "\n".join(lines) + "\n")
        _sync(self._folder)


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
