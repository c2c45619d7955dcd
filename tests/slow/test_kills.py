"""A training run killed at any moment ends where the undisturbed one does.

Bit for bit, on the same kind of CPU with the same number of threads.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, logged_steps

from cvrl_tf import checkpoints

KILLS = 5  # of each run
TIMING = ("second", "memory")
PARAMETERS = [
    "STRATEGY='mirrored'",
    "distribution.strategy.logical_cpus=2",
    "run.Run.global_batch=4",  # of 17 videos: 4 steps an epoch
    "run.Run.epochs=15",
    "settings.Execution.log_every=1",
    "settings.Checkpointing.every=10",
    "settings.Checkpointing.best_metric='loss'",
    "resnet3d.ResNet3D.width=0.125",
    "clips.UniformClips.num_frames=4",
    "views.RandomResizedCrop.size=16",
]


def start(environment: dict[str, str], records: Path, model_dir: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "cvrl_tf.train", "--gin_file=gin/demo/pretrain.gin"]
    parameters = [f"DATA_DIR='{records}'", *PARAMETERS]
    command += [f"--model_dir={model_dir}", *(f"--gin_param={p}" for p in parameters)]
    with (model_dir.parent / f"{model_dir.name}.log").open("a") as log:
        return subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
        )


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """What the last checkpoint holds, but for how often it was saved, and logs."""
    reader = tf.train.load_checkpoint(checkpoints.resolve(folder))
    names = reader.get_variable_to_shape_map()
    return {
        name: reader.get_tensor(name)
        for name in names
        if not name.startswith(("save_counter", "_CHECKPOINTABLE_OBJECT_GRAPH", "metrics/"))
    }


def lines(folder: Path) -> int:
    log = folder / "metrics.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


def metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in x.items() if not any(t in k for t in TIMING)} for x in lines]


def shown(folder: Path) -> list[tuple]:
    """Tags and steps in TensorBoard."""
    return sorted(
        (tag, step)
        for tag, steps in logged_steps(folder / "tensorboard").items()
        for step in steps
        if not any(word in tag for word in TIMING)
    )


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_runs_end_in_the_undisturbed_weights(
    seed: int, noise_records: Path, tmp_path: Path, child_environment: dict
) -> None:
    undisturbed = tmp_path / "undisturbed"
    run = start(child_environment, noise_records, undisturbed)
    while not lines(undisturbed) and run.poll() is None:
        time.sleep(0.01)
    begin = time.monotonic()
    assert run.wait(timeout=300) == 0, (tmp_path / "undisturbed.log").read_text()
    step = (time.monotonic() - begin) / 60
    expected = tensors(undisturbed)
    assert len(expected) > 100 and len(metrics(undisturbed)) == 60 + 15
    assert expected["optimizer/_iterations/.ATTRIBUTES/VARIABLE_VALUE"] == 60

    generator = random.Random(seed)
    folder = tmp_path / "killed"
    log = tmp_path / "killed.log"
    for stretch in range(KILLS):
        run = start(child_environment, noise_records, folder)
        # Not a time, for other tests take their share. It is behind where the last kill was.
        count = 13 * stretch + generator.randrange(3, 13)  # of 75
        while lines(folder) < count and run.poll() is None:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, step))
        os.killpg(run.pid, signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL, log.read_text()
    run = start(child_environment, noise_records, folder)
    assert run.wait(timeout=300) == 0, log.read_text()
    found = tensors(folder)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    for ours, theirs in zip(metrics(folder), metrics(undisturbed), strict=True):
        # Replicas sum their shares of an epoch's mean, and a resumed one's are equal ones.
        assert ours == pytest.approx(theirs, rel=1e-6)
    assert shown(folder) == shown(undisturbed)
