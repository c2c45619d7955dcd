"""Small files that announce or unfold to much: pictures, streams, frames, durations.

Each is prepared by a worker process of its own. It must be written or be skipped with a reason, and
the worker's memory must stay below 1 GiB.
"""

import itertools
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import pytest
from tally import Tally

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
LIMIT = 2**20  # KiB
PREPARE = """
import resource, runpy, sys
sys.argv = sys.argv[1:]
try: runpy.run_path(sys.argv[0], run_name="__main__")
finally: print("KiB", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def ffmpeg(path: Path, size: str, *how: str, seconds: float = 0.2) -> None:
    source = ["-f", "lavfi", "-i", f"testsrc2=s={size}:d={seconds}:r=25"]
    subprocess.run([FFMPEG, "-loglevel", "error", "-y", *source, *how, str(path)], check=True)


def muxed(path: Path, codec: str, packets: list[bytes], size: int = 64) -> None:
    """Writes packets as a stream of a codec, whatever they are; the header says `size` pixels."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width = stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if codec == "png":
            stream.pix_fmt = "rgb24"
        for number, data in enumerate(packets):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            packet.is_keyframe = True
            container.mux(packet)


def png(width: int, height: int) -> bytes:
    """A gray picture of 8 bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer, row = zlib.compressobj(9), bytes(width + 1)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg(folder: Path, width: int, height: int) -> bytes:
    """A small picture whose header says another size."""
    ffmpeg(folder / "one.jpg", "64x64", "-frames:v", "1", "-pix_fmt", "yuvj420p")
    content = bytearray((folder / "one.jpg").read_bytes())
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def gif(width: int, height: int) -> bytes:
    """Two pictures that fill a screen of this size, and are cut off after some pixels."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(3) + b"\xff" * 3
    picture = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00"
    return screen + 2 * (b"!\xf9\x04\x00\x0a\x00\x00\x00" + picture) + b";"


