"""VTHCL: the loss against CMC's, the queues of keys, both tempos out of records."""

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import replicated
import tensorflow as tf
import tf_keras as keras
from conftest import ramp_video, write_records

from cvrl_tf.augment import presets
from cvrl_tf.data import clips, pipeline, views
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.pretext.vthcl import Vthcl

HEADS = ("stage3_head", "stage4_head")


def vthcl(queue_size: int = 24, stages: tuple[int, ...] = (3, 4), **kwargs: Any) -> Vthcl:
    keras.utils.set_random_seed(0)
    encoder = ResNet3D(depth=10, width=0.125, stem_pool=False)
    head = functools.partial(ProjectionHead, num_hidden=0, output_dim=8)
    return Vthcl(encoder, head, stages, queue_size, 0.07, presets.none(), **kwargs)


def noise(videos: int) -> dict[str, np.ndarray]:
    frames = np.random.default_rng(0).integers(0, 256, (videos, 2, 4, 16, 16, 3), np.uint8)
    return {"frames": frames, "seeds": np.zeros((videos, 2, 2), np.int32)}


def task_and_batch() -> tuple[Vthcl, dict[str, np.ndarray]]:
    """What `replicated` computes."""
    model = vthcl(weight_decay=1e-3)
    model.compile(keras.optimizers.SGD(0.01))
    return model, noise(4)


def embeddings(videos: int) -> dict[str, tf.Tensor]:
    rng = np.random.default_rng(0)
    drawn = {name: rng.normal(size=(videos, 2, 8)).astype(np.float32) for name in HEADS}
    return {name: tf.math.l2_normalize(x, axis=2) for name, x in drawn.items()}


def cmc(x: np.ndarray, slow_bank: np.ndarray, fast_bank: np.ndarray, t: float) -> np.ndarray:
    """As CMC's NCE/NCEAverage.py and NCECriterion.py have it with `--softmax`, in float64: each
    modality against the K + 1 keys of the other one, of which the first is the positive. There all
    come from a memory."""
    losses = []
    for slow, fast in x.astype(float):
        to_fast = np.concatenate([[fast], fast_bank.astype(float)]) @ slow / t
        to_slow = np.concatenate([[slow], slow_bank.astype(float)]) @ fast / t
        losses.append(sum(np.log(np.exp(out).sum()) - out[0] for out in (to_fast, to_slow)))
    return np.array(losses)


@pytest.mark.parametrize("stages", [(4,), (3, 4)])
def test_loss_at_chance(stages: tuple[int, ...]) -> None:
    """2 D ln(1 + K), for D stages."""
    model = vthcl(16384, stages=stages)
    same = np.full([2, 2, 8], 8**-0.5, np.float32)
    for queue in model._queues.values():
        queue.keys.assign(np.full([16384, 8], 8**-0.5))
    result = model.losses({f"stage{number}_head": tf.constant(same) for number in stages}, {})
    np.testing.assert_allclose(result.losses, np.full(2, 2 * len(stages) * 9.70412), rtol=1e-6)
    assert math.log(16384 + 1) == pytest.approx(9.70412, rel=1e-6)


def test_pictures_tell_the_tempos() -> None:
    assert vthcl().shown(noise(2))[1] == 2 * ["slow", "fast"]


def test_loss_is_that_of_cmc_at_each_depth() -> None:
    model, outputs = vthcl(), embeddings(4)
    banks = {name: queue.read().numpy() for name, queue in model._queues.items()}
    expected = sum(
        cmc(x.numpy(), banks[f"slow_{name}_queue"], banks[f"fast_{name}_queue"], 0.07)
        for name, x in outputs.items()
    )
    found = model.losses(outputs, {})
    np.testing.assert_allclose(found.losses, expected, rtol=1e-5)
    assert found.metrics["contrastive_accuracy"].shape == (4,)


