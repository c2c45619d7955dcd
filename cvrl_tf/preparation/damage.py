"""Tells what is missing of a video file, as far as it can be proved."""

import dataclasses
import io
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

_SLACK = 2, 0.02  # frames, and share of all frames, whose loss does not make a video unusable
_MANY_FRAMES = 2**22
_MAX_INDEX = 2**26  # bytes
_UNKNOWN_SIZE = 2**32 - 1  # in RIFF, of what was written to a pipe
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_FLV = b"FLV\x01"
_FLV_TAGS = 8, 9, 18  # sound, picture, script
_SYNC = ord("G")  # of each packet of a transport stream
_TRANSPORT_UNITS = (188, 0), (192, 4), (204, 0)  # bytes of a packet, and in front of its sync byte
_IN_A_ROW = 5  # sync bytes that are no chance
_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"


@dataclasses.dataclass
class Damage:
    """What was found while a video was read.

    Attributes:
      announced: Number of frames by the container's header; 0 if it has none, or if the video was
        not read from its beginning.
      packets: Number of frames that are in the file.
      undecoded: How many of these can't be decoded.
      damaged: How many were decoded with errors.
      ends_early: Whether the file provably ends before the video does.
      has_gap: Whether bytes are provably missing in the middle; of how many frames, nobody knows.
    """

    announced: int = 0
    packets: int = 0
    undecoded: int = 0
    damaged: int = 0
    ends_early: bool = False
    has_gap: bool = False

    @property
    def is_truncated(self) -> bool:
        """Whether more is provably missing than a frame or two."""
        total = max(self.announced, self.packets)
        slack = max(_SLACK[0], _SLACK[1] * total)
        if self.ends_early and not self.announced:
            return True
        missing = total - self.packets if self.ends_early else 0
        return missing + self.undecoded > slack

    def in_words(self) -> str:
        """Says what is missing or damaged; empty if nothing is."""
        decoded = self.packets - self.undecoded
        found = []
        if self.announced > decoded or self.undecoded:
            found.append(f"{decoded} of {max(self.announced, self.packets)} frames decode")
        elif self.ends_early:
            found.append(f"the file ends early, after {decoded} frames")
        if self.has_gap:
            found.append("bytes are missing in the middle")
        if self.damaged:
            found.append(f"damaged frames: {self.damaged}")
        return ", ".join(found)


def announced_size(file: BinaryIO) -> int:
    """Returns how many bytes a file should have by what its container says; 0 if it doesn't say.

    A count of frames in a header proves nothing: it may be an estimate, or of another stream, or
    of frames that are not shown. A size is exact. The file's position is not kept.
    """
    file.seek(0)
    head = file.read(65_536)
    if head.startswith(_EBML):
        return _matroska_size(head)
    if head.startswith(_ASF_HEADER):
        at = head.find(_ASF_FILE_PROPERTIES)
        return struct.unpack_from("<Q", head, at + 40)[0] if 0 <= at < len(head) - 48 else 0
    if head.startswith(b"RIFF") and len(head) > 8:
        (size,) = struct.unpack_from("<I", head, 4)
        return 8 + size if size < _UNKNOWN_SIZE else 0
    if head[4:8] in (b"ftyp", b"styp"):
        return _fragmented_mp4_size(file)
    if head.startswith(_FLV):
        return _flv_end(file)
    layout = _transport_layout(head)
    return _transport_size(file, *layout) if layout else 0


def has_gap(file: BinaryIO, pid: int, last: int) -> bool:
    """Returns whether bytes are provably missing in the middle of an FLV file or transport stream.

    In other containers the index or the size of the whole tells as much. The file's position is not
    kept.

    Args:
      file: The file.
      pid: Number of the video in a transport stream.
      last: Position of the last packet that was read.
    """
    file.seek(0)
    head = file.read(65_536)
    if head.startswith(_FLV):
        return _flv_end(file) < last
    layout = _transport_layout(head)
    return layout is not None and _transport_has_gap(file, pid, *layout)


def _matroska_size(head: bytes) -> int:
    """Returns the end of the segment, which holds all of the video (RFC 8794, RFC 9559)."""

    def number(at: int) -> tuple[int, int]:
        """Reads a size of variable length; returns it with the position behind it."""
        length = 9 - head[at].bit_length()
        value = int.from_bytes(head[at : at + length]) & (1 << 7 * length) - 1
        is_unknown = value == (1 << 7 * length) - 1
        return (-1 if is_unknown else value), at + length

    try:
        size, at = number(len(_EBML))
        at += size
        if not head.startswith(_SEGMENT, at):
            return 0
        size, at = number(at + len(_SEGMENT))
    except IndexError:
        return 0
    return at + size if size >= 0 else 0


