"""MoCo on clips: what asks and what answers, the queue, and the loss at chance."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import replicated
import tensorflow as tf
import tf_keras as keras

from cvrl_tf.augment import presets
from cvrl_tf.losses.multi_positive import multi_positive
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.pretext.moco import MomentumContrast
from cvrl_tf.tasks.pretext.vince import Vince


def task(kind: type[MomentumContrast] = MomentumContrast, **kwargs: Any) -> MomentumContrast:
    keras.utils.set_random_seed(0)
    encoder = ResNet3D(depth=10, width=0.125, stem_pool=False)
    settings = {"queue_size": 24, "momentum": 0.9, "anneal": False, "temperature": 0.1, **kwargs}
    return kind(encoder, ProjectionHead(32, 1, 16), augment=presets.none(), **settings)


def noise(videos: int, clips: int) -> dict[str, np.ndarray]:
    frames = np.random.default_rng(0).integers(0, 256, (videos, clips, 4, 16, 16, 3), np.uint8)
    return {"frames": frames, "seeds": np.zeros((videos, clips, 2), np.int32)}


def task_and_batch() -> tuple[MomentumContrast, dict[str, np.ndarray]]:
    """What `replicated` computes."""
    model = task(weight_decay=1e-3)
    model.compile(keras.optimizers.SGD(0.01))
    return model, noise(4, 2)


def vince_and_batch() -> tuple[MomentumContrast, dict[str, np.ndarray]]:
    """What `replicated` computes."""
    model = task(Vince, weight_decay=1e-3)
    model.compile(keras.optimizers.SGD(0.01))
    return model, noise(4, 4)


def test_loss_at_chance() -> None:
    """ln(1 + K) for MoCo; ln(1 + B - F + K) for VINCE with B keys, F of a video."""
    same = tf.ones([4, 2, 16]) / 4
    for kind, chance in ((MomentumContrast, math.log(25)), (Vince, math.log(1 + 8 - 2 + 24))):
        model = task(kind)
        model._queue.keys.assign(tf.ones([24, 16]) / 4)
        result = model.losses({"queries": same, "keys": same}, {})
        np.testing.assert_allclose(result.losses, np.full(8, chance), rtol=1e-5)


def test_every_clip_asks_for_the_others() -> None:
    model, batch = task(), noise(3, 4)
    batch["frames"] = batch["frames"][:3]
    outputs = model.embed(model.views(batch), batch, training=True)
    assert outputs["queries"].shape == outputs["keys"].shape == (3, 4, 16)
    np.testing.assert_allclose(np.linalg.norm(outputs["keys"], axis=2), 1, rtol=1e-5)
    queue = model._queue.read().numpy()
    queries, keys = (tf.reshape(outputs[name], [12, 16]).numpy() for name in ("queries", "keys"))
    rows = np.arange(12)
    others = (rows[:, None] // 4 == rows // 4) & (rows[:, None] != rows)
    expected = multi_positive(queries, keys, queue, others, np.zeros_like(others), 0.1)
    result = model.losses(outputs, batch)
    np.testing.assert_allclose(result.losses, expected.losses, rtol=1e-5)
    np.testing.assert_allclose(model._queue.read()[:12], keys, rtol=1e-6)
    np.testing.assert_array_equal(model._queue.read()[12:], queue[12:])


def test_vince_asks_with_half_of_the_clips() -> None:
    model, batch = task(Vince), noise(3, 4)
    outputs = model.embed(model.views(batch), batch, training=True)
    assert outputs["queries"].shape == outputs["keys"].shape == (3, 2, 16)
    queries, keys = (tf.reshape(outputs[name], [6, 16]).numpy() for name in ("queries", "keys"))
    rows = np.arange(6)
    same = rows[:, None] // 2 == rows // 2
    expected = multi_positive(queries, keys, model._queue.read(), same, ~same, 0.1)
    np.testing.assert_allclose(model.losses(outputs, batch).losses, expected.losses, rtol=1e-5)
    with pytest.raises(ValueError, match="not 3 clips: bind clips.UniformClips.num_clips"):
        model.split(tf.zeros([1, 3, 4, 16, 16, 3]))


def test_pictures_tell_queries_from_keys() -> None:
    batch = noise(2, 4)
    assert task().shown(batch)[1] == 4 * ["video 1"] + 4 * ["video 2"]
    assert task(Vince).shown(batch)[1] == 2 * ["query", "query", "key", "key"]


def test_momentum_encoder_and_queue_receive_no_gradient() -> None:
    model, batch = task_and_batch()
    held = [*model._twins.encoder.variables, *model._twins.head.variables, model._queue.keys]
    with tf.GradientTape() as tape:
        tape.watch(held)
        objective, _ = model.compute_losses(batch, training=True)
    assert all(slope is None for slope in tape.gradient(objective, held))
    assert set(model.checkpoint_roots) == {
        *("encoder", "head", "momentum_encoder", "momentum_head", "queue")
    }


@pytest.mark.slow
@pytest.mark.parametrize("make", [task_and_batch, vince_and_batch])
def test_two_replicas_equal_one(make: Any, tmp_path: Path) -> None:
    replicated.assert_replicas_equal_one(__file__, make, tmp_path)
