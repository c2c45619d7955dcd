"""Tells what is missing of a video file, as far as it can be proved."""

import dataclasses
import io
import struct
from typing import BinaryIO

_SLACK = 2, 0.02  # frames, and share of all frames, whose loss does not make a video unusable
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
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
    """

    announced: int = 0
    packets: int = 0
    undecoded: int = 0
    damaged: int = 0
    ends_early: bool = False

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
    if head[4:8] in (b"ftyp", b"styp"):
        return _fragmented_mp4_size(file)
    return 0


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


def _fragmented_mp4_size(file: BinaryIO) -> int:
    """Returns the end of the last box, if the file is made of fragments.

    Where it isn't, the index tells more: which frames are missing (ISO/IEC 14496-12).
    """
    end = file.seek(0, io.SEEK_END)
    at, is_fragmented = 0, False
    while at < end:
        file.seek(at)
        size, kind = struct.unpack(">I4s", file.read(8).ljust(8, b"\0"))
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(8).ljust(8, b"\0"))
        if size < 8 or not kind.isalnum():
            break
        is_fragmented |= kind == b"moof"
        at += size
    return at if is_fragmented else 0
