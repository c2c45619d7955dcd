"""Recomputed blocks give the same numbers with less memory."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from conftest import ROOT
from memory import peak_kib

from cvrl_tf.models.resnet3d import DEPTHS, ResNet3D

CLIPS = np.random.default_rng(0).uniform(size=(4, 4, 32, 32, 3)).astype(np.float32)


def outcome(recompute: bool, depth: int, under_xla: bool) -> dict[str, list[np.ndarray]]:
    """Return features, gradients and moving statistics after a step on CLIPS."""
    keras.utils.set_random_seed(0)
    encoder = ResNet3D(depth, width=0.125, recompute=recompute)
    encoder.build()

    @tf.function(jit_compile=under_xla)
    def step(frames: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            features = encoder(frames, training=True)
            loss = tf.reduce_sum(tf.sin(features))
        return features, tape.gradient(loss, encoder.trainable_variables)

    features, gradients = step(tf.constant(CLIPS))
    return {
        "features": [features.numpy()],
        "gradients": [gradient.numpy() for gradient in gradients],
        "statistics": [v.numpy() for v in encoder.non_trainable_variables],
    }


def assert_same(ours: dict, expected: dict) -> None:
    for name, values in expected.items():
        scale = max(np.abs(value).max() for value in values)
        assert scale > 0
        for one, other in zip(ours[name], values, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * scale, err_msg=name)


@pytest.mark.addons
@pytest.mark.parametrize(
    ("is_bottleneck", "under_xla"),
    [pytest.param(False, True, marks=pytest.mark.slow), (True, False)],
)
def test_the_same_numbers(
    is_bottleneck: bool, under_xla: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    depth = 14 if is_bottleneck else 10
    monkeypatch.setitem(DEPTHS, 14, ((1, 1, 1, 1), True))
    expected = outcome(False, depth, under_xla)
    assert_same(outcome(True, depth, under_xla), expected)


@pytest.mark.slow
def test_less_memory(child_environment: dict[str, str]) -> None:
    """Return the peak memory of a step of R3D-50 without weights and clips, head and optimizer."""
    code = "import test_recomputation as this; this.main_memory({})"
    child_environment["PYTHONPATH"] += f":{ROOT / 'tests'}:{ROOT / 'tests' / 'models'}"
    peaks = {}
    for recompute in (False, True):
        command = [sys.executable, "-c", code.format(recompute)]
        done = subprocess.run(command, env=child_environment, check=True, capture_output=True)
        peaks[recompute] = json.loads(done.stdout.splitlines()[-1])
    assert peaks[True] < 0.6 * peaks[False], peaks


def main_memory(recompute: bool) -> None:
    encoder = ResNet3D(50, recompute=recompute)
    encoder.build()
    clips = tf.zeros([12, 16, 112, 112, 3])

    @tf.function
    def step(clips: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(encoder(clips, training=True))
        gradients = tape.gradient(loss, encoder.trainable_variables)
        return tf.add_n([tf.reduce_sum(gradient) for gradient in gradients])

    step.get_concrete_function(clips)

    before = peak_kib()
    step(clips)
    print(json.dumps(peak_kib() - before))


def test_names_and_old_configs() -> None:
    plain, other = ResNet3D(10, width=0.125), ResNet3D(10, width=0.125, recompute=True)
    plain.build()
    other.build()
    assert [v.shape for v in plain.variables] == [v.shape for v in other.variables]
    config = other.get_config()
    assert ResNet3D.from_config(config).get_config() == config
    del config["recompute"]
    assert ResNet3D.from_config(config).get_config() == plain.get_config()
