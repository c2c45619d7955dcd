"""Training with dropout, interrupted and resumed, ends where the undisturbed run does."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from tiny_run import assert_same, tensors

from cvrl_tf import distribution
from cvrl_tf.augment.chain import Chain, ViewChains
from cvrl_tf.data import clips, pipeline, views
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.classify import Classifier
from cvrl_tf.training.run import Run
from cvrl_tf.training.settings import Checkpointing, Execution, Optimization, Validation

EPOCHS, STEPS_PER_EPOCH = 2, 4  # 17 videos, batches of 4


class Terminate(keras.callbacks.Callback):
    """SIGTERM in a step."""

    metric_names = ()

    def __init__(self, steps_done: int) -> None:
        super().__init__()
        self.steps_done = steps_done

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        if self.model.optimizer.iterations.numpy() == self.steps_done:
            os.kill(os.getpid(), signal.SIGTERM)


def fine_tune(
    folder: Path, records: Path, strategy: tf.distribute.Strategy, *terminate: int
) -> None:
    """Fine-tune with dropout 0.5."""
    Run(
        folder,
        pipeline.Pipeline(records, clips.UniformClips(4, 2, 1), views.RandomResizedCrop(16)),
        lambda: Classifier(
            ResNet3D(depth=10, width=0.125, stem_pool=False),
            num_classes=2,
            freeze_encoder=False,
            augment=ViewChains([Chain()]),
            dropout=0.5,
        ),
        Optimization(
            lambda learning_rate: keras.optimizers.SGD(learning_rate, momentum=0.9),
            lambda **_: 0.01,
        ),
        4,
        EPOCHS,
        Validation(monitors=[Terminate(steps) for steps in terminate]),
        Checkpointing(every=100, keep=3),
        Execution(strategy, seed=0, log_every=1),
    ).fit()


@pytest.mark.slow
def test_resumed_with_dropout_ends_in_the_same_weights(
    noise_records: Path, tmp_path: Path, child_environment: dict
) -> None:
    """On one replica and on two, which drop the same."""

    def train(replicas: int, *folders: str) -> int:
        done = subprocess.run(
            [sys.executable, __file__, str(noise_records), str(replicas), *folders],
            env={**child_environment, "PYTHONPATH": os.pathsep.join(sys.path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode in (0, 75), done.stderr[-3000:]
        return done.returncode

    losses = []
    for replicas in (1, 2):
        undisturbed, resumed = f"undisturbed{replicas}", f"resumed{replicas}"
        assert train(replicas, undisturbed, f"{resumed}@2") == 75
        assert train(replicas, resumed) == 0
        assert_same(tmp_path / resumed, tensors(tmp_path / undisturbed))
        log = (tmp_path / undisturbed / "metrics.jsonl").read_text().splitlines()
        steps = [line for line in map(json.loads, log) if "epoch" not in line]
        assert [step["step"] for step in steps] == list(range(1, EPOCHS * STEPS_PER_EPOCH + 1))
        losses.append([step["train/loss"] for step in steps])
    np.testing.assert_allclose(losses[0][0], losses[1][0], rtol=1e-5)  # of the same masks
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.02)


def main(records: str, replicas: str, *folders: str) -> None:
    """Fine-tune in each folder; "FOLDER@2" ends with exit code 75, in the third step."""
    two = replicas == "2"
    strategy = distribution.strategy("mirrored", logical_cpus=2) if two else distribution.strategy()
    for each in folders:
        folder, *steps = each.split("@")
        fine_tune(Path(folder), Path(records), strategy, *map(int, steps))


if __name__ == "__main__":
    main(*sys.argv[1:])
