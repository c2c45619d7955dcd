"""The pictures show the pixels that the run of a recipe trains on."""

import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path

import cv2
import gin
import numpy as np
import pytest
from conftest import ROOT, noise_video, write_records
from PIL import Image

from cvrl_tf.training.run import Run

TOOL = ROOT / "tools" / "browse_views.py"
SMALL = [
    "run.Run.global_batch=4",
    "settings.Execution.seed=3",
    "views.RandomResizedCrop.size=32",
    "clips.UniformClips.num_frames=4",
    "resnet3d.ResNet3D.depth=10",
    "resnet3d.ResNet3D.width=0.125",
]
PER_FRAME = ["chain.Chain.per_frame=True", "views.RandomResizedCrop.per_frame=True"]
CLASSIFY = ["CHECKPOINT=None", "EVAL_SPLIT='test'", "settings.Validation.batch=1"]


@pytest.fixture(scope="module")
def tool():
    """Import the tool. Other commands define flags of the same names, so these are hidden."""
    from absl import flags

    others = {
        flag.name: flag
        for module, defined in flags.FLAGS.flags_by_module_dict().items()
        if module.startswith("cvrl_tf")
        for flag in defined
    }
    for name in others:
        delattr(flags.FLAGS, name)
    before = set(flags.FLAGS)
    spec = importlib.util.spec_from_file_location("browse_views", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    for name, flag in others.items():
        flags.FLAGS[name] = flag


@pytest.fixture(autouse=True)
def fresh_gin() -> None:
    gin.clear_config()
    gin.add_config_file_search_path(str(ROOT))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 10 training videos, a subset of 10, and 3 test videos."""
    folder = tmp_path_factory.mktemp("records")
    for split, count in [("train", 10), ("train_1pct", 10), ("test", 3)]:
        write_records(folder, [noise_video(16, 48, 64, i) for i in range(count)], split)
    return folder


def browse(
    environment: dict[str, str], output: Path, recipe: str, *params: str, clips: int = 3
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), f"--gin_file={recipe}", f"--output={output}"]
    command += [f"--num_clips={clips}", *(f"--gin_param={param}" for param in params)]
    return subprocess.run(command, env=environment, cwd=ROOT, text=True, capture_output=True)


@pytest.mark.parametrize(
    ("recipe", "params", "num_views"),
    [
        ("gin/demo/pretrain.gin", [], 2),
        pytest.param("gin/pretrain/k400.gin", [], 2, marks=pytest.mark.slow),
        pytest.param("gin/pretrain/k400.gin", PER_FRAME, 2, marks=pytest.mark.slow),
        pytest.param(
            "gin/pretrain/k600_authors_code.gin",
            ["clips.DecreasingPair.num_frames=4", "AUTHORS_REPLICAS=8"],
            2,
            marks=pytest.mark.slow,
        ),
        ("gin/probe/k400.gin", CLASSIFY, 1),
        pytest.param("gin/finetune/ucf101.gin", CLASSIFY, 1, marks=pytest.mark.slow),
        pytest.param("gin/semi/k400_1pct.gin", CLASSIFY, 1, marks=pytest.mark.slow),
    ],
)
def test_views_are_those_of_the_first_step(
    tool, recipe: str, params: list[str], num_views: int, records: Path, tmp_path: Path, one_worker
) -> None:
    gin.parse_config_files_and_bindings([recipe], [f"DATA_DIR='{records}'", *SMALL, *params])
    run = gin.get_configurable(Run)(model_dir=tmp_path)
    stream = run._train_data.train_batches(run.global_batch, run._seed, run.step, one_worker(1))
    steps = list(stream.take(2))  # a whole epoch, which leaves out two videos
    frames = [run.model.augment(batch["frames"], batch["seeds"]) for batch in steps]
    expected = np.round(255 * np.concatenate(frames)).reshape(8, num_views, 4, 32, 32, 3)
    labels = np.concatenate([batch["label"] for batch in steps])

    views, captions = tool.first_views(num_clips=4)
    assert views.dtype == np.uint8
    np.testing.assert_array_equal(views, expected[:4])
    assert captions == [f"{i}: {['even', 'odd'][labels[i - 1]]}" for i in range(1, 5)]
    # The number of clips may be smaller or larger than a batch, up to those of an epoch.
    np.testing.assert_array_equal(tool.first_views(num_clips=3)[0], expected[:3])
    np.testing.assert_array_equal(tool.first_views(num_clips=100)[0], expected)


def test_no_encoder_is_built(tool, records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tf_keras

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a model was built")

    monkeypatch.setattr(tf_keras.Model, "__init__", refuse)
    gin.parse_config_files_and_bindings(
        ["gin/pretrain/k400.gin"], [f"DATA_DIR='{records}'", *SMALL]
    )
    assert len(tool.first_views(1)[0]) == 1


def test_cached_probe_shows_its_test_views_in_order(tool, records: Path) -> None:
    params = [f"DATA_DIR='{records}'", "CHECKPOINT=None", "clips.EvenClips.num_frames=4"]
    gin.parse_config_files_and_bindings(["gin/demo/probe.gin"], params)
    views, captions = tool.first_views(3)
    assert views.shape == (3, 3, 4, 40, 40, 3)
    assert captions == ["1: even", "2: odd", "3: even"]  # in the order of their ids


def position_of(view: np.ndarray, page: np.ndarray) -> tuple[int, int]:
    """Find a picture on the page by its exact pixels, and return its top and left."""
    difference = cv2.matchTemplate(page, view, cv2.TM_SQDIFF)
    top, left = np.unravel_index(difference.argmin(), difference.shape)
    height, width, _ = view.shape
    np.testing.assert_array_equal(page[top : top + height, left : left + width], view)
    return int(top), int(left)


def test_sheet_has_each_frame_in_its_place(tool) -> None:
    views = np.stack([noise_video(2 * 12, 80, 80, i).reshape(2, 12, 80, 80, 3) for i in range(2)])
    page = np.asarray(tool.sheet(views, ["1: short", "2: " + "very long " * 30]))
    # Eight frames of 160 pixels, with gaps of 2, 8 and 16 around rows, views and panels.
    assert page.shape[1] == 8 * 162 + 2 + 2 * (8 + 8 + 16)
    shown = [0, 2, 3, 5, 6, 8, 9, 11]
    tops = []
    for video in views:
        for view in video:
            places = [position_of(view[t].repeat(2, 0).repeat(2, 1), page) for t in shown]
            rows, lefts = zip(*places, strict=True)
            assert len(set(rows)) == 1 and set(np.diff(lefts)) == {162}
            tops.append(rows[0])
    within, between, also_within = np.diff(tops)
    assert 160 < within == also_within < between  # views of a video are closer to each other


def test_views_of_a_video_move_side_by_side(tool, tmp_path: Path) -> None:
    views = np.stack([noise_video(2 * 5, 160, 160, i).reshape(2, 5, 160, 160, 3) for i in range(4)])
    pictures = tool.moving(views, [f"video {i}" for i in range(4)])
    assert len(pictures) == 5
    for time, picture in enumerate(pictures):
        page = np.asarray(picture)
        (top, left), (top_2, left_2) = (position_of(view[time], page) for view in views[0])
        assert top == top_2 and left_2 - left == 160 + 8
    tool.draw(views, [f"video {i}" for i in range(4)], tmp_path / "views.webp")
    with Image.open(tmp_path / "views.webp") as picture:
        assert picture.n_frames == 5 and picture.size == pictures[0].size


@pytest.mark.parametrize("ending", ["png", pytest.param("gif", marks=pytest.mark.slow)])
def test_command(ending: str, records: Path, tmp_path: Path, child_environment: dict) -> None:
    output = tmp_path / "new" / f"views.{ending}"
    params = [f"DATA_DIR='{records}'", *SMALL]
    done = browse(child_environment, output, "gin/demo/pretrain.gin", *params)
    assert done.returncode == 0, done.stderr
    assert "3 videos x 2 views x 4 frames of 32x32 pixels" in done.stdout
    with Image.open(output) as picture:
        if ending == "png":
            assert picture.size[0] == 4 * (5 * 32 + 2) + 2 + 2 * (8 + 8 + 16)
            return
        assert picture.n_frames == 4 and picture.info["loop"] == 0
        frames = []
        for number in range(4):
            picture.seek(number)
            frames.append(np.asarray(picture.convert("RGB"), float))
            assert picture.info["duration"] == 80
    changes = [np.abs(b - a).mean() for a, b in itertools.pairwise(frames)]
    assert min(changes) > 5


@pytest.mark.slow
def test_mistakes_end_at_once_with_value_and_remedy(
    records: Path, tmp_path: Path, child_environment: dict
) -> None:
    data = f"DATA_DIR='{records}'"
    recipe = "gin/demo/pretrain.gin"
    mistakes = {
        # mistake: (name of the output, recipe, parameters, texts in the message)
        "ending": ("views.jpg", "gin/no_such.gin", [], ["views.jpg", "'.jpg'", ".png", ".webp"]),
        "no data": ("views.png", recipe, ["DATA_DIR='/no/such'"], ["/no/such", "make_tfrecords"]),
        "batch": ("views.png", recipe, [data], ["global_batch=32", "10 training examples"]),
        "no recipe": (
            "views.png",
            "gin/common/augment_paper.gin",
            [],
            ["gin/common/augment_paper.gin", "gin/pretrain/k400.gin"],
        ),
        "half a recipe": (
            "views.png",
            "gin/common/run.gin",
            [data, "run.Run.global_batch=4", "NUM_FRAMES=4", "SIZE=16", "WEIGHT_DECAY=0.0"],
            ["Run no 'task'", "gin/pretrain/k400.gin"],
        ),
    }
    for name, (output, gin_file, params, expected) in mistakes.items():
        result = browse(child_environment, tmp_path / "new" / output, gin_file, *params)
        assert result.returncode != 0, name
        for text in expected:
            assert text in result.stderr, f"{name}: {text!r} not in\n{result.stderr}"
        assert "Traceback" not in result.stderr, name
    assert not (tmp_path / "new").exists()
