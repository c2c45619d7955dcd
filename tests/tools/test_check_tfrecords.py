"""The command `tools/check_tfrecords.py`, run as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cvrl_tf.preparation import annotations, prepare, shards
from cvrl_tf.preparation.decoding import FrameOptions

TOOL = Path(__file__).parents[2] / "tools" / "check_tfrecords.py"
SHARD = "train-00000-of-00001"


def write_here(todo: dict[str, list[annotations.Video]], job: shards.Job) -> None:
    for name, videos in todo.items():
        shards._write_shard(name, videos, [], job, lambda outcome: None)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """30 classes with a video of 8 gray frames each, six in the first; names are not ASCII."""
    videos = tmp_path / "videos"
    for i in range(35):
        path = videos / f"class {max(0, i - 5):02d}" / f"übung {i}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        code = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, 25, (64, 48))
        for _ in range(8):
            writer.write(np.full((48, 64, 3), 100, np.uint8))
        writer.release()
    output = tmp_path / "records"
    prepare.prepare(
        annotations.read(videos), output, "train", FrameOptions(48), 1, write=write_here
    )
    return output


def run(environment: dict[str, str], *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *flags]
    return subprocess.run(command, env=environment, text=True, capture_output=True)


def test_good_records(records: Path, tmp_path: Path, child_environment: dict[str, str]) -> None:
    picture = tmp_path / "new folder" / "sheet.png"
    flags = f"--data_dir={records}", f"--contact_sheet={picture}", "--sample=3"
    done = run(child_environment, *flags)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].startswith("Split 'train': 35 videos, 280 frames, ")
    assert "8 at least, 8 median, 8.0 mean, 8 at most" in said[1]
    assert said[2:4] == ["  height x width: 48x64 (35)", "  frames per second: 25 (35)"]
    assert said[4:6] == ["  videos of 30 classes:", f"            6  {'█' * 40} class 00"]
    assert "          ... 10 classes between" in said and len(said) == 5 + 21 + 2
    assert said[-2] == f"Drew 24 videos in {picture}."
    assert said[-1] == "No problems found: checked every record and 3 frames of each video."
    assert "35/35" in done.stderr and "frames/s" in done.stderr

    pixels = np.asarray(Image.open(picture).convert("L"))
    gray = np.abs(pixels.astype(int) - 100) <= 4
    assert gray.sum() >= 24 * 6 * 176 * 130  # the frames
    assert (pixels < 50).sum() > 24 * 100  # the captions


def test_bad_records(records: Path, child_environment: dict[str, str]) -> None:
    """A manifest of other videos gives a line for each record, and one for all missing videos."""
    path = records / "train_manifest.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    renamed = [json.dumps({**line, "name": f"x{line['name']}", "shard": SHARD}) for line in lines]
    path.write_text("\n".join(2 * renamed[:34]))
    for i in range(20):
        (records / f"train-{i:05d}-of-00020").touch()
    done = run(child_environment, f"--data_dir={records}", "--split=train")
    assert done.returncode == 1
    assert (
        "Found 56 problems; do not use these records:" in done.stdout
        and "  and 6 more\n" in done.stdout
    )
    assert done.stdout.count(": a shard of another run") == 20
    assert f"{SHARD}, record 0, video 'class" in done.stdout and "übung" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert f"delete in {str(records)!r} all files train-?????-of-????? and, in" in last

    path.unlink()
    done = run(child_environment, f"--data_dir={records}")
    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]
    assert last.startswith("Delete these shards of another run") and "-00019-of-00020" in last


def test_an_error_is_one_line(child_environment: dict[str, str]) -> None:
    done = run(child_environment, "--data_dir=nowhere", "--contact_sheet=a.gif")
    assert done.returncode == 1
    assert done.stderr.endswith("Error: --contact_sheet=a.gif does not end in .png.\n")
    assert "Traceback" not in done.stderr
