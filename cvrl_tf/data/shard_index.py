"""Where each frame of a shard stands, so that a clip's frames are read and nothing else.

The index of a shard is a file of the same name in the folder `index` beside it. It holds, with
little-endian numbers:

  header   `_HEADER`: a mark, the bytes of the shard, the length of each table, a checksum
  records  `RECORD`, one a record, in the order of the shard
  ids      the ids of the records, one behind the other
  frames   `FRAME`, one a frame, those of a record one behind the other, in presentation order

The frames' table is mapped, not read: 16 bytes a frame, 1 GB for Kinetics-400. Each frame and each
context has its CRC32C there, so what is read is checked without the rest of its record.
"""

import dataclasses
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import google_crc32c
import numpy as np
from etils import epath

from cvrl_tf import files
from cvrl_tf.data import schema

RECORD = np.dtype(
    [
        ("offset", "<u8"),  # of the record in the shard; its TFRecord header stands before it
        ("length", "<u8"),  # bytes of the record
        ("context", "<u8"),  # offset of its `SequenceExample.context`, with tag and length
        ("context_length", "<u4"),
        ("context_crc", "<u4"),
        ("first_frame", "<u8"),  # row in the frames' table
        ("num_frames", "<u4"),
        ("id_length", "<u4"),
    ]
)
FRAME = np.dtype([("offset", "<u8"), ("length", "<u4"), ("crc", "<u4")])  # of the JPEG itself

FOLDER = "index"

_NONE = np.zeros(0, FRAME)  # an empty file can't be mapped

_HEADER = struct.Struct("<8sQQQQI4x")  # mark, shard, records, ids, frames, CRC of records and ids
_MARK = b"CVRLIDX1"
_HEAD, _TAIL = struct.Struct("<QI"), struct.Struct("<I")  # of a TFRecord
HEAD_BYTES, TAIL_BYTES = _HEAD.size, _TAIL.size  # that stand before and behind a record
_DELIMITED = 2  # wire type of bytes and messages


class Damaged(ValueError):
    """A shard or an index can't be read. The message names the file."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One record of a shard.

    Attributes:
      offset, length: of the record.
      context_offset: of its context, as in `RECORD`.
      context: the bytes there.
      frames: offset, length and CRC32C of each JPEG.
    """

    offset: int
    length: int
    context_offset: int
    context: bytes
    frames: Sequence[tuple[int, int, int]]