def impossible_count(file: BinaryIO) -> int:
    """Returns how many frames the index of an MP4 file has, if they can't be in the file; else 0.

    Where all frames have one size, two numbers stand for the index, which FFmpeg unfolds to tens of
    bytes a frame. The file's position is not kept.
    """
    end = file.seek(0, io.SEEK_END)
    for kind, at, size in _boxes(file):
        if kind == b"moov":
            file.seek(at)
            index = file.read(min(size, _MAX_INDEX))
            for table in re.finditer(rb"stsz.{4}(.{4})(.{4})", index, re.DOTALL):
                each, count = (int.from_bytes(number) for number in table.groups())
                if count > _MANY_FRAMES and count * each > end:
                    return count
    return 0


def _fragmented_mp4_size(file: BinaryIO) -> int:
    """Returns the end of the last box, if the file is made of fragments.

    Where it isn't, the index tells more: which frames are missing.
    """
    boxes = list(_boxes(file))
    is_fragmented = any(kind == b"moof" for kind, _, _ in boxes)
    return max(at + size for _, at, size in boxes) if is_fragmented else 0


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yields kind, place and size of the outermost boxes of an MP4 file (ISO/IEC 14496-12)."""
    end, at = file.seek(0, io.SEEK_END), 0
    while at < end:
        file.seek(at)
        size, kind = struct.unpack(">I4s", file.read(8).ljust(8, b"\0"))
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(8).ljust(8, b"\0"))
        if size < 8 or not kind.isalnum():
            return
        yield kind, at, size
        at += size


def _flv_end(file: BinaryIO) -> int:
    """Returns where the chain of tags ends, which may be behind the end of the file.

    A tag says how long it is, and its length follows it (Adobe's FLV specification, annex E).
    """
    file.seek(0)
    at = int.from_bytes(file.read(9)[5:]) + 4
    while True:
        file.seek(at)
        tag = file.read(11)
        if len(tag) < 11:
            return at + (11 if tag and tag[0] & ~0x20 in _FLV_TAGS else -4)
        length = 11 + int.from_bytes(tag[1:4])
        file.seek(at + length)
        if tag[0] & ~0x20 not in _FLV_TAGS and file.read(4) != length.to_bytes(4):
            return at
        at += length + 4


def _transport_layout(head: bytes) -> tuple[int, int, int] | None:
    """Returns the place of the first sync byte, and what `_TRANSPORT_UNITS` says."""
    for unit, lead in _TRANSPORT_UNITS:
        for first in range(lead, unit):
            if head[first::unit][:_IN_A_ROW] == bytes([_SYNC]) * _IN_A_ROW:
                return first, unit, lead
    return None


def _transport_size(file: BinaryIO, first: int, unit: int, lead: int) -> int:
    """Returns the end of the last packet, which may be behind the end of the file."""
    end = file.seek(0, io.SEEK_END)
    rest = (end - first + lead) % unit
    return end - rest + unit if rest > lead and _are_packets(file, end - rest + lead, unit) else end


def _are_packets(file: BinaryIO, at: int, unit: int) -> bool:
    """Returns whether packets begin here and before."""
    file.seek(max(0, at - (_IN_A_ROW - 1) * unit))
    return file.read((_IN_A_ROW - 1) * unit + 1)[::unit] == bytes([_SYNC]) * _IN_A_ROW


def _transport_has_gap(file: BinaryIO, pid: int, first: int, unit: int, lead: int) -> bool:
    """Returns whether packets lie otherwise at the end, or a picture lacks one (ISO/IEC 13818-1).

    Packets of a stream are counted. Where recordings are joined, the count may jump; but then, a
    packet begins a picture.
    """
    end = file.seek(0, io.SEEK_END)
    if (end - first + lead) % unit and _are_packets(file, end - unit + lead, unit):
        return True
    file.seek(first)
    previous = np.empty(0, np.uint8)
    while len(rows := np.frombuffer(file.read(unit << 15), np.uint8)) >= unit:
        rows = rows[: len(rows) // unit * unit].reshape(-1, unit)
        rows = rows[(rows[:, 0] == _SYNC) & (rows[:, 3] & 0x10 > 0)]  # those with a payload
        rows = rows[((rows[:, 1] & 0x1F).astype(int) << 8 | rows[:, 2]) == pid]
        counts = np.concatenate([previous, rows[:, 3] & 0xF])
        step = (counts[1:] - counts[:-1]) & 0xF
        rows = rows[len(rows) - len(step) :]
        begins = rows[:, 1] & 0x40 > 0
        may_jump = (rows[:, 3] & 0x20 > 0) & (rows[:, 4] > 0) & (rows[:, 5] & 0x80 > 0)
        if ((step > 1) & ~begins & ~may_jump).any():  # 0: sent twice
            return True
        previous = counts[-1:]
    return False
