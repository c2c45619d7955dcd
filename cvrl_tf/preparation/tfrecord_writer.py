"""Writes records as a stream, so that a long video needs no more memory than a short one.

TensorFlow writes a record from one string, which for ten minutes of video is hundreds of megabytes,
several times over. This module collects the JPEGs of a video in the wire format of
`SequenceExample` (https://protobuf.dev/programming-guides/encoding), on disk if they are many, and
frames them as a TFRecord (tensorflow/core/lib/io/record_writer.h). The bytes are those that
TensorFlow would write.
"""

import struct
import tempfile
from collections.abc import Mapping
from typing import BinaryIO, cast

import google_crc32c

from cvrl_tf.data import schema, shard_index

FRAME_BYTES = shard_index.HEAD_BYTES + shard_index.TAIL_BYTES  # of the frame of a TFRecord
MAX_RECORD_BYTES = 2**31 - 2**20  # a protocol buffer ends at 2 GiB
_IN_MEMORY = 2**25  # of JPEGs, 32 MiB; what is more goes to the folder for temporary files
_CHUNK = 2**20

Value = bytes | int | float | list[int] | list[float]
Context = Mapping[str, Value]


class Jpegs:
    """Collects the frames of a video, in presentation order.

    Attributes:
      num_frames: so far.
      num_bytes: of the frames so far, in the record.
    """

    def __init__(self) -> None:
        self.num_frames = 0
        self.num_bytes = 0
        self._jpegs: list[tuple[int, int, int]] = []  # offset among the features, length, CRC32C
        self._features = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 (lives as we do)

    def append(self, jpeg: bytes) -> None:
        """Adds a frame."""
        feature = _field(1, _feature(jpeg))
        self._features.write(feature)
        self.num_frames += 1
        self.num_bytes += len(feature)
        # The JPEG is the end of its feature.
        place = self.num_bytes - len(jpeg), len(jpeg)
        self._jpegs.append((*place, google_crc32c.value(jpeg)))

    def write_record(self, file: BinaryIO, context: Context) -> shard_index.Entry:
        """Appends these frames to a shard as one TFRecord of a `SequenceExample`.

        Args:
          file: the shard.
          context: bytes, int and float features of one value each, and lists of ints or floats,
            which are not empty.

        Returns:
          Where it is, without its frame of 16 bytes.

        Raises:
          ValueError: a list is empty. Nothing is written.
        """
        context_field, lists = self._head(context)
        head = context_field + lists
        size = len(head) + self.num_bytes
        length = struct.pack("<Q", size)
        file.write(length + _masked(google_crc32c.value(length)) + head)
        checksum = google_crc32c.value(head)
        self._features.seek(0)
        while chunk := self._features.read(_CHUNK):
            file.write(chunk)
            checksum = google_crc32c.extend(checksum, chunk)
        file.write(_masked(checksum))
        offset = file.tell() - shard_index.TAIL_BYTES - size
        begin = offset + len(head)
        frames = [(begin + start, length, crc) for start, length, crc in self._jpegs]
        return shard_index.Entry(offset, size, offset, context_field, frames)

    def example(self, context: Context) -> bytes:
        """Returns these frames as one `SequenceExample`, all in memory.

        Args:
          context: as of `write_record`.

        Raises:
          ValueError: a list is empty.
        """
        self._features.seek(0)
        return b"".join(self._head(context)) + self._features.read()

    def _head(self, context: Context) -> tuple[bytes, bytes]:
        """Returns what stands before the frames in the `SequenceExample`: context, and the rest."""
        if empty := [key for key, value in context.items() if value == []]:
            raise ValueError(f"The lists {empty} of the context are empty: leave them out.")
        entries = (
            _field(1, _field(1, key.encode()) + _field(2, _feature(context[key])))
            for key in sorted(context)
        )
        key = _field(1, schema.FRAMES.encode()) + _head(2, self.num_bytes)
        entry = _head(1, len(key) + self.num_bytes) + key
        lists = _head(2, len(entry) + self.num_bytes) + entry
        return _field(1, b"".join(entries)), lists


def _varint(number: int) -> bytes:
    number &= 2**64 - 1
    groups = bytearray()
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def _head(field: int, size: int) -> bytes:
    """Returns what stands before a field of `size` bytes."""
    return _varint(field << 3 | 2) + _varint(size)


def _field(field: int, content: bytes) -> bytes:
    return _head(field, len(content)) + content


def _feature(value: Value) -> bytes:
    """Returns a `tf.train.Feature`; numbers are packed, as proto3 has them."""
    if isinstance(value, bytes):
        return _field(1, _field(1, value))
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], float):
        return _field(2, _field(1, struct.pack(f"<{len(values)}f", *values)))
    return _field(3, _field(1, b"".join(map(_varint, cast(list[int], values)))))


def _masked(checksum: int) -> bytes:
    return struct.pack("<I", shard_index.masked(checksum))