def huge_h264(width: int, height: int) -> bytes:
    """Parameter sets of pictures of this size and 16 reference frames, and some slices."""

    def ue(number: int) -> str:
        bits = f"{number + 1:b}"
        return "0" * (len(bits) - 1) + bits

    def unit(kind: int, bits: str) -> bytes:
        bits += "1"
        bits += "0" * (-len(bits) % 8)
        raw = int(bits, 2).to_bytes(len(bits) // 8)
        return b"\0\0\0\1" + bytes([kind]) + raw.replace(b"\0\0\0", b"\0\0\3\0")

    sizes = ue(width // 16 - 1) + ue(height // 16 - 1)
    head = f"{66:08b}{0:08b}{62:08b}" + ue(0) + ue(0) + ue(2) + ue(16) + "0"
    sps = unit(0x67, head + sizes + "1100")
    pps = unit(0x68, ue(0) + ue(0) + "00" + ue(0) + ue(0) + ue(0) + "000" + 3 * ue(0) + "000")
    first = unit(0x65, ue(0) + ue(7) + ue(0) + "0000" + ue(0) + "00" + ue(0) + "0" * 64)
    return sps + pps + first


def with_box(path: Path, kind: bytes, patch: Callable[[bytearray, int], None]) -> None:
    """Changes the boxes of a kind in an MP4 file; `patch` gets the place of their content."""
    content = bytearray(path.read_bytes())
    at = content.find(kind)
    while at >= 0:
        patch(content, at + 4)
        at = content.find(kind, at + 4)
    path.write_bytes(content)


def endless_header(path: Path) -> None:
    ffmpeg(path, "64x48")

    def patch(content: bytearray, at: int) -> None:
        content[at + 16 : at + 20] = b"\x7f\xff\xff\xff"

    for kind in (b"mvhd", b"mdhd"):
        with_box(path, kind, patch)
    with_box(
        path, b"stts", lambda content, at: content.__setitem__(slice(at + 12, at + 16), b"\x7f" * 4)
    )


def endless_index(path: Path, count: int) -> None:
    """An index of samples of one size, all in one chunk: two numbers say how many."""
    ffmpeg(path, "64x48", "-c:v", "mpeg4")

    def sizes(content: bytearray, at: int) -> None:
        content[at + 4 : at + 12] = struct.pack(">II", 100, count)

    def chunks(content: bytearray, at: int) -> None:
        content[at + 4 : at + 20] = struct.pack(">IIII", 1, 1, count, 1)

    with_box(path, b"stsz", sizes)
    with_box(path, b"stsc", chunks)


def bombs(folder: Path) -> dict[str, Callable[[Path], None]]:
    """Returns by file name what writes it. The first ones are quick."""
    raw, x264 = ("-c:v", "rawvideo"), ("-c:v", "libx264", "-preset", "ultrafast")
    many = itertools.chain.from_iterable(("-map", "0") for _ in range(300))
    return {
        "wide.avi": lambda path: ffmpeg(path, "30000x2", *raw),
        "high.avi": lambda path: ffmpeg(path, "2x30000", *raw),
        "png.avi": lambda path: muxed(path, "png", [png(30_000, 30_000)] * 2),
        "png.mov": lambda path: muxed(path, "png", [png(16_000, 16_000)] * 2),
        "screen.gif": lambda path: path.write_bytes(gif(65_535, 65_535)) and None,
        "mjpeg.avi": lambda path: muxed(path, "mjpeg", [jpeg(folder, 65_500, 65_500)] * 3),
        "mjpeg.mov": lambda path: muxed(path, "mjpeg", [jpeg(folder, 30_000, 16_000)] * 3),
        "sps.avi": lambda path: muxed(path, "libx264", [huge_h264(16_384, 16_384)] * 20),
        "refs.avi": lambda path: muxed(path, "libx264", [huge_h264(4096, 3072)] * 40),
        "header.mp4": endless_header,
        "index.mp4": lambda path: endless_index(path, 50_000_000),
        "streams.mkv": lambda path: ffmpeg(path, "64x48", *many, *x264),
        # Long form only.
        "frames.avi": lambda path: ffmpeg(path, "16x16", "-c:v", "mpeg4", seconds=4000),
        "frames.mp4": lambda path: ffmpeg(path, "16x16", *x264, seconds=4000),
        "large.mp4": lambda path: ffmpeg(path, "4096x3072", *x264, "-refs", "16", seconds=1),
        "large10.mp4": lambda path: ffmpeg(
            path, "4096x3072", *x264, "-refs", "16", "-pix_fmt", "yuv420p10le", seconds=1
        ),
    }


def prepared(bomb: Path, output: Path) -> tuple[dict[str, object], int]:
    """Prepares the folder of a bomb; returns its line of the manifest and the worker's KiB."""
    tool = [str(ROOT / "tools" / "make_tfrecords.py"), f"--input={bomb.parent}", "--workers=1"]
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, *tool, f"--output={output}", "--timeout=30"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    peak = int(done.stdout.rpartition("KiB")[2])
    (line,) = (output / "train_manifest.jsonl").read_text().splitlines()
    return json.loads(line), peak


def test_bombs(tally: Tally, tmp_path: Path) -> None:
    """The manifest has each file, and no worker takes 1 GiB."""
    every = bombs(tmp_path)
    for number in tally.attempts(short=12, long=len(every)):
        name = list(every)[number]
        with tally.attempt(name):
            bomb = tmp_path / str(number) / name
            bomb.parent.mkdir()
            every[name](bomb)
            outcome, peak = prepared(bomb, tmp_path / f"records{number}")
            print(name, bomb.stat().st_size, "bytes", peak // 1024, "MiB", outcome["reason"])
            assert outcome["name"] == name and (outcome["reason"] or outcome["num_frames"])
            assert peak < LIMIT, f"{peak} KiB"
