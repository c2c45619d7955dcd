"""What stands in real files: codecs, pixel formats, damage. FFmpeg encodes the clips and counts."""

import functools
import random
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import tensorflow as tf
from conftest import jpegs_of
from etils import epath

from cvrl_tf.data import records
from cvrl_tf.preparation import annotations, decoding, manifest, prepare, shards
from cvrl_tf.preparation.decoding import FrameOptions

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
LENGTH = 30
# File name, and how FFmpeg is told to encode it.
CODECS = {
    "h264.mp4": "-c:v libx264 -pix_fmt yuv420p",
    "h264_10bit.mp4": "-c:v libx264 -pix_fmt yuv420p10le",
    "h264_444.mkv": "-c:v libx264 -pix_fmt yuv444p",
    "h264_b_frames.mov": "-c:v libx264 -pix_fmt yuv420p -bf 3 -g 12",
    "hevc.mp4": "-c:v libx265 -pix_fmt yuv420p -x265-params log-level=none",
    "av1.mkv": "-c:v libaom-av1 -cpu-used 8 -pix_fmt yuv420p",
    "vp9.webm": "-c:v libvpx-vp9 -pix_fmt yuv420p",
    "mpeg1.mpg": "-c:v mpeg1video -q:v 2",
    "mpeg4.avi": "-c:v mpeg4 -q:v 2",
    "full_range.avi": "-c:v mjpeg -pix_fmt yuvj420p -q:v 2",
    "variable_rate.mp4": "-c:v libx264 -vf setpts=PTS+floor(N/10)*0.2/TB -fps_mode passthrough",
}


def gray_of(frame: int) -> int:
    return 40 + 6 * frame


def write_clip(path: Path, how: str, width: int = 64, height: int = 48) -> Path:
    """A ramp clip at 25 frames a second; frame i has the gray value `gray_of(i)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grays = np.array([gray_of(i) for i in range(LENGTH)], np.uint8)
    frames = np.broadcast_to(grays[:, None, None, None], (LENGTH, height, width, 3))
    source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r 25 -i -".split()
    command = [FFMPEG, "-loglevel", "error", *source, *how.split(), str(path)]
    subprocess.run(command, input=frames.tobytes(), check=True)
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for name, how in CODECS.items():
        write_clip(folder / name, how)
    write_clip(folder / "odd_size.mkv", CODECS["h264_444.mkv"], 65, 49)
    return folder


def test_frames_are_those_that_ffmpeg_decodes(clips: Path) -> None:
    for clip in clips.iterdir():
        encoded = decoding.encode_video(clip, FrameOptions(48))
        grays = [tf.io.decode_jpeg(jpeg).numpy().mean() for jpeg in jpegs_of(encoded)]
        expected = [gray_of(i) for i in range(LENGTH)]
        np.testing.assert_allclose(grays, expected, atol=2.5, err_msg=clip.name)
        assert imageio_ffmpeg.count_frames_and_secs(str(clip))[0] == LENGTH, clip.name
        assert encoded.warning == "", clip.name


def test_time_stamps_decide_what_is_shown(clips: Path) -> None:
    """After every 10 frames of 0.04 s the last one stays for another 0.2 s."""
    encoded = decoding.encode_video(clips / "variable_rate.mp4", FrameOptions(48, fps=25))
    grays = [tf.io.decode_jpeg(jpeg).numpy().mean() for jpeg in jpegs_of(encoded)]
    shown = [*range(10), *[9] * 5, *range(10, 20), *[19] * 5, *range(20, 30)]
    np.testing.assert_allclose(grays, [gray_of(i) for i in shown], atol=2.5)


def test_what_decodes_of_a_truncated_video_is_kept_if_asked(clips: Path, tmp_path: Path) -> None:
    content = (clips / "mpeg4.avi").read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(decoding.UnusableVideo, match=r"cut short or damaged: \d+ of 30 frames"):
        decoding.encode_video(cut, FrameOptions(48))
    kept = decoding.encode_video(cut, FrameOptions(48, keep_truncated=True))
    assert 5 < kept.jpegs.num_frames < 25
    assert kept.warning.startswith(f"{kept.jpegs.num_frames} of 30 frames decode")
    whole = jpegs_of(decoding.encode_video(clips / "mpeg4.avi", FrameOptions(48)))
    assert jpegs_of(kept)[:-1] == whole[: kept.jpegs.num_frames - 1]

    cut.rename(tmp_path / "videos.avi")
    frames = FrameOptions(48, keep_truncated=True)
    split = prepare.prepare(annotations.read(tmp_path), tmp_path / "records", frames=frames)
    assert split and (split.num_examples, split.skipped) == (1, {})
    (outcome,) = manifest.read(epath.Path(tmp_path / "records" / "train_manifest.jsonl"))
    assert outcome.warning == kept.warning


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The same file with its end or head cut off, or with bytes changed."""
    match rng.choice(["truncated", "flipped", "beheaded", "hole"]):
        case "truncated":
            return content[: rng.randrange(len(content))]
        case "beheaded":
            return content[rng.randrange(1, 2000) :]
        case "hole":
            start = rng.randrange(len(content))
            return content[:start] + bytes(rng.randrange(1, 4096)) + content[start + 4096 :]
    changed = bytearray(content)
    for _ in range(rng.choice([1, 10, 100])):
        changed[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(changed)


def test_damaged_videos_are_all_accounted_for(clips: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    sources = sorted(clips.iterdir())
    for i in range(500):
        source = rng.choice(sources)
        (tmp_path / "videos").mkdir(exist_ok=True)
        (tmp_path / "videos" / f"{i:03d}{source.suffix}").write_bytes(
            damaged(source.read_bytes(), rng)
        )
    write = functools.partial(shards.write_shards, timeout=30)
    videos = annotations.read(tmp_path / "videos")
    split = prepare.prepare(videos, tmp_path / "records", frames=FrameOptions(48), write=write)
    assert split
    outcomes = manifest.read(epath.Path(tmp_path / "records" / "train_manifest.jsonl"))
    assert [outcome.name for outcome in outcomes] == sorted(video.name for video in videos)
    assert len(outcomes) == 500
    written = {outcome.name: outcome for outcome in outcomes if not outcome.reason}
    assert split.num_examples == len(written) and len(split.skipped) == 500 - len(written)
    assert 50 < len(written) < 450
    assert not any(reason.startswith("the process") for reason in split.skipped.values())
    parsed = [
        records.parse(item)
        for item in records.in_order(records.shard_paths(tmp_path / "records", split))
    ]
    assert len({item["video_id"].numpy() for item in parsed}) == len(parsed) == len(written)
    for item in parsed:
        for jpeg in item["frames"]:
            assert tf.io.decode_jpeg(jpeg).shape[2] == 3
