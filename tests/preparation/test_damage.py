"""What can be proved to be missing."""

import io
import re
import struct

import pytest

from cvrl_tf.preparation.damage import Damage, announced_size, impossible_count


@pytest.mark.parametrize(
    ("damage", "is_truncated", "words"),
    [
        (Damage(100, 100), False, ""),
        (Damage(0, 100), False, ""),
        (Damage(225, 100), False, "100 of 225 frames decode"),  # a count proves nothing
        (Damage(225, 100, ends_early=True), True, "100 of 225 frames decode"),
        (Damage(102, 100, ends_early=True), False, "100 of 102 frames decode"),
        (Damage(0, 100, ends_early=True), True, "the file ends early, after 100 frames"),
        (Damage(100, 100, undecoded=2), False, "98 of 100 frames decode"),
        (Damage(100, 100, undecoded=3), True, "97 of 100 frames decode"),
        (Damage(500, 500, undecoded=10, damaged=3), False, "490 of 500 .*, damaged frames: 3"),
    ],
)
def test_what_is_provably_missing(damage: Damage, is_truncated: bool, words: str) -> None:
    assert damage.is_truncated == is_truncated
    assert re.fullmatch(words, damage.in_words())


def box(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    return struct.pack(">I4s", 8 + len(content) if size is None else size, kind) + content


EBML = b"\x1aE\xdf\xa3\x82ab\x18S\x80g"


@pytest.mark.parametrize(
    ("content", "size"),
    [
        (b"", 0),
        (b"anything", 0),
        (EBML + b"\x84abcd", 16),
        (EBML + b"\x40\x09abc", 22),
        (EBML + b"\x01\xff\xff\xff\xff\xff\xff\xffabc", 0),  # of a live stream: unknown
        (EBML, 0),
        (b"RIFF\x63\0\0\0AVI ", 107),
        (b"RIFF\xff\xff\xff\xffAVI ", 0),  # written to a pipe
        (box(b"ftyp", b"iso5") + box(b"moof", b"") + box(b"mdat", b"ab", 99), 119),
        (box(b"ftyp", b"isom") + box(b"mdat", b"ab", 99), 0),  # the index says more
        (box(b"ftyp", b"isom") + box(b"moof", b"") + b"\0\0\0\5mdat", 20),
    ],
)
def test_announced_size(content: bytes, size: int) -> None:
    assert announced_size(io.BytesIO(content)) == size


def test_an_index_of_two_numbers_is_not_believed() -> None:
    def video(each: int, count: int) -> io.BytesIO:
        table = box(b"stsz", struct.pack(">III", 0, each, count))
        return io.BytesIO(box(b"ftyp", b"isom") + box(b"moov", box(b"trak", table)))

    assert impossible_count(video(100, 50_000_000)) == 50_000_000
    assert impossible_count(video(100, 50_000)) == 0  # truncated, perhaps
    assert impossible_count(video(0, 50_000_000)) == 0  # each size is given
