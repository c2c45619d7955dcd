"""Reads chosen frames of a split's records, and nothing else, by the indexes beside its shards.

Records have numbers, in the order of their ids: the same for any number of shards.
"""

import bisect
import os
from collections.abc import Mapping, Sequence
from typing import BinaryIO, cast

import google_crc32c
import numpy as np
import tensorflow as tf
from absl import logging
from etils import epath

from cvrl_tf import files
from cvrl_tf.data import records, shard_index
from cvrl_tf.data.shard_index import ShardIndex

Range = tuple[int, int]  # offset and length

_GAP = 2**20  # bytes of a bucket that are read for nothing rather than asked for in two requests


class Reader:
    """Reads by number. Its methods are for `Dataset.map`, and call Python.

    Attributes:
      num_records: of all shards together.
      ids: of the records, bytes, sorted.
      left_out: how many records are shorter than `shortest`; they have no numbers.
    """

    def __init__(self, shards: Mapping[str, int], shortest: int = 0) -> None:
        """Reads the indexes.

        Args:
          shards: paths, and how many records each has; see `records.shard_paths`.
          shortest: leave out records of fewer frames, and say how many.

        Raises:
          FileNotFoundError: a shard has no index.
          ValueError: an index is damaged, or not of the shard that is there now; or no record is
            long enough.
        """
        self._paths = list(shards)
        self._frames = []
        rows, ids, shard = [], [], []
        for number, (path, count) in enumerate(shards.items()):
            index = index_of(path, count)
            self._frames.append(index.frames)
            rows.append(index.records)
            ids += index.ids
            shard += [number] * count
        facts = np.concatenate(rows)
        long_enough = np.flatnonzero(facts["num_frames"] >= shortest).tolist()
        order = sorted(long_enough, key=ids.__getitem__)
        self.left_out = len(ids) - len(order)
        if self.left_out:
            short = f"{self.left_out} of {len(ids)} videos, which are shorter than the {shortest} "
            short += "frames of all clips of a video together, are left out."
            if not order:
                raise ValueError(f"{short} Take shorter clips, or other videos.")
            logging.warning(short)
        self._records = facts[order]
        self._shard = np.array(shard)[order]
        starts = np.cumsum([0, *shards.values()])
        self._row = np.array(order) - starts[self._shard]  # of a record in its shard
        self.num_records = len(order)
        self.ids = [ids[row] for row in order]

    def place(self, number: int | np.integer) -> str:
        """Say where a record is."""
        return f"record {self._row[number]} of {self._paths[self._shard[number]]}"

    def record(self, number: tf.Tensor) -> dict[str, tf.Tensor]:
        """Read what `records.parse_context` returns of one record.

        Args:
          number: int64 [].

        Raises:
          InvalidArgumentError: it can't be read, is damaged or has no frames.
        """
        context, num_frames, fault = tf.numpy_function(
            self._context, [number], [tf.string, tf.int64, tf.string], stateful=False
        )
        context.set_shape([])
        num_frames.set_shape([])
        with tf.control_dependencies([_none(fault)]):
            return records.parse_context(context, tf.cast(num_frames, tf.int32))

    def jpegs(self, number: tf.Tensor, frames: tf.Tensor) -> tf.Tensor:
        """Read frames of one record.

        Args:
          number: int64 [].
          frames: int32 [V, T], positions in [0, L).

        Returns:
          string [V, T].

        Raises:
          InvalidArgumentError: one can't be read or is damaged.
        """
        jpegs, fault = tf.numpy_function(
            self._jpegs, [number, frames], [tf.string, tf.string], stateful=False
        )
        with tf.control_dependencies([_none(fault)]):
            return tf.ensure_shape(jpegs, frames.shape)

    def whole(self, number: tf.Tensor) -> tf.data.Dataset:
        """Read a whole record without Python, as the tf.data service needs it.

        Args:
          number: int64 [].

        Returns:
          One string [], the record; empty if it can't be read.
        """
        path = tf.gather(self._paths, tf.gather(self._shard, number))
        begins = self._records["offset"].astype(np.int64) - shard_index.HEAD_BYTES
        # None if it has vanished: `ignore_errors` would try to open it for ever.
        present = tf.io.matching_files(tf.strings.regex_replace(path, r"([*?\[\]\\])", r"\\\1"))
        variant = tf.raw_ops.TFRecordDatasetV2(
            filenames=present,
            compression_type="",
            buffer_size=0,
            byte_offsets=tf.fill(tf.shape(present), tf.gather(begins, number)),
        )
        found = tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))
        unreadable = tf.data.Dataset.from_tensors(b"")
        return found.take(1).ignore_errors().concatenate(unreadable).take(1)

    def parsed(self, number: tf.Tensor, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        """Parse what `whole` has read; see `records.parse`.

        Args:
          number: int64 [].
          serialized: string [].

        Raises:
          InvalidArgumentError: it could not be read, or is damaged.
        """
        row = tf.strings.as_string(tf.gather(self._row, number))
        path = tf.gather(self._paths, tf.gather(self._shard, number))
        fault = tf.strings.join(["record ", row, " of ", path, " can't be read"])
        with tf.control_dependencies([_none(tf.where(serialized == "", fault, ""))]):
            return records.parse(serialized)

    def fault(self, number: int, message: str) -> str:
        """Say what is wrong with a record.

        Args:
          number: of the record.
          message: of the error with which it could not be read or decoded.
        """
        place = self.place(number)
        _, found, said = message.partition(place)
        return place + said.splitlines()[0].rstrip("'\"]") if found else f"{place}: {message}"

    # What Python raises, TensorFlow prints with its traceback for each damaged record. So faults
    # are returned.

    def _context(self, number: np.int64) -> tuple[bytes, np.int64, str]:
        row = self._records[number]
        place = row["context"], row["context_length"], row["context_crc"]
        (context,), fault = self._checked(number, [place], ["its context"])
        if not row["num_frames"]:
            fault = f"{self.place(number)} has no frames"
        return context, np.int64(row["num_frames"]), fault

    def _jpegs(self, number: np.int64, frames: np.ndarray) -> tuple[np.ndarray, str]:
        row, table = self._records[number], self._frames[self._shard[number]]
        # Each frame once, although clips overlap and loop.
        used, inverse = np.unique(frames, return_inverse=True)
        places = table[int(row["first_frame"]) + used].tolist()
        jpegs, fault = self._checked(number, places, [f"frame {frame}" for frame in used])
        return np.array(jpegs, object)[inverse].reshape(frames.shape), fault

    def _checked(
        self, number: np.int64, places: Sequence[tuple], names: Sequence[str]
    ) -> tuple[list[bytes], str]:
        """Reads parts of a record.

        Args:
          number: of the record.
          places: offset, length and CRC32C of each part.
          names: of the parts.

        Returns:
          The parts, and what is wrong with them, "" for nothing.
        """
        path = self._paths[self._shard[number]]
        try:
            found = _read(path, [(int(offset), int(length)) for offset, length, _ in places])
        except OSError as error:
            return [b""] * len(places), f"{self.place(number)} can't be read: {error}"
        for part, (_, _, checksum), name in zip(found, places, names, strict=True):
            if google_crc32c.value(part) != checksum:
                return found, (
                    f"{self.place(number)}: {name} is damaged, or the shard was written anew since "
                    "its index was"
                )
        return found, ""


def order(count: int, seed: int | tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
    """Draw the order of an epoch: all orders are as likely.

    (`index_shuffle`, which needs no memory, has few orders a seed.)

    Args:
      count: of records.
      seed: of the run.
      epoch: int64 [].

    Returns:
      int64 [count], numbers of records.
    """
    key = tf.stack([tf.cast(seed, tf.int64), epoch])
    return tf.random.experimental.stateless_shuffle(tf.range(count, dtype=tf.int64), key)


def _none(fault: tf.Tensor) -> tf.Operation:
    """Fails if there is a fault, and says which."""
    return tf.debugging.Assert(tf.equal(fault, ""), [fault])


def index_of(path: str, count: int) -> ShardIndex:
    """Load the index of a shard.

    Args:
      path: of the shard.
      count: number of its records.

    Raises:
      FileNotFoundError: it has none.
      ValueError: the index is damaged, or not of this shard.
    """
    place = shard_index.path_of(path)
    remedy = f"Write it: python tools/index_tfrecords.py --data_dir={place.parent.parent}"
    if not place.is_file():
        raise FileNotFoundError(f"The shard {path!r} has no index {os.fspath(place)!r}. {remedy}")
    try:
        index = ShardIndex.load(place)
    except shard_index.Damaged as error:
        raise ValueError(f"{error} {remedy}") from error
    size = epath.Path(path).stat().length
    # A shard that is shorter is damaged, which is found where its records are read.
    if index.shard_size < size or len(index.records) != count:
        raise ValueError(
            f"{os.fspath(place)!r} is not of this shard: it says {index.shard_size} bytes and "
            f"{len(index.records)} records, but there are {size} and {count}. {remedy}"
        )
    return index


def _read(path: str, ranges: Sequence[Range]) -> list[bytes]:
    """Read ranges of a file; what is near each other in a bucket in one request."""
    gap = _GAP if files.is_remote(epath.Path(path)) else 0
    blocks: list[Range] = []
    for offset, length in sorted(ranges):
        begin, end = blocks[-1] if blocks else (offset, offset)
        if offset - end <= gap:
            blocks[-1:] = [(begin, max(end, offset + length))]
        else:
            blocks.append((offset, offset + length))
    with _open(path) as file:
        read = {}
        for begin, end in blocks:
            file.seek(begin)
            read[begin] = file.read(end - begin)
    starts = sorted(read)
    parts = []
    for offset, length in ranges:
        start = starts[bisect.bisect_right(starts, offset) - 1]
        parts.append(read[start][offset - start : offset - start + length])
    return parts


def _open(path: str) -> BinaryIO:
    """Opens a file to read pieces of it."""
    if files.is_remote(epath.Path(path)):
        return cast(BinaryIO, epath.Path(path).open("rb"))
    return open(path, "rb", buffering=0)
