"""Rotation prediction: turns, labels, and that only what has an up can be learned."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import replicated
import tensorflow as tf
import tf_keras as keras

from cvrl_tf.augment import presets
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.pretext.rotation import RotationPrediction, quarter_turns


def rotation(**kwargs: Any) -> RotationPrediction:
    keras.utils.set_random_seed(0)
    encoder = ResNet3D(depth=10, width=0.125, stem_pool=False)
    return RotationPrediction(encoder, presets.none(), **kwargs)


def batch_of(frames: np.ndarray) -> dict[str, tf.Tensor]:
    """frames: [B, T, H, W, 3], one clip a video."""
    seeds = tf.zeros([len(frames), 1, 2], tf.int32)
    return {"frames": tf.constant(frames[:, None].astype(np.uint8)), "seeds": seeds}


def noise(videos: int) -> dict[str, tf.Tensor]:
    rng = np.random.default_rng(0)
    return batch_of(rng.integers(0, 256, (videos, 4, 16, 16, 3)))


def bright_above(videos: int, seed: int) -> dict[str, tf.Tensor]:
    """Videos that are brighter above than below, with noise."""
    rng = np.random.default_rng(seed)
    slopes = np.linspace(60, -60, 16)[:, None, None] * rng.uniform(0.5, 1, (videos, 1, 1, 1, 1))
    frames = rng.uniform(100, 150, (videos, 1, 1, 1, 3)) + slopes
    return batch_of((frames + rng.normal(scale=5, size=(videos, 4, 16, 16, 3))).clip(0, 255))


def task_and_batch() -> tuple[RotationPrediction, dict[str, np.ndarray]]:
    """What `replicated` computes."""
    model = rotation(weight_decay=1e-3)
    model.compile(keras.optimizers.SGD(0.01))
    return model, {name: rows.numpy() for name, rows in noise(4).items()}


def turns_of(frame: np.ndarray) -> np.ndarray:
    """The four turns of a frame [H, W], [4, H, W]."""
    clip = np.broadcast_to(frame[None, None, None, :, :, None], (1, 1, 2, *frame.shape, 3))
    turned = quarter_turns(tf.constant(clip)).numpy()
    np.testing.assert_array_equal(turned, turned[:, :, :1, ..., :1] + np.zeros_like(turned))
    return turned[0, :, 0, ..., 0]


def test_pictures_tell_the_turns() -> None:
    model, batch = rotation(), noise(2)
    clips, captions = model.shown(batch)
    assert captions == 2 * [f"turned by {angle}°" for angle in (0, 90, 180, 270)]
    for turns in range(4):
        expected = np.rot90(batch["frames"][:, 0] / 255, turns, axes=(2, 3))
        np.testing.assert_allclose(clips[:, turns], expected, rtol=1e-6)


def test_quarter_turns() -> None:
    expected = [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]
    np.testing.assert_array_equal(turns_of(np.array([[1, 2], [3, 4]])), expected)
    frame = np.random.default_rng(0).integers(0, 256, (5, 5))
    np.testing.assert_array_equal(turns_of(frame), [np.rot90(frame, k) for k in range(4)])


def test_four_turns_are_none() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (6, 6))
    turned = frame
    for _ in range(4):
        turned = turns_of(turned)[1]
    np.testing.assert_array_equal(turned, frame)


def test_turns_stand_side_by_side_in_order() -> None:
    views = tf.random.stateless_uniform([3, 2, 4, 8, 8, 3], [0, 0])
    turned = quarter_turns(views).numpy()
    for video in range(3):
        for view in range(2):
            for k in range(4):
                expected = np.rot90(views[video, view], k, axes=(1, 2))
                np.testing.assert_array_equal(turned[video, 4 * view + k], expected)


def test_oblong_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="16x24 .* crop squares"):
        quarter_turns(tf.zeros([1, 1, 4, 16, 24, 3]))


def test_loss_at_chance_and_labels() -> None:
    model = rotation()
    result = model.losses({"rotation_classifier": tf.zeros([12, 4])}, {})
    np.testing.assert_allclose(result.losses, np.full(12, math.log(4)), rtol=1e-6)
    # Who says k of the k-th turn is right.
    right = tf.one_hot([0, 1, 2, 3] * 3, 4) * 20
    result = model.losses({"rotation_classifier": right}, {})
    np.testing.assert_allclose(result.losses, np.zeros(12), atol=1e-6)
    np.testing.assert_array_equal(result.metrics["rotation_accuracy"], np.ones(12))
    # Every label comes N times: who always says the same is right in a quarter of the rows.
    for k in range(4):
        always = tf.one_hot([k] * 12, 4)
        result = model.losses({"rotation_classifier": always}, {})
        assert np.sum(result.metrics["rotation_accuracy"]) == 3


def test_loss_is_the_cross_entropy_of_all_turns() -> None:
    batch, model = noise(3), rotation()
    objective, metrics = model.compute_losses(batch, training=False)
    dense = model.rotation_classifier.layers[0]
    rows = []
    for clip in batch["frames"][:, 0].numpy() / np.float32(255):
        for k in range(4):
            feature = model.encoder(np.rot90(clip, k, axes=(1, 2))[None].copy())[0]
            logits = feature.numpy() @ dense.kernel.numpy() + dense.bias.numpy()
            rows.append(np.log(np.exp(logits).sum()) - logits[k])
    np.testing.assert_allclose(metrics["loss"], np.mean(rows), rtol=1e-5)
    np.testing.assert_allclose(objective, metrics["loss"], rtol=1e-6)


def test_checkpoint_has_no_head_that_embeds() -> None:
    model = rotation()
    assert set(model.checkpoint_roots) == {"encoder", "rotation_classifier"}
    assert model.export_facts == {}


def test_cached_gradients_are_those_of_the_whole_batch() -> None:
    found = []
    for micro_batch in (None, 2):  # parts of 2 and 1
        model = rotation(weight_decay=1e-3, micro_batch=micro_batch)
        for layer in model.submodules:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False  # micro-batches have statistics of their own
        model.compile(keras.optimizers.SGD(0.01))
        found.append(tf.function(model.gradients)(noise(3)))
    objective, gradients, metrics = found[0]
    scale = max(float(tf.reduce_max(tf.abs(gradient))) for gradient in gradients)
    for cached_objective, cached, cached_metrics in found[1:]:
        np.testing.assert_allclose(cached_objective, objective, rtol=1e-5)
        for ours, expected in zip(cached, gradients, strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5 * scale)
        for name, value in metrics.items():
            np.testing.assert_allclose(cached_metrics[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_two_replicas_equal_one(tmp_path: Path) -> None:
    replicated.assert_replicas_equal_one(__file__, task_and_batch, tmp_path)


def test_what_is_bright_above_can_be_learned() -> None:
    model = rotation()
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9))
    data = tf.data.Dataset.from_tensors(bright_above(8, seed=0)).repeat(30)
    model.fit(data, verbose=0)
    _, metrics = model.compute_losses(bright_above(8, seed=1), training=True)
    assert metrics["loss"] < 0.5 * math.log(4)
    assert metrics["rotation_accuracy"] > 0.8


def test_frames_of_one_color_stay_at_chance() -> None:
    """Nothing but the picture tells the turn: no border, no statistics of the batch."""
    colors = np.random.default_rng(0).integers(0, 256, (8, 1, 1, 1, 3))
    batch = batch_of(np.broadcast_to(colors, (8, 4, 16, 16, 3)))
    model = rotation()
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9))
    model.fit(tf.data.Dataset.from_tensors(batch).repeat(30), verbose=0)
    _, metrics = model.compute_losses(batch, training=True)
    # The four rows of a video are alike, and then no logits have less than ln 4 in the mean.
    assert math.log(4) - 1e-4 < metrics["loss"] < math.log(4) + 0.05


def test_step_has_static_shapes() -> None:
    """What a TPU asks for."""
    model = rotation(weight_decay=1e-3, micro_batch=2)
    model.compile(keras.optimizers.SGD(0.1))
    graph = tf.function(model.train_step).get_concrete_function(noise(4)).graph
    for operation in graph.get_operations():
        # The last output of the normalization is scratch memory of GPUs.
        if operation.type not in ("FusedBatchNormV3", "ZerosLike"):
            assert all(output.shape.is_fully_defined() for output in operation.outputs), operation
