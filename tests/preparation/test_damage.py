"""What can be proved to be missing."""

import io
import re
import struct

import pytest

from cvrl_tf.preparation.damage import Damage, announced_size, has_gap, impossible_count


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
        (Damage(0, 100, has_gap=True), False, "bytes are missing in the middle"),
        (Damage(500, 500, undecoded=10, damaged=3), False, "490 of 500 .*, damaged frames: 3"),
    ],
)
def test_what_is_provably_missing(damage: Damage, is_truncated: bool, words: str) -> None:
    assert damage.is_truncated == is_truncated
    assert re.fullmatch(words, damage.in_words())


def box(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    return struct.pack(">I4s", 8 + len(content) if size is None else size, kind) + content


def tag(kind: int, size: int) -> bytes:
    """A part of an FLV file, behind which stands its length."""
    return bytes([kind]) + size.to_bytes(3) + bytes(7 + size) + (11 + size).to_bytes(4)


FLV = b"FLV\x01\x05\0\0\0\x09\0\0\0\0"


def packets(unit: int, counts: list[int], begins: tuple[int, ...] = (0,)) -> bytes:
    """A transport stream of a video with the number 256."""
    lead = unit == 192
    return b"".join(
        bytes(4 * lead)
        + bytes([0x47, 0x41 if i in begins else 0x01, 0, 0x10 | count])
        + bytes(unit - 4 - 4 * lead)
        for i, count in enumerate(counts)
    )


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
        (FLV + tag(18, 5) + tag(9, 7), 51),  # without the last length, which is often left out
        (FLV + tag(18, 5) + tag(9, 7) + bytes(9), 51),
        ((FLV + tag(18, 5) + tag(9, 7))[:-6], 51),
        ((FLV + tag(18, 5) + tag(9, 7))[:40], 44),
        ((FLV + tag(18, 5) + tag(9, 7))[:36], 44),
        (packets(188, [0] * 9), 9 * 188),
        (packets(188, [0] * 9)[:-1], 9 * 188),
        (packets(192, [0] * 9)[:-99], 9 * 192),
        (packets(204, [0] * 9) + b"junk", 9 * 204 + 4),
    ],
)
def test_announced_size(content: bytes, size: int) -> None:
    assert announced_size(io.BytesIO(content)) == size


@pytest.mark.parametrize("unit", [188, 192, 204])
def test_a_gap_in_a_transport_stream(unit: int) -> None:
    def is_found(content: bytes) -> bool:
        return has_gap(io.BytesIO(content), 256, 0)

    counts = [i % 16 for i in range(40)]
    whole = packets(unit, counts)
    assert not is_found(whole)
    assert not is_found(whole + b"junk")
    assert not is_found(packets(unit, [*counts[:20], *counts[19:]]))  # one is sent twice
    assert not is_found(packets(unit, [*counts[:20], *counts[:20]], (0, 20)))  # joined recordings
    assert is_found(packets(unit, [*counts[:20], *counts[21:]]))
    assert is_found(whole[: 20 * unit] + whole[20 * unit + 5 :])


def test_a_gap_in_flv() -> None:
    whole = FLV + tag(9, 30) * 20
    assert not has_gap(io.BytesIO(whole), 0, 13 + 19 * 45)
    assert not has_gap(io.BytesIO(whole + bytes(99)), 0, 13 + 19 * 45)
    assert has_gap(io.BytesIO(whole[:100] + whole[123:]), 0, 13 + 18 * 45)


def test_an_index_of_two_numbers_is_not_believed() -> None:
    def video(each: int, count: int) -> io.BytesIO:
        table = box(b"stsz", struct.pack(">III", 0, each, count))
        return io.BytesIO(box(b"ftyp", b"isom") + box(b"moov", box(b"trak", table)))

    assert impossible_count(video(100, 50_000_000)) == 50_000_000
    assert impossible_count(video(100, 50_000)) == 0  # truncated, perhaps
    assert impossible_count(video(0, 50_000_000)) == 0  # each size is given
