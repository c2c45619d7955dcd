"""The command `tools/make_tfrecords.py`, run as a user runs it."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from cvrl_tf.data import records, schema

TOOL = Path(__file__).parents[2] / "tools" / "make_tfrecords.py"


def write_clip(path: Path, length: int, size: tuple[int, int]) -> Path:
    """Noise, which takes its time to be encoded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 25, size)
    rng = np.random.default_rng(0)
    for _ in range(length):
        writer.write(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
    writer.release()
    return path


def start(environment: dict[str, str], *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(TOOL), *flags],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that a signal can go to all of its processes, as Ctrl-C does
    )


def test_summary_and_records(tmp_path: Path, child_environment: dict[str, str]) -> None:
    write_clip(tmp_path / "videos" / "bowling" / "a.mp4", 8, (64, 48))
    write_clip(tmp_path / "videos" / "archery" / "b c.mp4", 9, (64, 48))
    (tmp_path / "videos" / "archery" / "text.mp4").write_text("no video")
    (tmp_path / "videos" / "archery" / "li\nst.xml").touch()
    output = tmp_path / "records"
    flags = [f"--input={tmp_path / 'videos'}", f"--output={output}", "--split=validation"]
    flags += ["--short_side=32", "--num_shards=2", "--workers=1", "--name=sports"]
    run = start(child_environment, *flags)
    said, complained = run.communicate()
    assert run.returncode == 0, complained
    assert f"Wrote 2 videos, 17 frames, of 2 classes as 2 shards validation-*-of-* in {output}" in (
        said
    )
    assert "Skipped 1 videos:\n  archery/text.mp4: not a video" in said
    assert "Ignored 1 files:\n  'archery/li\\nst.xml': '.xml' is no video's ending" in said
    assert "3/3" in complained and "frames/s" in complained and "videos/s" in complained
    assert "moov" not in complained  # FFmpeg's own words

    info = schema.DatasetInfo.load(output)
    assert info.name == "sports"
    parsed = [
        records.parse(item)
        for item in records.in_order(records.shard_paths(output, info.split("validation")))
    ]
    found = {
        item["video_id"].numpy().decode(): (int(item["label"]), len(item["frames"]))
        for item in parsed
    }
    assert found == {"bowling/a": (1, 8), "archery/b c": (0, 9)}


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--input=gone"], "Error: No file or folder 'gone'"),
        (["--input=.", "--jpeg_quality=101"], "jpeg_quality"),
    ],
)
def test_errors_have_no_traceback(
    tmp_path: Path, child_environment: dict[str, str], flags: list[str], complaint: str
) -> None:
    run = start(child_environment, f"--output={tmp_path / 'records'}", *flags)
    complained = "".join(run.communicate())
    assert run.returncode != 0
    assert complaint in complained
    assert "Traceback" not in complained
    assert not (tmp_path / "records").exists()


def many_videos(folder: Path, count: int) -> list[str]:
    """Videos that take some time; returns the flags to prepare them, one a shard."""
    clip = write_clip(folder / "videos" / "00.mp4", 60, (320, 240))
    for i in range(1, count):
        shutil.copy(clip, clip.with_name(f"{i:02d}.mp4"))
    shards = f"--num_shards={count}"
    return [f"--input={folder / 'videos'}", shards, "--short_side=480", "--name=copies"]


def contents(folder: Path) -> dict[str, bytes]:
    """Files by name, but for hidden ones, which a killed process may leave."""
    files = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.mark.slow
def test_interrupted_work_goes_on(tmp_path: Path, child_environment: dict[str, str]) -> None:
    flags = many_videos(tmp_path, 60)
    output = tmp_path / "records"
    run = start(child_environment, *flags, f"--output={output}", "--workers=1")
    while not list(output.glob("train-*")) and run.poll() is None:
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGINT)
    complained = run.communicate(timeout=60)[1]
    assert run.returncode == 130, complained
    assert "Traceback" not in complained
    shards = sorted(output.glob("train-*"))
    assert 1 <= len(shards) < 60
    assert f"Interrupted: {len(shards)} whole shards of split 'train' are in {output}" in complained
    assert "Rerun the same command to resume" in complained
    assert not list(output.glob("*.tmp"))
    for shard in records.in_order([str(path) for path in shards]):
        assert len(records.parse(shard)["frames"]) == 60
    assert schema.DatasetInfo.load(output).splits == {}

    changed = start(child_environment, *flags, f"--output={output}", "--jpeg_quality=50")
    assert "jpeg_quality was 95, is 50" in "".join(changed.communicate(timeout=60))
    assert changed.returncode != 0
    times = {path: path.stat().st_mtime_ns for path in shards}
    again = start(child_environment, *flags, f"--output={output}")
    assert "Wrote 60 videos" in again.communicate(timeout=120)[0]
    assert {path: path.stat().st_mtime_ns for path in shards} == times  # not made again


def test_a_write_error_costs_no_whole_shard(
    tmp_path: Path, child_environment: dict[str, str]
) -> None:
    """The kernel refuses to write files beyond 2 MB, as it would on a full disk."""
    for i in range(3):
        write_clip(tmp_path / "videos" / f"{i}.mp4", 5, (64, 48))
    write_clip(tmp_path / "videos" / "long.mp4", 60, (640, 480))
    output = tmp_path / "records"
    flags = [str(TOOL), f"--input={tmp_path / 'videos'}", f"--output={output}", "--num_shards=4"]
    limited = (
        "import resource, runpy, sys; sys.argv = sys.argv[1:]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", limited, *flags, "--short_side=480", "--workers=1"]
    run = subprocess.run(command, env=child_environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert f"can't be written to '{output}': OSError: [Errno 27]" in run.stderr
    assert "rerun the same command" in run.stderr and "Traceback" not in run.stderr
    whole = {path: path.stat().st_mtime_ns for path in output.glob("train-*-of-*")}
    assert not list(output.glob(".*.tmp"))
    again = start(child_environment, *flags[1:], "--short_side=480")
    assert "Wrote 4 videos" in again.communicate(timeout=60)[0]
    assert whole and {path: path.stat().st_mtime_ns for path in whole} == whole


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_bytes(
    tmp_path: Path, child_environment: dict[str, str]
) -> None:
    flags = many_videos(tmp_path, 12)
    begin = time.monotonic()
    start(child_environment, *flags, f"--output={tmp_path / 'undisturbed'}").communicate()
    duration = time.monotonic() - begin
    rng = random.Random(0)
    unfinished = 0
    for trial in range(20):
        output = tmp_path / f"killed_{trial}"
        run = start(child_environment, *flags, f"--output={output}")
        time.sleep(rng.uniform(0.2, 1.0) * duration)
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
        unfinished += not (output / "train_manifest.jsonl").exists()
        last = start(child_environment, *flags, f"--output={output}")
        assert "Wrote 12 videos" in last.communicate(timeout=120)[0]
        assert contents(output) == contents(tmp_path / "undisturbed")
        shutil.rmtree(output)
    assert unfinished > 10
