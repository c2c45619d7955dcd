"""Files that are whole or not there, on a disk or, as gs:// and the like, in a bucket."""

import contextlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath


def project() -> Path:
    """Return the folder that holds gin/ and tools/: the checkout, or their copy in the package."""
    package = Path(__file__).parent
    shipped = package / "shipped"
    return shipped if shipped.is_dir() else package.parent


def _is_remote(path: epath.Path) -> bool:
    return "://" in os.fspath(path)


def aside_of(path: epath.Path) -> epath.Path:
    """Make a temporary name in the same folder: `.NAME.*.tmp`."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def publish(aside: epath.Path, path: epath.Path) -> None:
    """Give a file that was written aside its name, once it is on the disk."""
    if not _is_remote(path):
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
    aside.replace(path)


def write_text(path: epath.Path, text: str) -> None:
    """Write a file whole or not at all."""
    aside = aside_of(path)
    try:
        aside.write_text(text)
        publish(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read_json(path: os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, or no object.
    """
    try:
        content = json.loads(epath.Path(path).read_text())
    except ValueError as error:  # no JSON, or no text
        raise ValueError(f"{os.fspath(path)!r} is damaged: {error}. Restore it.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{os.fspath(path)!r} is damaged: it holds no JSON object. Restore it.")
    return content


@contextlib.contextmanager
def on_disk(path: epath.Path) -> Iterator[Path]:
    """Return the file itself or, if it is in a bucket, a temporary copy."""
    if not _is_remote(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        with path.open("rb") as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, 2**20)
        yield copy
