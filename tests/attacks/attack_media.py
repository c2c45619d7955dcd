"""Video files of all kinds: sound ones, damaged ones, ones cut short.

FFmpeg makes clips of 12 codecs in 9 containers: of variable rate, with sound that is longer or
shorter than the picture, that don't begin at 0, with edit lists, frames out of order and pictures
on the cover. Sound files have every frame that FFmpeg decodes, and no warning. Damaged ones end no
process, take no time, and are written or skipped with a reason. Of files cut short it is counted
how many are found: `pytest -rP tests/attacks/attack_media.py` shows the table.
"""

import collections
import subprocess
from collections.abc import Mapping
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from etils import epath
from tally import Tally

from cvrl_tf.preparation import manifest
from cvrl_tf.preparation.annotations import Video
from cvrl_tf.preparation.decoding import FrameOptions
from cvrl_tf.preparation.manifest import Outcome
from cvrl_tf.preparation.shards import Job, manifest_of, write_shards

pytestmark = pytest.mark.slow

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
SECONDS = 2  # of a clip of 25 frames a second
PATIENCE = 30  # seconds, for what takes a tenth
A_SHARD = 25  # videos

CODECS = {
    "h264": "libx264 -preset veryfast -pix_fmt yuv420p",
    "hevc": "libx265 -preset ultrafast -pix_fmt yuv420p -x265-params log-level=none",
    "av1": "libsvtav1 -preset 12 -pix_fmt yuv420p",
    "vp8": "libvpx -deadline realtime -cpu-used 8",
    "vp9": "libvpx-vp9 -deadline realtime -cpu-used 8",
    "mpeg4": "mpeg4",
    "mpeg2": "mpeg2video",
    "mpeg1": "mpeg1video",
    "mjpeg": "mjpeg -q:v 4",
    "flv1": "flv",
    "wmv2": "wmv2",
    "ffv1": "ffv1",
}
CONTAINERS = {
    "mp4": "h264 hevc av1 vp9 mpeg4",
    "mov": "h264 mjpeg mpeg4 hevc",
    "mkv": "h264 hevc av1 ffv1 mpeg2 vp8",
    "webm": "vp8 vp9 av1",
    "ts": "h264 hevc mpeg2 mpeg4",
    "flv": "flv1 h264",
    "mpg": "mpeg1 mpeg2",
    "wmv": "wmv2 mpeg4",
    "avi": "mpeg4 mjpeg h264 ffv1",
}
CLIPS = [(name, codec) for name, codecs in CONTAINERS.items() for codec in codecs.split()]
KINDS = ["plain", "variable rate", "longer sound", "shorter sound", "offset", "B-frames"]
KINDS_OF = {"mp4": ["edit list", "cover"], "mov": ["edit list", "cover"], "mkv": ["cover"]}
WITH_B_FRAMES = ("h264", "hevc", "mpeg4", "mpeg2", "mpeg1")


def ffmpeg(*arguments: str | Path) -> str:
    """Returns what FFmpeg prints."""
    command = [FFMPEG, "-loglevel", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def make(path: Path, codec: str, kind: str = "plain", seed: int = 0) -> Path:
    """Writes a sound clip; its name tells the container."""
    height, rate = 48 + 16 * (seed % 4), (25, 30, 24)[seed % 3]
    how = ["-c:v", *CODECS[codec].split(), "-g", str((12, 25, 250)[seed % 3])]
    seconds = {"longer sound": 3, "shorter sound": 1}.get(kind, SECONDS)
    inputs = ["-f", "lavfi", "-i", f"testsrc2=s=96x{height}:r={rate}:d={SECONDS}"]
    inputs += ["-f", "lavfi", "-i", f"sine=d={seconds}"]
    if kind == "variable rate":
        how += ["-vf", f"select=lt(mod(n\\,{7 + seed % 3})\\,3)", "-fps_mode", "passthrough"]
    elif kind == "offset":
        how += ["-output_ts_offset", str(1 + seed % 5)]
    elif kind == "B-frames" and codec in WITH_B_FRAMES:
        how += ["-bf", "2"]
    elif kind == "cover":
        picture = path.with_suffix(".png")
        ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x64", "-frames:v", "1", picture)
        inputs += ["-i", str(picture)]
        first = seed % 2  # or last
        order = ["-map", "2", "-map", "0", "-map", "1"] if first else ["-map", "0", "-map", "1"]
        how = [*order, *([] if first else ["-map", "2"]), *how]
        number = int(not first)
        how += [f"-c:v:{number}", "png", f"-disposition:v:{number}", "attached_pic"]
        how[how.index("-c:v")] = f"-c:v:{1 - number}"
    elif kind == "edit list":
        whole = make(path.with_suffix(f".whole{path.suffix}"), codec, "B-frames", seed)
        ffmpeg("-ss", f"0.{3 + seed % 5}", "-i", whole, "-t", "1", "-c", "copy", path)
        whole.unlink()
        return path
    ffmpeg(*inputs, *how, path)
    return path


def shown_frames(path: Path) -> int:
    """Returns how many frames FFmpeg shows of the stream that has most of them: no picture."""
    sink = "-map", "0:v", "-fps_mode", "passthrough", "-f", "framecrc", "-"
    lines = ffmpeg("-i", path, *sink).splitlines()
    counts = collections.Counter(line[0] for line in lines if not line.startswith("#"))
    return max(counts.values())


def prepared(paths: Mapping[str, Path], folder: Path) -> dict[str, Outcome]:
    """Writes videos as records; returns what became of each by its name."""
    videos = [Video(epath.Path(path), name, None, id=name) for name, path in paths.items()]
    shards = {
        f"{number:05d}": videos[number : number + A_SHARD]
        for number in range(0, len(videos), A_SHARD)
    }
    folder.mkdir()
    job = Job(epath.Path(folder), [], FrameOptions(32))
    write_shards(shards, job, workers=2, timeout=PATIENCE)
    manifests = (manifest.read(manifest_of(job.output, shard)) for shard in shards)
    outcomes = {outcome.name: outcome for each in manifests for outcome in each}
    assert outcomes.keys() == paths.keys()
    return outcomes


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, int]:
    """Sound clips, one of each pair of container and codec; and how many frames they have."""
    folder = tmp_path_factory.mktemp("clips")
    made = [make(folder / f"{codec}.{name}", codec, "B-frames") for name, codec in CLIPS]
    return {path: shown_frames(path) for path in made}


