"""Records as they stand in a file, written as a stream: a long video needs no more memory.

TensorFlow writes a record from one string, which for ten minutes of video is hundreds of megabytes,
several times over. Here the JPEGs of a video are collected in the wire format of `SequenceExample`
(https://protobuf.dev/programming-guides/encoding), on disk when they are many, and framed as a
TFRecord (tensorflow/core/lib/io/record_writer.h). The bytes are those that TensorFlow would write.
"""

import struct
import tempfile
from collections.abc import Mapping
from typing import BinaryIO

import google_crc32c

from cvrl_tf.data import schema

MAX_RECORD_BYTES = 2**31 - 2**20  # a protocol buffer ends at 2 GiB
_IN_MEMORY = 2**25  # of JPEGs, 32 MiB; what is more goes to the folder for temporary files
_CHUNK = 2**20

Context = Mapping[str, bytes | int | float]


class Jpegs:
    """The frames of a video, in presentation order."""

    def __init__(self) -> None:
        self.num_frames = 0
        self.num_bytes = 0
        self._features = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 (lives as we do)

    def append(self, jpeg: bytes) -> None:
        feature = _field(1, _feature(jpeg))
        self._features.write(feature)
        self.num_frames += 1
        self.num_bytes += len(feature)

    def write_record(self, file: BinaryIO, context: Context) -> int:
        """Appends these frames to a shard as one TFRecord of a `SequenceExample`.

        Args:
          file: the shard.
          context: bytes, int and float features of one value each.

        Returns:
          Size of the record, without its frame of 16 bytes.
        """
        head = self._head(context)
        size = len(head) + self.num_bytes
        length = struct.pack("<Q", size)
        file.write(length + _masked(google_crc32c.value(length)) + head)
        checksum = google_crc32c.value(head)
        self._features.seek(0)
        while chunk := self._features.read(_CHUNK):
            file.write(chunk)
            checksum = google_crc32c.extend(checksum, chunk)
        file.write(_masked(checksum))
        return size

    def example(self, context: Context) -> bytes:
        """These frames as one `SequenceExample`, all in memory.

        Args:
          context: as of `write_record`.
        """
        self._features.seek(0)
        return self._head(context) + self._features.read()

    def _head(self, context: Context) -> bytes:
        """All of the `SequenceExample` that stands before the frames."""
        entries = (
            _field(1, _field(1, key.encode()) + _field(2, _feature(context[key])))
            for key in sorted(context)
        )
        key = _field(1, schema.FRAMES.encode()) + _head(2, self.num_bytes)
        entry = _head(1, len(key) + self.num_bytes) + key
        lists = _head(2, len(entry) + self.num_bytes) + entry
        return _field(1, b"".join(entries)) + lists


def _varint(number: int) -> bytes:
    number &= 2**64 - 1
    groups = bytearray()
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def _head(field: int, size: int) -> bytes:
    """What stands before a field of `size` bytes."""
    return _varint(field << 3 | 2) + _varint(size)


def _field(field: int, content: bytes) -> bytes:
    return _head(field, len(content)) + content


def _feature(value: bytes | int | float) -> bytes:
    """A `tf.train.Feature` of one value."""
    if isinstance(value, bytes):
        return _field(1, _field(1, value))
    if isinstance(value, float):
        return _field(2, _field(1, struct.pack("<f", value)))
    return _field(3, _field(1, _varint(value)))


def _masked(checksum: int) -> bytes:
    """A checksum as TFRecords have it, so that one of data with checksums in it is sound too."""
    rotated = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)
