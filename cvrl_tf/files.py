"""Files that are whole or not there, on a disk or, as gs:// and the like, in a bucket."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from absl import logging
from etils import epath


class InUse(OSError):
    """Another process holds a lock. The message says which one, and what to do."""


def project() -> Path:
    """Return the folder that holds gin/ and tools/: the checkout, or their copy in the package."""
    package = Path(__file__).parent
    shipped = package / "shipped"
    return shipped if shipped.is_dir() else package.parent


def is_remote(path: epath.Path) -> bool:
    """Tell whether a file is in a bucket, as gs:// and the like."""
    return "://" in os.fspath(path)


def aside_of(path: epath.Path) -> epath.Path:
    """Make a temporary name in the same folder: `.NAME.*.tmp`."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


@contextlib.contextmanager
def aside(path: epath.Path) -> Iterator[epath.Path]:
    """Hold a temporary name in the same folder; what still has it in the end is removed.

    Until then it isn't abandoned; see `is_abandoned`.
    """
    place = aside_of(path)
    with contextlib.ExitStack() as stack:
        stack.callback(place.unlink, missing_ok=True)
        if not is_remote(place):
            file = stack.enter_context(open(place, "wb"))
            with contextlib.suppress(OSError):  # a disk without locks
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield place


def is_abandoned(place: epath.Path) -> bool:
    """Tell whether the process is gone that held a temporary name.

    Where there are no locks that can't be known: files in buckets are taken to be abandoned, files
    on disks are not.
    """
    if is_remote(place):
        return True
    try:
        with open(place, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def publish(place: epath.Path, path: epath.Path) -> None:
    """Give a file that was written aside its name, once it is on the disk."""
    if not is_remote(path):
        with open(place, "rb") as file:
            os.fsync(file.fileno())
    place.replace(path)


def write_text(path: epath.Path, text: str) -> None:
    """Write a file whole or not at all."""
    with aside(path) as place:
        place.write_text(text)
        publish(place, path)


@contextlib.contextmanager
def locked(path: str | os.PathLike[str], remedy: str, patience: float = 0.0) -> Iterator[None]:
    """Hold a lock against other processes, also those of machines that share the disk.

    It ends with this process, however that ends. Buckets and some network disks have no locks;
    there a warning says so, and nothing is locked.

    Args:
      path: of a file that stands for the lock. It exists while the lock is held.
      remedy: what to do if another process holds it, as the end of a sentence.
      patience: seconds to wait for the other process.

    Raises:
      InUse: another process holds it.
    """
    if is_remote(epath.Path(path)):
        logging.warning("%s: buckets have no locks. Run one command at a time there.", path)
        yield
        return
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    while (lock := _try_lock(place)) is None:
        if time.monotonic() > deadline:
            raise InUse(f"{str(place.parent)!r} is in use by {_holder(place)}: {remedy}.")
        time.sleep(0.02)
    with lock:
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        try:
            yield
        finally:
            place.unlink(missing_ok=True)


def _try_lock(path: Path) -> TextIO | None:
    """Make the file of a lock and lock it; None if another process holds it."""
    while True:
        lock = path.open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        except OSError as error:
            logging.warning("%s: %s. Run one command at a time there.", path, error.strerror)
            return lock
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
        lock.close()  # its last holder has removed it in the meantime


def _holder(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        if holder := path.read_text(errors="replace")[:200].strip():
            return holder
    return "another process"


def read_json(path: os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, or no object.
    """
    try:
        content = json.loads(epath.Path(path).read_text())
    except (ValueError, RecursionError) as error:  # no JSON, or no text
        raise ValueError(f"{os.fspath(path)!r} is damaged: {error}. Restore it.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{os.fspath(path)!r} is damaged: it holds no JSON object. Restore it.")
    return content


@contextlib.contextmanager
def on_disk(path: epath.Path) -> Iterator[Path]:
    """Return the file itself or, if it is in a bucket, a temporary copy."""
    if not is_remote(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        with path.open("rb") as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, 2**20)
        yield copy


def cached(path: epath.Path) -> Path:
    """Return the file itself or, if it is in a bucket, a copy that later processes find.

    Copies are in `cvrl_tf` of the user's cache folder, by default ~/.cache. One of a file that has
    changed is not taken.
    """
    if not is_remote(path):
        return Path(path)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cvrl_tf"
    found = path.stat()
    key = hashlib.sha256(f"{path} {found.length} {found.mtime}".encode()).hexdigest()
    copy = epath.Path(caches / key)
    if not copy.exists():
        caches.mkdir(parents=True, exist_ok=True)
        with aside(copy) as place:
            path.copy(place, overwrite=True)
            publish(place, copy)
    return Path(copy)