@dataclasses.dataclass(frozen=True, eq=False)
class ShardIndex:
    """The index of one shard.

    Attributes:
      shard_size: bytes of the shard.
      records: of type `RECORD`.
      ids: of the records, bytes.
      frames: of type `FRAME`.
    """

    shard_size: int
    records: np.ndarray
    ids: list[bytes]
    frames: np.ndarray

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShardIndex) and self._content() == other._content()

    def _content(self) -> tuple[int, bytes, list[bytes], bytes]:
        return self.shard_size, self.records.tobytes(), self.ids, self.frames.tobytes()

    @classmethod
    def of(cls, entries: Iterable[Entry], shard_size: int) -> "ShardIndex":
        """Make the index of a shard of these records."""
        rows: list[tuple[int, ...]] = []
        ids: list[bytes] = []
        frames: list[tuple[int, int, int]] = []
        for entry in entries:
            ids.append(_video_id(memoryview(entry.context)))
            where = entry.offset, entry.length, entry.context_offset, len(entry.context)
            checksum = google_crc32c.value(entry.context)
            rows.append((*where, checksum, len(frames), len(entry.frames), len(ids[-1])))
            frames += entry.frames
        return cls(shard_size, np.array(rows, RECORD), ids, np.array(frames, FRAME))

    def save(self, path: epath.Path) -> None:
        """Write the index, whole or not at all."""
        tables = self.records.tobytes() + b"".join(self.ids)
        header = _HEADER.pack(
            _MARK,
            self.shard_size,
            len(self.records),
            len(tables) - self.records.nbytes,
            len(self.frames),
            google_crc32c.value(tables),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.aside(path) as aside:
            aside.write_bytes(header + tables + self.frames.tobytes())
            files.publish(aside, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ShardIndex":
        """Read an index. Its frames are mapped; those of a bucket from a copy on the disk.

        Raises:
          Damaged: it is no index, or not whole.
        """
        place = files.cached(epath.Path(path))
        with place.open("rb") as file:
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size or not header.startswith(_MARK):
                raise Damaged(f"{os.fspath(path)!r} is no index of a shard.")
            _, shard_size, num_records, id_bytes, num_frames, checksum = _HEADER.unpack(header)
            tables = file.read(num_records * RECORD.itemsize + id_bytes)
        size = _HEADER.size + len(tables) + num_frames * FRAME.itemsize
        whole = place.stat().st_size == size and google_crc32c.value(tables) == checksum
        if not whole:
            raise Damaged(f"{os.fspath(path)!r} is damaged.")
        records = np.frombuffer(tables, RECORD, num_records)
        ends = records.nbytes + np.cumsum(records["id_length"])
        begins = ends - records["id_length"]
        ids = [tables[begin:end] for begin, end in zip(begins, ends, strict=True)]
        begin = _HEADER.size + len(tables)
        frames = np.memmap(place, FRAME, "r", begin, (num_frames,)) if num_frames else _NONE
        return cls(shard_size, records, ids, frames)


def path_of(shard: str | os.PathLike[str]) -> epath.Path:
    """Return where the index of a shard is: not where patterns for shards would find it."""
    path = epath.Path(shard)
    return path.parent / FOLDER / path.name


def scan(shard: str | os.PathLike[str]) -> ShardIndex:
    """Make the index of a shard in one pass, whoever wrote it.

    Raises:
      Damaged: a record is damaged, or no `SequenceExample`, or one with several contexts.
    """
    with epath.Path(shard).open("rb") as file:
        entries = []
        for number, (offset, record) in enumerate(_records(file, os.fspath(shard))):
            try:
                entries.append(_entry(offset, record))
            except (ValueError, IndexError, KeyError) as error:
                raise Damaged(f"Record {number} of {os.fspath(shard)!r}: {error}") from error
        return ShardIndex.of(entries, file.tell())


def _records(file: BinaryIO, name: str) -> Iterator[tuple[int, memoryview]]:
    """Yields the records of a shard and where they begin in it.

    Raises:
      Damaged: a checksum is wrong, or the file ends in a record.
    """
    number = 0
    while head := file.read(_HEAD.size):
        try:
            length, checksum = _HEAD.unpack(head)
            if checksum != masked(google_crc32c.value(head[:8])):
                raise ValueError("its length is damaged")
            offset, record = file.tell(), file.read(length)
            (checksum,) = _TAIL.unpack(file.read(_TAIL.size))
            if checksum != masked(google_crc32c.value(record)):
                raise ValueError("its checksum is wrong")
        except (ValueError, struct.error) as error:
            raise Damaged(f"Record {number} of {name!r}: {error}.") from error
        yield offset, memoryview(record)
        number += 1


def masked(checksum: int) -> int:
    """Mask a checksum as TFRecords do, so that one of data that holds another is sound too."""
    rotated = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
    return (rotated + 0xA282EAD8) & 0xFFFFFFFF


Place = tuple[int, int]  # where bytes begin and end


def _entry(offset: int, record: memoryview) -> Entry:
    """Finds the context and the frames in a `SequenceExample`."""
    contexts: list[Place] = []
    lists: list[Place] = []
    for field, start, begin, end in _fields(record, 0, len(record)):
        if field == 1:
            contexts.append((start, end))
        elif field == 2:
            lists += _named(record, begin, end, schema.FRAMES)
    if len(contexts) > 1 or len(lists) > 1:
        raise ValueError(f"it has {len(contexts)} contexts and {len(lists)} lists of frames.")
    begin, end = contexts[0] if contexts else (0, 0)
    features = [feature for each in lists for _, _, *feature in _fields(record, *each)]
    frames = [
        (offset + first, last - first, google_crc32c.value(bytes(record[first:last])))
        for feature in features
        for first, last in _bytes_values(record, *feature)
    ]
    return Entry(offset, len(record), offset + begin, bytes(record[begin:end]), frames)


def _video_id(context: memoryview) -> bytes:
    """Returns the id in a context, with its tag and length."""
    for _, _, begin, end in _fields(context, 0, len(context)):
        for feature in _named(context, begin, end, schema.VIDEO_ID):
            for first, last in _bytes_values(context, *feature):
                return bytes(context[first:last])
    return b""


def _named(data: memoryview, begin: int, end: int, name: str) -> Iterator[Place]:
    """Yields the values with this key in a map, which is the only field of its message."""
    for _, _, *entry in _fields(data, begin, end):
        parts = {field: (begin, end) for field, _, begin, end in _fields(data, *entry)}
        if bytes(data[slice(*parts[1])]) == name.encode():
            yield parts[2]


def _bytes_values(data: memoryview, begin: int, end: int) -> Iterator[Place]:
    """Yields the values in the `BytesList` of a `Feature`."""
    for field, _, *values in _fields(data, begin, end):
        if field == 1:
            yield from ((begin, end) for _, _, begin, end in _fields(data, *values))


def _fields(data: memoryview, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields the fields of a message that have a length, as all of these do.

    Each as its number, where it starts with its tag, and where its content begins and ends.
    """
    while begin < end:
        start = begin
        tag, begin = _varint(data, begin)
        if tag & 7 != _DELIMITED:
            raise ValueError(f"it is no SequenceExample: wire type {tag & 7}.")
        length, begin = _varint(data, begin)
        if begin + length > end:
            raise ValueError("a field of it is longer than what holds it.")
        yield tag >> 3, start, begin, begin + length
        begin += length


def _varint(data: memoryview, begin: int) -> tuple[int, int]:
    """Reads a number; returns where the next byte is."""
    number = shift = 0
    while True:
        byte = data[begin]
        begin += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, begin
        shift += 7
