"""BYOL: targets of the momentum encoder, the loss, and what a checkpoint and an export hold."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import replicated
import tensorflow as tf
import tf_keras as keras

from cvrl_tf.augment import presets
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.pretext.byol import Byol


def byol(**kwargs: Any) -> Byol:
    keras.utils.set_random_seed(0)
    encoder = ResNet3D(depth=10, width=0.125, stem_pool=False)
    heads = ProjectionHead(32, 1, 16), ProjectionHead(8, 1, 16)
    model = Byol(encoder, *heads, momentum=0.9, augment=presets.none(), **kwargs)
    model.total_steps = 30
    return model


def noise(videos: int, clips: int = 2) -> dict[str, np.ndarray]:
    frames = np.random.default_rng(0).integers(0, 256, (videos, clips, 4, 16, 16, 3), np.uint8)
    return {"frames": frames, "seeds": np.zeros((videos, clips, 2), np.int32)}


def task_and_batch() -> tuple[Byol, dict[str, np.ndarray]]:
    """What `replicated` computes."""
    model = byol(weight_decay=1e-3)
    model.compile(keras.optimizers.SGD(0.01))
    return model, noise(4)


@pytest.mark.parametrize(("sign", "expected"), [(1, -2), (0, 0), (-1, 2)])
def test_loss_of_equal_orthogonal_and_opposite(sign: int, expected: float) -> None:
    one, other = np.eye(2, dtype=np.float32)
    clips = tf.constant(np.tile(one, (3, 2, 1)))
    targets = tf.constant(np.tile(sign * one if sign else other, (3, 2, 1)))
    outputs = {
        "predictor": clips,
        "head": clips,
        "targets": targets,
        "features": tf.ones([3, 2, 64]),
    }
    np.testing.assert_allclose(byol().losses(outputs, {}).losses, np.full(6, expected), atol=1e-6)


def test_targets_are_of_the_momentum_encoder() -> None:
    model, batch = byol(), noise(3, clips=4)
    model.encoder.stem.conv.kernel.assign_add(tf.ones_like(model.encoder.stem.conv.kernel))
    views = model.views(batch)
    outputs = model.embed(views, batch, training=True)
    assert outputs["targets"].shape == outputs["predictor"].shape == (3, 4, 16)
    again = model._twins(tf.reshape(views, [-1, *views.shape[2:]]))
    np.testing.assert_allclose(
        tf.reshape(outputs["targets"], [12, 16]), again, rtol=1e-4, atol=1e-5
    )
    assert np.abs(outputs["targets"] - outputs["head"]).max() > 1e-3
    held = [*model._twins.encoder.variables, *model._twins.head.variables]
    with tf.GradientTape() as tape:
        tape.watch(held)
        objective, _ = model.compute_losses(batch, training=True)
    assert all(slope is None for slope in tape.gradient(objective, held))


def test_a_step_moves_the_momentum_encoder_by_the_cosine() -> None:
    model, batch = task_and_batch()
    before = model._twins.encoder.stem.conv.kernel.numpy()
    model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    after = model.encoder.stem.conv.kernel.numpy()
    m = 1 - 0.1 * (np.cos(np.pi / 30) + 1) / 2  # after the first of 30 steps
    found = model._twins.encoder.stem.conv.kernel
    np.testing.assert_allclose(found, m * before + (1 - m) * after, rtol=1e-5, atol=1e-8)
    assert set(model.checkpoint_roots) == {
        *("encoder", "head", "predictor", "momentum_encoder", "momentum_head")
    }
    assert set(model.export_facts) == {"head"}


@pytest.mark.slow
def test_two_replicas_equal_one(tmp_path: Path) -> None:
    replicated.assert_replicas_equal_one(__file__, task_and_batch, tmp_path)
