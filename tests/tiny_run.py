"""Training runs of seconds, in this process or in one of their own."""

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from conftest import ROOT

from cvrl_tf import checkpoints, distribution
from cvrl_tf.augment.chain import Chain, ViewChains
from cvrl_tf.data import clips, pipeline, views
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.pretext.contrastive import ContrastiveLearner
from cvrl_tf.training.run import Run
from cvrl_tf.training.settings import Checkpointing, Execution, Optimization, Validation

STEPS_PER_EPOCH = 4  # 17 videos, batches of 4
PARAMETERS = [
    "run.Run.global_batch=4",
    "settings.Execution.log_every=1",
    "settings.Checkpointing.every=2",
    "resnet3d.ResNet3D.width=0.125",
    "clips.UniformClips.num_frames=4",
    "views.RandomResizedCrop.size=16",
]
TWO_REPLICAS = ["STRATEGY='mirrored'", "distribution.strategy.logical_cpus=2"]


def tiny_run(folder: Path, records: Path, epochs: int, seed: int = 0) -> Run:
    """A run whose steps do not depend on its length. It keeps its latest three checkpoints."""
    return Run(
        folder,
        pipeline.Pipeline(records, clips.UniformClips(4, 2, 2), views.RandomResizedCrop(16)),
        lambda: ContrastiveLearner(
            ResNet3D(depth=10, width=0.125, stem_pool=False),
            ProjectionHead(hidden_dim=16, num_hidden=1, output_dim=8),
            ViewChains([Chain([])]),
        ),
        Optimization(
            lambda learning_rate: keras.optimizers.SGD(learning_rate, momentum=0.9),
            lambda **_: 0.01,
        ),
        4,
        epochs,
        Validation(),
        Checkpointing(every=2, keep=3, best_metric="loss", extend=True),
        Execution(distribution.strategy(), seed, log_every=1),
    )


def start(
    environment: dict[str, str], records: Path, model_dir: Path, *params: str, **options: Any
) -> subprocess.Popen:
    """Starts a run in a process; its output goes to `MODEL_DIR.log` unless the options differ."""
    command = [sys.executable, "-m", "cvrl_tf.train", "--gin_file=gin/demo/pretrain.gin"]
    parameters = [f"DATA_DIR='{records}'", *PARAMETERS, *params]
    command += [f"--model_dir={model_dir}", *(f"--gin_param={p}" for p in parameters)]
    with log_of(model_dir).open("ab") as log:
        outputs = {"stdout": log, "stderr": log, "start_new_session": True, **options}
        return subprocess.Popen(command, env=environment, cwd=ROOT, **outputs)


def log_of(model_dir: Path) -> Path:
    return model_dir.parent / f"{model_dir.name}.log"


def lines(folder: Path) -> int:
    log = folder / "metrics.jsonl"
    with contextlib.suppress(FileNotFoundError):
        return log.read_bytes().count(b"\n")
    return 0


def wait_for_lines(folder: Path, count: int, run: subprocess.Popen) -> None:
    """Waits until the log has so many lines; fails if the run ends before."""
    while lines(folder) < count:
        assert run.poll() is None, log_of(folder).read_text()[-3000:]
        time.sleep(0.01)


def ended(run: subprocess.Popen, folder: Path, seconds: float = 240) -> tuple[int, str]:
    """Waits for the end of a run; its exit code and the end of what it said."""
    try:
        run.wait(seconds)
    except subprocess.TimeoutExpired:
        run.kill()
        run.wait()
        raise
    return run.returncode, log_of(folder).read_text(errors="replace")[-5000:]


@contextlib.contextmanager
def full_disk(run: subprocess.Popen) -> Iterator[None]:
    """Lets no file of a process grow beyond a little: the system refuses, as on a full disk."""
    before = resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(run.pid, resource.RLIMIT_FSIZE, before)


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """What the newest checkpoint holds, but for how often it was saved, and logs."""
    reader = tf.train.load_checkpoint(checkpoints.resolve(folder))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if not name.startswith(("save_counter", "_CHECKPOINTABLE_OBJECT_GRAPH", "metrics/"))
    }


def assert_same(folder: Path, expected: dict[str, np.ndarray]) -> None:
    """Asserts that the newest checkpoint holds these tensors, bit for bit."""
    found = tensors(folder)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def logged(folder: Path) -> list[int]:
    """Steps of the log, apart from those of epochs."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row["step"] for row in rows if "epoch" not in row]


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {
        os.fspath(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
