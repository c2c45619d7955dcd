"""Presentation times of stored frames, from the container to `records.parse`."""

import functools
import itertools
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import tensorflow as tf

from cvrl_tf.data import records, schema
from cvrl_tf.preparation import annotations, decoding, prepare, shards
from cvrl_tf.preparation.decoding import FrameOptions

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
LENGTH = 30
# After every 10 frames of 0.04 s the last one stays for another 0.2 s.
PAUSES = "setpts=PTS+floor(N/10)*0.2/TB"
WITH_PAUSES = [40_000 * i + 200_000 * (i // 10) for i in range(LENGTH)]


def write_clip(path: Path, *how: str) -> Path:
    """A clip of 64x48 pixels at 25 frames a second."""
    frames = bytes(LENGTH * 48 * 64 * 3)
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "64x48", "-r", "25", "-i", "-"]
    encoder = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", "2"]
    command = [FFMPEG, "-loglevel", "error", *source, *encoder, *how, str(path)]
    subprocess.run(command, input=frames, check=True)
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "constant.mp4")
    write_clip(folder / "variable.mp4", "-vf", PAUSES, "-fps_mode", "passthrough")
    return folder


@pytest.mark.parametrize(
    ("clip", "options", "segment", "expected"),
    [
        ("constant.mp4", {}, (), [40_000 * i for i in range(30)]),
        ("constant.mp4", {}, (0.2, 0.6), [40_000 * i for i in range(5, 15)]),
        ("constant.mp4", {}, (0.19, 0.6), [40_000 * i for i in range(5, 15)]),
        ("constant.mp4", {"max_seconds": 0.19}, (0.4,), [40_000 * i for i in range(10, 15)]),
        ("constant.mp4", {"fps": 12.5}, (), [80_000 * i for i in range(15)]),
        ("constant.mp4", {"fps": 50}, (0.2, 0.6), [20_000 * i for i in range(10, 30)]),
        ("constant.mp4", {"fps": 30}, (), [round(1e6 * i / 30) for i in range(36)]),
        ("variable.mp4", {}, (), WITH_PAUSES),
        ("variable.mp4", {}, (0.3, 0.7), [320_000, 360_000, 600_000, 640_000, 680_000]),
        ("variable.mp4", {"fps": 10}, (), [100_000 * i for i in range(16)]),
    ],
)
def test_times(
    clips: Path,
    clip: str,
    options: dict[str, float],
    segment: tuple[float, ...],
    expected: list[int],
) -> None:
    encoded = decoding.encode_video(clips / clip, FrameOptions(48, **options), *segment)  # type: ignore[arg-type]
    assert encoded.jpegs.num_frames == len(encoded.times)
    assert encoded.times == expected


def test_times_reach_the_reader(clips: Path, tmp_path: Path) -> None:
    listed = tmp_path / "clips.csv"
    listed.write_text("path,start,end\nconstant.mp4,0.2,0.6\nvariable.mp4,,\n")
    prepare.prepare(
        annotations.read(listed, [clips], format_name="csv"),
        tmp_path / "records",
        frames=FrameOptions(48),
        num_shards=1,
        write=functools.partial(shards.write_shards, workers=1),
    )
    split = schema.DatasetInfo.load(tmp_path / "records").split("train")
    paths = records.shard_paths(tmp_path / "records", split)
    found = {}
    for serialized in records.in_order(paths):
        example = tf.train.SequenceExample.FromString(serialized.numpy())
        context = example.context.feature
        assert list(context[schema.RECORD_VERSION].int64_list.value) == [schema.VERSION]
        stored = list(context[schema.TIMES].int64_list.value)
        start, end = (context[key].int64_list.value[0] for key in (schema.START, schema.END))
        assert start <= stored[0] and stored[-1] < end
        assert all(one < other for one, other in itertools.pairwise(stored))
        record = records.parse(serialized)
        found[record["video_id"].numpy().decode()] = record["times"].numpy()
    np.testing.assert_allclose(found["constant.mp4[0.2-0"], 0.04 * np.arange(10), rtol=1e-6)
    np.testing.assert_allclose(found["variable"], np.array(WITH_PAUSES) / 1e6, rtol=1e-6)
