"""Features of clips of many videos, and the file that keeps them; docs/formats.md describes it."""

import contextlib
import dataclasses
import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from etils import epath

from cvrl_tf import files

FORMATS = (".parquet", ".npz")
_ROWS_A_GROUP = 16384  # of 2,048 numbers 128 MB
_DAMAGE: tuple[type[Exception], ...]  # what NumPy, PyArrow and JSON raise of a damaged file
_DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, LookupError, TypeError, ValueError)
_DAMAGE += (AttributeError, NotImplementedError, RecursionError)
_PLACE = ["video", "start", "end"]  # columns that say where a clip is


@dataclasses.dataclass(frozen=True)
class ClipFeatures:
    """Clips of videos and what a model says of them.

    Attributes:
      videos: str [N], paths as they were given. Parquet's strings are UTF-8, so there the bytes of
        a name that are none become escapes: caf\\xe9.mp4.
      starts, ends: float64 [N], seconds into the video; not a number where they are unknown.
      results: by name, such as "feature", float32 [N, D]; the mean over a clip's crops.
      facts: for JSON: model, fingerprint and views, see `embedding.Embedder`; skipped, reasons by
        video.
    """

    videos: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    results: dict[str, np.ndarray]
    facts: dict[str, Any]

    def save(self, path: str | Path) -> None:
        """Write a file of one of `FORMATS`, whole or not at all."""
        with _aside(path) as file:
            if Path(path).suffix == ".npz":
                place = dict(zip(_PLACE, (self.videos, self.starts, self.ends), strict=True))
                columns: dict[str, Any] = {**place, **self.results}
                np.savez(file, **columns, facts=json.dumps(self.facts))
            else:
                _write_parquet([self], file, self.facts)

    @classmethod
    def load(cls, path: str | Path, with_results: bool = True) -> "ClipFeatures":
        """Read what `save` wrote.

        Args:
          path: of the file.
          with_results: or without them, which saves most of the memory.

        Raises:
          FileNotFoundError: it is not there.
          ValueError: it is something else.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"No file {str(path)!r}: make it with cvrl_tf.embed.")
        try:
            read = _read_npz if Path(path).suffix == ".npz" else _read_parquet
            columns, facts = read(path, with_results)
            videos, starts, ends = (columns.pop(name) for name in _PLACE)
            if any(len(column) != len(videos) for column in (starts, ends, *columns.values())):
                raise ValueError("columns of different lengths")
            if not isinstance(facts, dict):
                raise ValueError("no facts")
        except _DAMAGE as error:
            raise ValueError(
                f"{str(path)!r} is not what cvrl_tf.embed writes, or damaged: {error!r}."
            ) from error
        return cls(videos.astype(str), starts, ends, columns, facts)

    @classmethod
    def joined(cls, parts: Sequence["ClipFeatures"], facts: dict[str, Any]) -> "ClipFeatures":
        """Join the clips of several files, in order."""
        parts = [part for part in parts if len(part.videos)]
        if not parts:
            nothing = np.zeros([0])
            return cls(nothing.astype(str), nothing, nothing, {}, facts)
        results = {
            name: np.concatenate([part.results[name] for part in parts])
            for name in parts[0].results
        }
        return cls(
            np.concatenate([part.videos for part in parts]),
            np.concatenate([part.starts for part in parts]),
            np.concatenate([part.ends for part in parts]),
            results,
            facts,
        )


def join(parts: Sequence[Path], path: str | Path, facts: dict[str, Any]) -> None:
    """Write the clips of files into one, in order; as .parquet without having all in memory."""
    if Path(path).suffix == ".npz":
        ClipFeatures.joined([ClipFeatures.load(part) for part in parts], facts).save(path)
        return
    with _aside(path) as file:
        _write_parquet((ClipFeatures.load(part) for part in parts), file, facts)


@contextlib.contextmanager
def _aside(path: str | Path) -> Iterator[BinaryIO]:
    """A file that takes its name when it is whole.

    Raises:
      ValueError: its name ends with none of `FORMATS`.
    """
    target = epath.Path(path)
    if target.suffix not in FORMATS:
        raise ValueError(f"{str(path)!r} must end with {' or '.join(FORMATS)}.")
    aside = files.aside_of(target)
    try:
        with open(aside, "wb") as file:
            yield file
        files.publish(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def _write_parquet(parts: Iterable[ClipFeatures], file: BinaryIO, facts: dict[str, Any]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    with contextlib.ExitStack() as stack:
        writer = None
        for part in parts:
            names = [os.fsencode(n).decode(errors="backslashreplace") for n in part.videos]
            columns: dict[str, Any] = dict(
                zip(_PLACE, (pa.array(names, pa.string()), part.starts, part.ends), strict=True)
            )
            for name, rows in part.results.items():
                flat = pa.array(rows.ravel())
                columns[name] = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
            if not len(part.videos):
                continue  # all of its videos were skipped
            table = pa.table(columns)
            if writer is None:
                schema = table.schema.with_metadata({"cvrl_tf": json.dumps(facts)})
                writer = stack.enter_context(parquet.ParquetWriter(file, schema))
            writer.write_table(table.cast(writer.schema), row_group_size=_ROWS_A_GROUP)


def _read_npz(path: str | Path, with_results: bool) -> tuple[dict[str, np.ndarray], Any]:
    """Columns and facts; without results or with them."""
    with np.load(path, allow_pickle=False) as stored:
        names = stored.files if with_results else [*_PLACE, "facts"]
        columns = {name: stored[name] for name in names}
    return columns, json.loads(str(columns.pop("facts")))


def _read_parquet(path: str | Path, with_results: bool) -> tuple[dict[str, np.ndarray], Any]:
    """As `_read_npz`."""
    from pyarrow import parquet

    table = parquet.read_table(path, columns=None if with_results else _PLACE)
    columns = {name: to_numpy(table[name].combine_chunks()) for name in table.column_names}
    return columns, json.loads(table.schema.metadata[b"cvrl_tf"])


def to_numpy(column: Any) -> np.ndarray:
    """Convert a column of pyarrow, [N] or, of lists, [N, D]."""
    if hasattr(column, "flatten") and column.type.num_fields:
        return column.flatten().to_numpy().reshape(len(column), -1)
    return column.to_numpy(zero_copy_only=False)
