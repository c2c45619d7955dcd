"""Measure videos to records, against ffmpeg writing JPEG files, and the memory of a worker.

    python benchmarks/preparation.py

Both use all cores: ours has one worker for each core, ffmpeg one process with one thread for each
core. Both scale the short side to 256 and write JPEGs of similar size and quality. The videos are
made here: H.264 of moving textures with the spectrum of natural images.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imageio_ffmpeg
import joblib
import measure
import numpy as np

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
ROOT = Path(__file__).resolve().parents[1]
CORES = joblib.cpu_count()
ROUNDS = 3
LENGTH, RATE = 300, 30  # ten seconds, as in Kinetics


def texture(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Draw noise whose amplitude falls as f^-1.5, mostly in brightness: uint8 [H, W, 3]."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    noise = np.fft.rfft2(rng.normal(size=(4, height, width))) / frequency**1.5
    planes = np.fft.irfft2(noise, (height, width)).transpose(1, 2, 0)
    pixels = planes[..., 3:] + 0.3 * planes[..., :3]
    return np.clip(128 + 50 * pixels / pixels.std(), 0, 255).astype(np.uint8)


def write_video(path: Path, width: int, height: int, seed: int) -> None:
    """Write a slow pan that an object crosses."""
    rng = np.random.default_rng(seed)
    scene = texture(height + LENGTH // 2, width + LENGTH, rng)
    object_ = texture(height // 3, height // 3, rng)
    command = [FFMPEG, "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width}x{height}", "-r", str(RATE), "-i", "-", "-pix_fmt", "yuv420p"]
    command += ["-c:v", "libx264", "-preset", "veryfast", "-crf", "23", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as encoder:
        assert encoder.stdin
        for t in range(LENGTH):
            frame = scene[t // 2 : t // 2 + height, t : t + width].copy()
            x = (width - height // 3) * t // LENGTH
            frame[height // 3 : height // 3 * 2, x : x + height // 3] = object_
            encoder.stdin.write(frame.tobytes())


def ours(videos: Path, output: Path) -> None:
    shutil.rmtree(output, ignore_errors=True)
    tool = [sys.executable, str(ROOT / "tools" / "make_tfrecords.py")]
    subprocess.run(
        [*tool, f"--input={videos}", f"--output={output}", "--num_shards=24"],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def with_ffmpeg(videos: Path, output: Path) -> None:
    shutil.rmtree(output, ignore_errors=True)

    def convert(video: Path) -> None:
        folder = output / video.stem
        folder.mkdir(parents=True)
        command = [FFMPEG, "-loglevel", "error", "-threads", "1", "-i", str(video), "-an"]
        command += ["-vf", "scale=-2:256", "-threads", "1", "-qmin", "1", "-q:v", "1"]
        subprocess.run([*command, str(folder / "%06d.jpg")], check=True)

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(convert, sorted(videos.iterdir())))


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def memory_of_worker(work: Path) -> int:
    """Prepare ten minutes of 1080p and return the peak memory of the worker, in MB."""
    print("ten minutes of 1920x1080", file=sys.stderr)
    write_video(work / "short.mp4", 1920, 1080, seed=0)
    (work / "long").mkdir()
    command = [FFMPEG, "-loglevel", "error", "-stream_loop", "59", "-i", str(work / "short.mp4")]
    subprocess.run([*command, "-c", "copy", str(work / "long" / "long.mp4")], check=True)
    child = (
        "import resource, runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    output = work / "long records"
    tool = [str(ROOT / "tools" / "make_tfrecords.py"), f"--input={work / 'long'}"]
    done = subprocess.run(
        [sys.executable, "-c", child, *tool, f"--output={output}"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    info = json.loads((output / "dataset_info.json").read_text())
    assert info["splits"]["train"]["num_frames"] == 60 * LENGTH
    return round(int(done.stdout.split()[-1]) * 1024 / 1e6)


def main() -> None:
    ratios: dict[str, float] = {}
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for key, width, height, count in [("256", 340, 256, 96), ("720", 1280, 720, 24)]:
            print(f"{count} videos of {LENGTH} frames, {width}x{height}", file=sys.stderr)
            videos = work / f"videos_{key}"
            videos.mkdir()
            for i in range(count):
                write_video(videos / f"{i:03d}.mp4", width, height, seed=i)
            seconds = measure.alternate(
                {
                    "ours": functools.partial(ours, videos, work / "records"),
                    "ffmpeg": functools.partial(with_ffmpeg, videos, work / "jpegs"),
                },
                ROUNDS,
            )
            ratios[f"ffmpeg_{key}"] = measure.speed_up(seconds, "ours", "ffmpeg")
            figures[f"frames_per_second_{key}"] = {
                name: round(count * LENGTH / min(times)) for name, times in seconds.items()
            }
            figures[f"megabytes_{key}"] = {
                "ours": round(size_of(work / "records") / 1e6, 1),
                "ffmpeg": round(size_of(work / "jpegs") / 1e6, 1),
            }
        figures["worker_megabytes_10_min_1080p"] = memory_of_worker(work)
    measure.report(__file__, ratios, **figures)


if __name__ == "__main__":
    main()