def test_keys_go_to_the_queue_of_their_tempo_and_stage() -> None:
    model, outputs = vthcl(), embeddings(4)
    before = {name: queue.read().numpy() for name, queue in model._queues.items()}
    assert len(before) == 4
    model.losses(outputs, {})
    for name, x in outputs.items():
        for clip, tempo in enumerate(("slow", "fast")):
            found = model._queues[f"{tempo}_{name}_queue"].read().numpy()
            np.testing.assert_array_equal(found[:4], x[:, clip])
            np.testing.assert_array_equal(found[4:], before[f"{tempo}_{name}_queue"][4:])
    assert set(model.checkpoint_roots) == {"encoder", *HEADS, *before}


def test_keys_receive_no_gradient() -> None:
    """That of a slow embedding is of the search for the fast one alone."""
    model, outputs = vthcl(stages=(4,)), embeddings(2)
    x, bank = outputs["stage4_head"], model._queues["fast_stage4_head_queue"].read()
    held = [queue.keys for queue in model._queues.values()]
    with tf.GradientTape() as tape:
        tape.watch([x, *held])
        loss = tf.reduce_sum(model.losses({"stage4_head": x}, {}).losses)
    found, *others = tape.gradient(loss, [x, *held])
    assert others == [None, None]
    slow, fast = x[:, 0].numpy().astype(float), x[:, 1].numpy()
    for row, (query, key) in enumerate(zip(slow, fast, strict=True)):
        candidates = np.concatenate([[key], bank.numpy()])
        p = np.exp(candidates @ query / 0.07)
        expected = (p @ candidates / p.sum() - key) / 0.07
        np.testing.assert_allclose(found[row, 0], expected, rtol=1e-4, atol=1e-5)


def test_embeddings_are_of_the_stages() -> None:
    model, batch = vthcl(), noise(3)
    outputs = model.embed(model.views(batch), batch, training=True)
    frames = tf.reshape(model.views(batch), [6, 4, 16, 16, 3])
    maps = model.encoder.feature_maps(frames, training=True)
    for number in (3, 4):
        found = outputs[f"stage{number}_head"]
        pooled = tf.reduce_mean(maps[number], axis=[1, 2, 3])
        head = getattr(model, f"stage{number}_head")
        expected = tf.math.l2_normalize(head(pooled), axis=1)
        np.testing.assert_allclose(tf.reshape(found, [6, 8]), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="not 3 clips: bind clips.PacedClips.paces to two"):
        model.embed(tf.zeros([1, 3, 4, 16, 16, 3]), {}, training=True)


def test_tempos_are_those_of_the_pixels(tmp_path: Path) -> None:
    """The gray value is the frame's number: slow clips step twice as far as fast ones."""
    folder = write_records(tmp_path, [ramp_video(40, 32, 32) for _ in range(8)])
    sampler = clips.PacedClips(num_frames=8, stride=2, paces=(2, 1))
    data = pipeline.Pipeline(folder, sampler, views.RandomResizedCrop(16))
    (batch,) = data.train_batches(8).take(1)
    gray = np.round(batch["frames"].numpy().mean(axis=(3, 4, 5)) / 4)
    assert gray.shape == (8, 2, 8)
    np.testing.assert_array_equal(np.diff(gray, axis=2), [[[4] * 7, [2] * 7]] * 8)
    assert len(np.unique(gray[:, 0, 0] - gray[:, 1, 0])) > 2  # their starts are independent


@pytest.mark.slow
def test_training_tells_videos_apart() -> None:
    """Whose color both clips share."""
    rng = np.random.default_rng(0)
    colors = rng.uniform(60, 190, (60, 8, 1, 1, 1, 1, 3))
    frames = (colors + rng.normal(scale=10, size=(60, 8, 2, 4, 16, 16, 3))).clip(0, 255)
    model = vthcl(queue_size=32)
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9))
    data = tf.data.Dataset.from_tensor_slices(frames.astype(np.uint8))
    history = [model.fit(data, verbose=0).history for _ in range(2)]
    assert history[-1]["loss"][0] < 0.6 * 4 * math.log(33)
    assert history[-1]["contrastive_accuracy"][0] > 0.5


@pytest.mark.slow
def test_two_replicas_equal_one(tmp_path: Path) -> None:
    replicated.assert_replicas_equal_one(__file__, task_and_batch, tmp_path)
