"""`python -m cvrl_tf.train` as a user types it, right and wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, sampling

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
) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "cvrl_tf.train", f"--gin_file={recipe}"]
    command += [f"--model_dir={model_dir}", *(f"--gin_param={p}" for p in params)]
    return subprocess.run(
        command, env=environment, cwd=ROOT, text=True, capture_output=True, timeout=120
    )


def test_trains_and_resumes(noise_records: Path, tmp_path: Path, child_environment: dict) -> None:
    data = f"DATA_DIR='{noise_records}'"
    first = train(child_environment, tmp_path / "run", data, *TINY)
    assert first.returncode == 0, first.stderr
    assert "4/4" in first.stdout and "loss" in first.stdout
    config = (tmp_path / "run" / "config.gin").read_text()
    assert "run.Run.global_batch = 4" in config and "photometric.ColorJitter.hue" in config
    more = [p for p in TINY if "epochs" not in p] + ["run.Run.epochs=2"]
    second = train(child_environment, tmp_path / "run", data, *more)
    assert second.returncode == 0, second.stderr
    assert "Resuming from" in second.stdout and "Epoch 2/2" in second.stdout
    assert "Epoch 1/2" not in second.stdout


@pytest.fixture
def empty_records(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    split = schema.SplitInfo({}, 0, {}, {}, {"a.mp4": "does not decode"})
    schema.DatasetInfo([], 64, {"train": split}).save(folder)
    return folder


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
