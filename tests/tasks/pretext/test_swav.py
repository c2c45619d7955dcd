"""SwAV: the loss against SlowFast's, prototypes of unit length that stand still at first."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import replicated
import tensorflow as tf
import tf_keras as keras
from official.modeling.optimization import lars

from cvrl_tf.augment import presets
from cvrl_tf.losses.sinkhorn import Sinkhorn
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.pretext.swav import Swav, prototypes_used


def swav(num_prototypes: int = 12, frozen: float = 0.0, **kwargs: Any) -> Swav:
    keras.utils.set_random_seed(0)
    encoder = ResNet3D(depth=10, width=0.125, stem_pool=False)
    head = ProjectionHead(32, 1, 8)
    return Swav(
        encoder,
        head,
        num_prototypes,
        0.1,
        Sinkhorn(0.05, 3),
        frozen,
        augment=presets.none(),
        **kwargs,
    )


def noise(videos: int) -> dict[str, np.ndarray]:
    frames = np.random.default_rng(0).integers(0, 256, (videos, 2, 4, 16, 16, 3), np.uint8)
    return {"frames": frames, "seeds": np.zeros((videos, 2, 2), np.int32)}


def task_and_batch() -> tuple[Swav, dict[str, np.ndarray]]:
    """What `replicated` computes."""
    model = swav(frozen=0.5, weight_decay=1e-3)  # the prototypes move in the second step alone
    model.compile(keras.optimizers.SGD(0.01))
    return model, noise(4)


def outputs(videos: int, clips: int, prototypes: int) -> dict[str, tf.Tensor]:
    rng = np.random.default_rng(0)
    scores = np.tanh(rng.normal(size=(videos, clips, prototypes))).astype(np.float32)
    return {"scores": tf.constant(scores)}


def authors(scores: np.ndarray, assigned: int) -> float:
    """As SlowFast's models/contrastive.py has it: the mean over the first `assigned` clips, two
    there, of how well the others predict their codes."""
    clips = scores.shape[1]
    total = 0.0
    for crop in range(assigned):
        q = np.exp(scores[:, crop].astype(float) / 0.05)
        q /= q.sum()
        for _ in range(3):
            q *= (1 / q.shape[1] / q.sum(axis=0))[None]
            q *= (1 / q.shape[0] / q.sum(axis=1))[:, None]
        q /= q.sum(axis=1, keepdims=True)
        loss = 0.0
        for v in set(range(clips)) - {crop}:
            p = np.exp(scores[:, v].astype(float) / 0.1)
            p /= p.sum(axis=1, keepdims=True)
            loss -= np.mean(np.sum(q * np.log(p), axis=1))
        total += loss / (clips - 1)
    return total / assigned


@pytest.mark.parametrize("clips", [2, 4])
def test_loss_is_the_authors(clips: int) -> None:
    given = outputs(6, clips, 12)
    found = swav().losses(given, {}).losses
    assert found.shape == (6 * clips,)
    expected = authors(given["scores"].numpy(), assigned=clips)
    np.testing.assert_allclose(tf.reduce_mean(found), expected, rtol=1e-5)


def test_loss_at_chance() -> None:
    """ln K, and so for a collapse, where all scores of a prototype are the same."""
    for scores in (tf.zeros([3, 2, 1000]), tf.fill([3, 2, 1000], 0.7)):
        result = swav(1000).losses({"scores": scores}, {})
        np.testing.assert_allclose(result.losses, np.full(6, 6.907755), rtol=1e-6)
        assert float(result.metrics["prototypes_used"]) == pytest.approx(1 / 1000)
        np.testing.assert_allclose(result.metrics["code_entropy"], np.full(6, 6.907755), rtol=1e-6)


def test_prototypes_used() -> None:
    assert prototypes_used(tf.eye(6)[:3, None]) == 0.5
    assert float(prototypes_used(tf.ones([4, 2, 6]))) == pytest.approx(1 / 6)


def test_codes_receive_no_gradient() -> None:
    given = outputs(4, 2, 12)
    scores, model = given["scores"], swav()
    with tf.GradientTape() as tape:
        tape.watch(scores)
        loss = tf.reduce_sum(model.losses(given, {}).losses)
    codes = Sinkhorn(0.05, 3)(scores)
    expected = (tf.nn.softmax(scores / 0.1) - tf.reverse(codes, [1])) / 0.1
    np.testing.assert_allclose(tape.gradient(loss, scores), expected, rtol=1e-4, atol=1e-5)


def test_scores_are_cosines() -> None:
    model, batch = task_and_batch()
    found = model.embed(model.views(batch), batch, training=True)
    assert found["scores"].shape == (4, 2, 12)
    frames = tf.reshape(model.views(batch), [8, 4, 16, 16, 3])
    z = model.head(model.encoder(frames, training=True), training=True).numpy()
    w = model.prototypes.kernel.numpy()
    np.testing.assert_allclose(np.linalg.norm(w, axis=0), 1, rtol=1e-6)
    cosines = z @ w / np.linalg.norm(z, axis=1, keepdims=True)
    np.testing.assert_allclose(tf.reshape(found["scores"], [8, 12]), cosines, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9),
        lambda: lars.LARS(10.0, momentum=0.9, weight_decay_rate=1e-6),
    ],
)
def test_prototypes_stand_still_at_first(
    optimizer: Callable[[], keras.optimizers.Optimizer],
) -> None:
    """Then they move, of unit length. The step alone says when, so that runs resume."""
    model, batch = swav(frozen=0.02), noise(4)
    model.compile(optimizer())
    with pytest.raises(ValueError, match="total_steps before `fit`"):
        model.gradients(batch)
    model.total_steps = 100
    kernel, other = model.prototypes.kernel, model.head.output_layer.kernel
    held, seen = [kernel.numpy()], [other.numpy()]
    for _ in range(4):
        model.train_step(batch)
        held.append(kernel.numpy())
        seen.append(other.numpy())
    changes = [np.abs(new - old).max() for old, new in itertools.pairwise(held)]
    assert max(changes[:2]) < 1e-6 and min(changes[2:]) > 1e-4
    assert min(np.abs(new - old).max() for old, new in itertools.pairwise(seen)) > 1e-5
    np.testing.assert_allclose(np.linalg.norm(held[-1], axis=0), 1, rtol=1e-5)


def test_prototypes_have_no_weight_decay() -> None:
    model = swav(weight_decay=1.0)
    before = model.weight_decay_loss().numpy()
    model.prototypes.kernel.assign(2 * model.prototypes.kernel)
    assert model.weight_decay_loss().numpy() == before > 0


def test_a_checkpoint_has_the_prototypes() -> None:
    model = swav()
    assert set(model.checkpoint_roots) == {"encoder", "head", "prototypes"}
    assert set(model.export_facts) == {"head"}


@pytest.mark.slow
def test_training_tells_videos_apart() -> None:
    """Whose color both clips share. A collapse would leave the loss at ln 12."""
    rng = np.random.default_rng(0)
    colors = rng.uniform(60, 190, (60, 8, 1, 1, 1, 1, 3))
    frames = (colors + rng.normal(scale=10, size=(60, 8, 2, 4, 16, 16, 3))).clip(0, 255)
    model = swav()
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    data = tf.data.Dataset.from_tensor_slices(frames.astype(np.uint8))
    history = [model.fit(data, verbose=0).history for _ in range(2)]
    assert history[-1]["loss"][0] < 0.7 * np.log(12)
    assert history[-1]["prototypes_used"][0] > 0.3
    assert history[-1]["code_entropy"][0] < 0.7 * np.log(12)


@pytest.mark.slow
def test_two_replicas_equal_one(tmp_path: Path) -> None:
    replicated.assert_replicas_equal_one(__file__, task_and_batch, tmp_path)
