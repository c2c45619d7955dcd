"""`python -m cvrl_tf.train` as a user types it, right and wrong."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import ROOT, noise_video, sampling, write_records

from cvrl_tf import checkpoints
from cvrl_tf.data import schema
from cvrl_tf.models.resnet3d import ResNet3D

TINY = [
    "run.Run.global_batch=4",
    "run.Run.epochs=1",
    "schedules.warmup_cosine.warmup_epochs=0",
    "resnet3d.ResNet3D.width=0.125",
    "clips.UniformClips.num_frames=4",
    "views.RandomResizedCrop.size=16",
]


def train(
    environment: dict[str, str],
    model_dir: Path,
    *params: str,
    recipe: str = "gin/demo/pretrain.gin",
    flags: Sequence[str] = (),
) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "cvrl_tf.train", f"--gin_file={recipe}"]
    command += [*flags, f"--model_dir={model_dir}", *(f"--gin_param={p}" for p in params)]
    return subprocess.run(
        command, env=environment, cwd=ROOT, text=True, capture_output=True, timeout=120
    )


@pytest.mark.slow
def test_trains_and_resumes(noise_records: Path, tmp_path: Path, child_environment: dict) -> None:
    data = f"DATA_DIR='{noise_records}'"
    first = train(child_environment, tmp_path / "run", data, *TINY)
    assert first.returncode == 0, first.stderr
    assert "4/4" in first.stdout and "loss" in first.stdout
    config = (tmp_path / "run" / "config.gin").read_text()
    assert "run.Run.global_batch = 4" in config and "photometric.ColorJitter.hue" in config
    second = train(child_environment, tmp_path / "run", data, *TINY, flags=["--extend_to=2"])
    assert second.returncode == 0, second.stderr
    assert "Resuming from" in second.stdout and "Epoch 2/2" in second.stdout
    assert "Epoch 1/2" not in second.stdout
    assert "Extended from 1 to 2 epochs" in second.stdout


MONITORS = """
from __gin__ import dynamic_registration
import tf_keras
from cvrl_tf.training import settings
settings.Validation.monitors = [@tf_keras.callbacks.EarlyStopping()]
tf_keras.callbacks.EarlyStopping.monitor = 'loss'
tf_keras.callbacks.EarlyStopping.min_delta = 100
tf_keras.callbacks.EarlyStopping.patience = 1
"""


@pytest.mark.slow
def test_keras_ends_a_run_early(
    noise_records: Path, tmp_path: Path, child_environment: dict
) -> None:
    data = f"DATA_DIR='{noise_records}'"
    (tmp_path / "monitors.gin").write_text(MONITORS)
    flags = [f"--gin_file={tmp_path / 'monitors.gin'}"]
    params = [data, *TINY, "run.Run.epochs=5"]
    first, second = (
        train(child_environment, tmp_path / "run", *params, flags=flags) for _ in range(2)
    )
    for done in (first, second):
        assert done.returncode == 0, done.stderr
        assert "EarlyStopping ended the run early, at step 8, after 2 of 5 epochs" in done.stdout
    assert "Epoch" not in second.stdout
    third = train(child_environment, tmp_path / "run", *params, "STRIDE=1")
    assert third.returncode == 1, third.stdout
    assert "input.clips.stride was 2 and is 1. Rerun the command of before" in third.stderr
    assert "Traceback" not in third.stderr


@pytest.mark.slow
def test_runs_that_would_learn_nothing_end_at_once(
    noise_records: Path, tmp_path: Path, child_environment: dict
) -> None:
    data = f"DATA_DIR='{noise_records}'"
    one = write_records(tmp_path / "one", [noise_video(24, 48, 64, 0)], num_shards=1)
    mistakes = {
        "warmup_epochs=2 leaves nothing of the 1 epochs": [data, *TINY[:2], *TINY[3:]],
        "The learning rate is 0": [data, *TINY, "schedules.warmup_cosine.learning_rate=0.0"],
        "there are 1 training examples": [f"DATA_DIR='{one}'", *TINY, "run.Run.global_batch=1"],
        "--gin_param=SIZ=...: the recipe has no such macro. It has SIZE.": [data, *TINY, "SIZ=3"],
    }
    for message, params in mistakes.items():
        done = train(child_environment, tmp_path / "never", *params)
        assert done.returncode == 1 and message in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    more = train(child_environment, tmp_path / "never", data, *TINY, flags=["--extend_to=2"])
    assert more.returncode == 1 and "holds no checkpoint of a run" in more.stderr
    assert not (tmp_path / "never").exists()


@pytest.fixture
def empty_records(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    split = schema.SplitInfo({}, 0, {}, {}, {"a.mp4": "does not decode"})
    schema.DatasetInfo([], 64, {"train": split}).save(folder)
    return folder


@pytest.mark.slow
def test_mistakes_end_at_once_with_value_and_remedy(
    noise_records: Path, empty_records: Path, tmp_path: Path, child_environment: dict
) -> None:
    data = f"DATA_DIR='{noise_records}'"
    run = tmp_path / "run"
    encoder = ResNet3D(depth=10, width=0.125)
    encoder.build()
    checkpoints.save_as_run(encoder, sampling(4, 16), run)
    mirrored = ["STRATEGY='mirrored'", "distribution.strategy.logical_cpus=2"]
    deeper = [data, *TINY, f"settings.Checkpointing.initial='{run}'", "resnet3d.ResNet3D.depth=18"]
    mistakes = {
        # what is wrong: (parameters, recipe, what the message must say)
        "misspelt parameter": (
            [data, "run.Run.global_bach=4"],
            "gin/demo/pretrain.gin",
            ["global_bach", "Run"],
        ),
        "renamed parameter": (
            [data, "runner.Run.seed=1"],
            "gin/demo/pretrain.gin",
            ["runner.Run.seed is settings.Execution.seed now"],
        ),
        "unset required one": ([], "gin/demo/pretrain.gin", ["DATA_DIR"]),
        "no such folder": (
            ["DATA_DIR='/no/such/records'"],
            "gin/demo/pretrain.gin",
            ["/no/such/records", "tools/make_tfrecords.py"],
        ),
        "empty data set": (
            [f"DATA_DIR='{empty_records}'"],
            "gin/demo/pretrain.gin",
            ["'train' is empty", "1 videos were skipped", "dataset_info.json"],
        ),
        "batch that replicas don't divide": (
            [data, *mirrored, *TINY, "run.Run.global_batch=5"],
            "gin/demo/pretrain.gin",
            ["global_batch=5", "2 replicas", "such as 4"],
        ),
        "checkpoint of another depth": (
            deeper,
            "gin/demo/pretrain.gin",
            [checkpoints.resolve(run), "another depth or width", "missing there: encoder/blocks/"],
        ),
        "no such recipe": ([data], "gin/no_such.gin", ["gin/no_such.gin"]),
    }
    for name, (params, recipe, expected) in mistakes.items():
        result = train(child_environment, tmp_path / "never", *params, recipe=recipe)
        assert result.returncode != 0, name
        for text in expected:
            assert text in result.stderr, f"{name}: {text!r} not in\n{result.stderr}"
        assert "Traceback" not in result.stderr, name
        assert not os.path.exists(tmp_path / "never"), name
