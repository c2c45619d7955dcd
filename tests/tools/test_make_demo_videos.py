"""Shape and motion tell the classes of demo videos apart; colors do not."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

TOOL = Path(__file__).parents[2] / "tools" / "make_demo_videos.py"
SHAPES = ("circle", "square", "triangle", "cross")
MOTIONS = ("horizontal", "vertical", "pulsing")


def make(output: Path, train: int, test: int, seed: int = 0) -> subprocess.CompletedProcess[str]:
    flags = [f"--output={output}", f"--train_videos={train}", f"--test_videos={test}"]
    command = [sys.executable, str(TOOL), *flags, f"--seed={seed}"]
    return subprocess.run(command, capture_output=True, text=True)


def read(path: Path) -> np.ndarray:
    """Return the frames of a video, uint8 [L, H, W, 3], BGR."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    frames = []
    while (frame := capture.read()[1]) is not None:
        frames.append(frame)
    return np.stack(frames)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.mp4")}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_demo_videos", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for its dataclasses
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make 20 training and 15 test videos of each class."""
    output = tmp_path_factory.mktemp("demo") / "videos"
    run = make(output, 240, 180)
    assert run.returncode == 0, run.stderr
    return output


def test_layout(demo: Path) -> None:
    classes = sorted(f"{shape}_{motion}" for shape in SHAPES for motion in MOTIONS)
    for split, number in [("train", 20), ("test", 15)]:
        assert sorted(path.name for path in (demo / split).iterdir()) == classes
        for name in classes:
            files = sorted(path.name for path in (demo / split / name).iterdir())
            assert files == [f"{i:04d}.mp4" for i in range(number)]
    assert read(demo / "test" / "cross_pulsing" / "0014.mp4").shape == (32, 64, 64, 3)


def test_fewer_videos_are_a_subset_and_seeds_differ(demo: Path, tmp_path: Path) -> None:
    everything = contents(demo)
    assert len(set(everything.values())) == len(everything)
    make(tmp_path / "few", 24, 12)
    few = contents(tmp_path / "few")
    assert len(few) == 36
    assert few.items() <= everything.items()
    make(tmp_path / "other", 12, 12, seed=1)
    other = contents(tmp_path / "other")
    assert len(other) == 24
    assert not set(other.values()) & set(everything.values())


def test_second_call_finds_its_files(tmp_path: Path) -> None:
    make(tmp_path, 12, 12)
    path = tmp_path / "train" / "circle_pulsing" / "0000.mp4"
    before = path.stat().st_mtime_ns
    again = make(tmp_path, 12, 12)
    assert again.returncode == 0 and "already" in again.stdout
    assert path.stat().st_mtime_ns == before
    refused = make(tmp_path, 24, 12)
    assert refused.returncode == 1
    assert f"{tmp_path} holds other videos" in refused.stderr
    assert "Traceback" not in refused.stderr


def mask(video: np.ndarray) -> np.ndarray:
    """Return where the bright object is, bool [L, H, W]."""
    return video.max(axis=-1) > 150


def test_motion_is_that_of_the_class(demo: Path) -> None:
    for motion in MOTIONS:
        for path in sorted(demo.glob(f"test/*_{motion}/*.mp4"))[::3]:
            found = mask(read(path))
            area = found.sum(axis=(1, 2))
            assert area.min() > 20  # the object never leaves the picture
            ys, xs = ((found.sum(axis=axis) * np.arange(64)).sum(axis=1) / area for axis in (2, 1))
            spread = {"horizontal": np.std(xs), "vertical": np.std(ys)}
            # Periods have at most 20 frames, so the object goes through its whole swing.
            assert all((std > 4) == (key == motion) for key, std in spread.items()), path
            assert (np.std(area) / np.mean(area) > 0.3) == (motion == "pulsing"), path


def test_shape_is_that_of_the_class(demo: Path) -> None:
    # The shares of the smallest rectangle and of the convex hull that each shape fills.
    ideal = {"circle": (0.79, 1), "square": (1, 1), "triangle": (0.5, 1), "cross": (0.65, 0.78)}
    right = []
    for path in sorted(demo.glob("test/*/*.mp4")):
        found = mask(read(path))
        biggest = found[found.sum(axis=(1, 2)).argmax()].astype(np.uint8)
        big = cv2.resize(255 * biggest, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC) > 127
        points = np.argwhere(big).astype(np.int32)
        rectangle = np.prod(cv2.minAreaRect(points)[1])
        hull = cv2.contourArea(cv2.convexHull(points))
        filled = np.array([len(points) / rectangle, len(points) / hull])
        guess = min(ideal, key=lambda shape: float(np.sum((filled - ideal[shape]) ** 2)))
        right.append(guess == path.parent.name.split("_")[0])
    assert np.mean(right) > 0.9


def linear_probe(features: dict[str, np.ndarray], classes: dict[str, np.ndarray]) -> float:
    """Return the test accuracy of a linear map that is fitted by least squares."""
    inputs = {key: np.c_[value, np.ones(len(value))] for key, value in features.items()}
    targets = np.eye(12)[classes["train"]]
    weights = np.linalg.lstsq(inputs["train"], targets, rcond=None)[0]
    return float(np.mean((inputs["test"] @ weights).argmax(axis=1) == classes["test"]))


def mean_colors(path: Path) -> np.ndarray:
    """Return the mean colors of the video and of the object, float [6], 0 to 1."""
    video = read(path)
    return np.concatenate([video.mean(axis=(0, 1, 2)), video[mask(video)].mean(axis=0)]) / 255


def test_mean_colors_do_not_give_the_class_away(demo: Path) -> None:
    names = [f"{shape}_{motion}" for shape in SHAPES for motion in MOTIONS]
    colors: dict[str, np.ndarray] = {}
    classes: dict[str, np.ndarray] = {}
    for split in ("train", "test"):
        paths = sorted(demo.glob(f"{split}/*/*.mp4"))
        colors[split] = np.stack([mean_colors(path) for path in paths])
        classes[split] = np.array([names.index(path.parent.name) for path in paths])
    # Chance is 1/12. Three standard deviations of 180 guesses are 6 %.
    assert linear_probe(colors, classes) < 1 / 12 + 0.065
    # The probe is strong enough: a trace of the class in the colors suffices.
    marked = {key: np.c_[value, np.eye(12)[classes[key]] * 0.05] for key, value in colors.items()}
    assert linear_probe(marked, classes) > 0.9


def test_two_clips_of_a_video_share_time_and_background(tool: ModuleType) -> None:
    """As the tool says of itself, for clips of 8 frames and stride 2."""
    starts = np.arange(32 - 14)
    overlap = np.mean(abs(starts[:, None] - starts) < 15)
    assert overlap == pytest.approx(0.96, abs=0.005)
    correlations = []
    for number in range(150):
        rng = np.random.default_rng([0, number])
        background = tool._background(rng)
        clips = [background[start : start + 15 : 2].mean(axis=0) for start in rng.choice(starts, 2)]
        correlations.append(np.corrcoef(*(np.ravel(clip) for clip in clips))[0, 1])
    assert np.mean(correlations) == pytest.approx(0.84, abs=0.03)


def test_background_differs_between_clips_of_a_video(demo: Path) -> None:
    changes = []
    for path in sorted(demo.glob("test/*/*.mp4"))[::6]:
        video = read(path).astype(float)
        corner = video[:, :4].mean(axis=(1, 2))  # the object does not reach these rows
        changes.append(np.abs(corner[-1] - corner[0]).max())
    assert np.median(changes) > 15
