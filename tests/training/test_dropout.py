"""Training with dropout, interrupted and resumed, ends where the undisturbed run does."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
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


def fine_tune(folder: Path, records: Path, replicas: int, *terminate: int) -> None:
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
        Execution(
            distribution.strategy("mirrored", replicas)
            if replicas > 1
            else distribution.strategy(),
            seed=0,
            log_every=1,
        ),
    ).fit()


@pytest.mark.slow
def test_resumed_with_dropout_ends_in_the_same_weights(
    noise_records: Path, tmp_path: Path, child_environment: dict
) -> None:
    """On one replica and on two, which drop the same."""

    def of(name: str, replicas: int, *terminate: int, code: int = 0) -> Path:
        arguments = [str(each) for each in (tmp_path / name, noise_records, replicas, *terminate)]
        done = subprocess.run(
            [sys.executable, __file__, *arguments],
            env={**child_environment, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr[-3000:]
        return tmp_path / name

    expected = []
    for replicas in (1, 2):
        undisturbed = of(f"undisturbed{replicas}", replicas)
        resumed = of(f"resumed{replicas}", replicas, 2, code=75)
        of(resumed.name, replicas)
        expected.append(tensors(undisturbed))
        assert_same(resumed, expected[-1])
    steps = "optimizer/_iterations/.ATTRIBUTES/VARIABLE_VALUE"
    assert expected[0][steps] == EPOCHS * STEPS_PER_EPOCH
    for name, value in expected[0].items():
        np.testing.assert_allclose(expected[1][name], value, rtol=1e-2, atol=1e-3, err_msg=name)


if __name__ == "__main__":
    fine_tune(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