def test_sound_files(tally: Tally, tmp_path: Path) -> None:
    """All frames that FFmpeg shows, and no warning."""
    paths = {}
    for number in tally.attempts(short=30, long=500):
        container, codec = CLIPS[number % len(CLIPS)]
        kinds = KINDS + KINDS_OF.get(container, [])
        kind = kinds[(number + number // len(CLIPS)) % len(kinds)]
        name = f"{number} {codec} {kind}.{container}"
        paths[name] = make(tmp_path / f"{number}.{container}", codec, kind, number)
    for name, outcome in prepared(paths, tmp_path / "records").items():
        with tally.attempt(name):
            assert (outcome.reason, outcome.warning) == ("", "")
            assert outcome.num_frames == shown_frames(paths[name])


def flipped(content: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(len(content), size=int(rng.integers(1, 100))):
        content[place] ^= 1 << int(rng.integers(8))


def holed(content: bytearray, rng: np.random.Generator) -> None:
    size = int(rng.integers(1, len(content) // 4))
    place = int(rng.integers(len(content) - size))
    content[place : place + size] = bytes(size)


def truncated(content: bytearray, rng: np.random.Generator) -> None:
    del content[int(rng.integers(len(content))) :]


def swapped(content: bytearray, rng: np.random.Generator) -> None:
    size = int(rng.integers(1, min(4096, len(content) // 4)))
    first = int(rng.integers(len(content) - 2 * size))
    second = int(rng.integers(first + size, len(content) - size))
    one, other = content[first : first + size], content[second : second + size]
    content[first : first + size], content[second : second + size] = other, one


def test_damaged_files(tally: Tally, tmp_path: Path, clips: dict[Path, int]) -> None:
    """No process dies or hangs, and each file is written or skipped with a reason."""
    sources = list(clips)
    paths = {}
    for number in tally.attempts(short=150, long=2000):
        rng = np.random.default_rng(number)
        source = sources[number % len(sources)]
        damage = (flipped, holed, truncated, swapped)[number // len(sources) % 4]
        content = bytearray(source.read_bytes())
        damage(content, rng)
        name = f"{number} {damage.__name__} {source.name}"
        paths[name] = tmp_path / f"{number}{source.suffix}"
        paths[name].write_bytes(content)
    outcomes = prepared(paths, tmp_path / "records")
    for name, outcome in outcomes.items():
        with tally.attempt(name):
            assert bool(outcome.reason) == (not outcome.num_frames)
            assert "process" not in outcome.reason and "not decoded" not in outcome.reason
            assert "Error(" not in outcome.reason  # a sentence, not what Python calls it


def ended(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.uniform(0.3, 0.9) * len(content))]


def gapped(content: bytes, rng: np.random.Generator) -> bytes:
    size = int(rng.uniform(0.1, 0.4) * len(content))
    place = int(rng.uniform(0.2, 0.5) * len(content))
    return content[:place] + content[place + size :]


SILENT = {("ts", "ended")}  # one that ends between two packets is like a shorter video


def test_files_cut_short(tally: Tally, tmp_path: Path, clips: dict[Path, int]) -> None:
    """Skipped, or written with a warning, where the container lets the loss be proved."""
    sources = list(clips)
    paths, cuts = {}, {}
    for number in tally.attempts(short=64, long=500):
        source = sources[number % len(sources)]
        cut = (ended, gapped)[number // len(sources) % 2]
        name = f"{number} {cut.__name__} {source.name}"
        cuts[name] = source, cut.__name__
        paths[name] = tmp_path / f"{number}{source.suffix}"
        paths[name].write_bytes(cut(source.read_bytes(), np.random.default_rng(number)))
    found: collections.Counter[tuple[str, str]] = collections.Counter()
    lost: collections.Counter[tuple[str, str]] = collections.Counter()
    for name, outcome in prepared(paths, tmp_path / "records").items():
        source, cut_name = cuts[name]
        kind = source.suffix[1:], cut_name
        with tally.attempt(name):
            is_found = bool(outcome.reason or outcome.warning)
            lacks_frames = is_found or outcome.num_frames < clips[source]  # not sound alone
            lost[kind] += lacks_frames
            found[kind] += is_found
            assert is_found or not lacks_frames or kind in SILENT, "not found"
    print("| container | end missing | middle missing |\n|---|---|---|")
    for container in CONTAINERS:
        ends = (f"{found[container, c]} of {lost[container, c]}" for c in ("ended", "gapped"))
        print(f"| {container} | {' | '.join(ends)} |")
