"""Clip order prediction: classes, draws, the head, and that only what moves has an order."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import replicated
import tensorflow as tf
import tf_keras as keras
from conftest import ramp_video, write_records
from scipy import stats

from cvrl_tf.augment import presets
from cvrl_tf.data import clips, pipeline, views
from cvrl_tf.models.encoder import Encoder
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.pretext.clip_order import ClipOrderPrediction, PairwiseHead
from cvrl_tf.tasks.pretext.orders import order_labels, permutations

LN6 = math.log(6)


class MeanEncoder(Encoder):
    """The mean of a clip is its feature."""

    feature_dim = 1

    def __init__(self) -> None:
        super().__init__()
        self._config = {}

    @property
    def stages(self) -> list[list[keras.layers.Layer]]:
        return [[]]

    def feature_maps(self, frames: tf.Tensor, training: bool | None = None) -> list[tf.Tensor]:
        return [tf.reduce_mean(frames, axis=[2, 3, 4], keepdims=True)]


class RankingHead(keras.Model):
    """Knows the answer from means that grow with time."""

    num_clips, dropout = 3, 0.0

    def call(self, features: tf.Tensor, uniform: tf.Tensor | None = None) -> tf.Tensor:
        ranks = tf.argsort(tf.argsort(features[..., 0], axis=1), axis=1)
        same = tf.reduce_all(ranks[:, tf.newaxis] == permutations(3), axis=2)
        return 20 * tf.cast(same, tf.float32)


def clip_order(**kwargs: Any) -> ClipOrderPrediction:
    keras.utils.set_random_seed(0)
    encoder = ResNet3D(depth=10, width=0.125, stem_pool=False)
    return ClipOrderPrediction(encoder, PairwiseHead(3, 32, 0.5), presets.none(), **kwargs)


def seeds_of(videos: int, first: int = 0) -> tf.Tensor:
    """Different ones, int32 [videos, 3, 2]."""
    numbers = np.arange(first * 6, (first + videos) * 6, dtype=np.int32)
    return tf.constant(numbers.reshape(videos, 3, 2))


def noise(videos: int) -> dict[str, tf.Tensor]:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (videos, 3, 4, 16, 16, 3), np.uint8)
    return {"frames": tf.constant(frames), "seeds": seeds_of(videos)}


def task_and_batch() -> tuple[ClipOrderPrediction, dict[str, np.ndarray]]:
    """What `replicated` computes."""
    model = clip_order(weight_decay=1e-3)
    model.compile(keras.optimizers.SGD(0.01))
    return model, {name: rows.numpy() for name, rows in noise(4).items()}


def test_pictures_tell_which_clip_of_the_video_each_is() -> None:
    batch = noise(20)
    batch["frames"] = (
        tf.zeros_like(batch["frames"])
        + tf.constant([10, 20, 30], tf.uint8)[:, None, None, None, None]
    )
    clips, captions = clip_order().shown(batch)
    found = np.round(255 * clips.numpy()[:, :, 0, 0, 0, 0]).astype(int).reshape(-1)
    assert captions == [f"clip {value // 10}" for value in found]
    assert len(set(captions[::3])) == 3


def test_classes_are_lexicographic() -> None:
    expected = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
    np.testing.assert_array_equal(permutations(3), expected)
    assert permutations(4).shape == (24, 4) and list(permutations(4)[23]) == [3, 2, 1, 0]


def test_orders_are_uniform_and_a_function_of_the_seed() -> None:
    batch = {"seeds": seeds_of(6000)}
    labels = tf.function(order_labels)(batch, 3, 0).numpy()
    counts = np.bincount(labels, minlength=6)
    bound = 4 * math.sqrt(6000 * 1 / 6 * 5 / 6)
    assert len(counts) == 6 and np.abs(counts - 1000).max() < bound
    assert stats.chisquare(counts).pvalue > 1e-3
    compiled = tf.function(order_labels, jit_compile=True)
    for draw in (order_labels, compiled):
        np.testing.assert_array_equal(draw({"seeds": batch["seeds"][:50]}, 3, 0), labels[:50])
    # The seeds of an example's other clips have no say.
    other = {"seeds": tf.concat([batch["seeds"][:50, :1], batch["seeds"][50:100, 1:]], axis=1)}
    np.testing.assert_array_equal(order_labels(other, 3, 0), labels[:50])


def test_loss_at_chance() -> None:
    result = clip_order().losses({"order_head": tf.zeros([4, 6])}, noise(4))
    np.testing.assert_allclose(result.losses, np.full(4, LN6), rtol=1e-6)


def test_head_compares_all_pairs() -> None:
    head = PairwiseHead(3, 8, 0.5)
    features = np.random.default_rng(0).normal(size=(5, 3, 7)).astype(np.float32)
    kept = 2 * np.random.default_rng(1).integers(0, 2, (5, 24)).astype(np.float32)
    found, dropped = head(features).numpy(), head(features, lambda x: kept * x).numpy()
    kernel, bias = (each.numpy() for each in head.hidden.weights)
    assert kernel.shape == (14, 8)
    rows = [
        np.maximum(np.concatenate([features[:, i], features[:, j]], 1) @ kernel + bias, 0)
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    hidden = np.concatenate(rows, axis=1)
    kernel, bias = (each.numpy() for each in head.output_layer.weights)
    assert kernel.shape == (24, 6)
    np.testing.assert_allclose(found, hidden @ kernel + bias, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dropped, (kept * hidden) @ kernel + bias, rtol=1e-4, atol=1e-5)
    again = PairwiseHead.from_config(head.get_config())
    assert again(features).shape == (5, 6)


def test_another_number_of_clips_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2 clips of each video, but the head orders 3"):
        clip_order().embed(tf.zeros([1, 2, 4, 16, 16, 3]), {"seeds": seeds_of(1)}, False)


def test_clips_of_a_ramp_are_put_in_order(tmp_path: Path) -> None:
    """From records to labels: the gray value of a frame tells its number."""
    folder = write_records(tmp_path / "ramps", [ramp_video(40, 32, 32) for _ in range(24)])
    sampler = clips.ConsecutiveClips(num_frames=4, stride=1, num_clips=3, gap=2)
    data = pipeline.Pipeline(folder, sampler, views.RandomResizedCrop(16))
    (batch,) = data.train_batches(24).take(1)
    starts = batch["positions"][:, :, 0].numpy()
    np.testing.assert_array_equal(starts - starts[:, :1], np.tile([0, 6, 12], (24, 1)))
    assert len(np.unique(starts[:, 0])) > 5
    means = batch["frames"].numpy().mean(axis=(2, 3, 4, 5))
    np.testing.assert_allclose(means / 4 - 1.5, starts, atol=0.3)

    labels = order_labels(batch, 3, 0).numpy()
    assert len(np.unique(labels)) == 6
    for row, label in zip(means, labels, strict=True):
        order = list(itertools.permutations(range(3)))[label]
        inverse = np.argsort(order)
        np.testing.assert_array_equal(np.argsort(row[list(order)]), inverse)

    model = ClipOrderPrediction(MeanEncoder(), RankingHead(), presets.none())
    result = model.losses(model.embed(model.views(batch), batch, training=True), batch)
    np.testing.assert_array_equal(result.metrics["order_accuracy"], np.ones(24))
    np.testing.assert_allclose(result.losses, np.zeros(24), atol=1e-6)


def test_starts_are_a_clip_and_a_gap_apart() -> None:
    sampler = clips.ConsecutiveClips(num_frames=16, stride=1, num_clips=3, gap=8)
    positions = sampler(tf.constant(64), tf.constant([0, 0]))
    np.testing.assert_array_equal(positions[:, 0], [0, 24, 48])


def test_order_of_ramps_can_be_learned() -> None:
    """To the last one, by the head alone: two means tell which clip is the earlier one."""
    keras.utils.set_random_seed(0)
    model = ClipOrderPrediction(MeanEncoder(), PairwiseHead(3, 64, 0.0), presets.none())
    model.compile(keras.optimizers.Adam(0.02))
    rng = np.random.default_rng(0)

    def ramps(steps: int) -> np.ndarray:
        starts = rng.integers(0, 120, (steps, 32, 1, 1)) + 40 * np.arange(3)[:, None]
        values = starts + 10 * np.arange(4)
        return np.broadcast_to(values[..., None, None, None], (*values.shape, 2, 2, 3)).astype(
            np.uint8
        )

    model.fit(tf.data.Dataset.from_tensor_slices(ramps(300)), verbose=0)
    test = {"frames": tf.constant(ramps(1)[0]), "seeds": seeds_of(32, first=99)}
    _, metrics = model.compute_losses(test, training=False)
    assert metrics["order_accuracy"] == 1
    assert metrics["loss"] < 0.2 * LN6


def test_still_videos_stay_at_chance() -> None:
    """No order can be learned where all clips are the same; `fit` draws another in each step."""
    model = clip_order()
    model.compile(keras.optimizers.SGD(0.002, momentum=0.9))
    colors = np.random.default_rng(0).integers(0, 256, (32, 1, 1, 1, 1, 3))
    frames = np.broadcast_to(colors, (32, 3, 2, 8, 8, 3)).astype(np.uint8)
    data = tf.data.Dataset.from_tensors(frames).repeat(20)
    losses = [model.fit(data, verbose=0).history["loss"][0] for _ in range(2)]
    assert LN6 - 0.03 < losses[1] < LN6 + 0.15


@pytest.mark.slow
def test_cached_gradients_are_those_of_the_whole_batch() -> None:
    """Dropout included: the second pass drops what the first one did."""
    found = []
    for micro_batch in (None, 2):  # parts of 2 and 1
        model = clip_order(weight_decay=1e-3, micro_batch=micro_batch)
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


def test_dropout_is_of_training_alone() -> None:
    model, batch = clip_order(), noise(3)
    frames = model.views(batch)
    outputs = [model.embed(frames, batch, training=False)["order_head"] for _ in range(2)]
    np.testing.assert_array_equal(*outputs)
    model.order_head.dropout = 0.0
    whole = model.embed(frames, batch, training=True)["order_head"]
    model.order_head.dropout = 0.5
    dropped = model.embed(frames, batch, training=True)["order_head"]
    assert np.abs(whole - dropped).max() > 1e-3


@pytest.mark.slow
def test_two_replicas_equal_one(tmp_path: Path) -> None:
    replicated.assert_replicas_equal_one(__file__, task_and_batch, tmp_path)


@pytest.mark.slow
def test_step_has_static_shapes() -> None:
    """What a TPU asks for."""
    model = clip_order(weight_decay=1e-3, micro_batch=2)
    model.compile(keras.optimizers.SGD(0.1))
    graph = tf.function(model.train_step).get_concrete_function(noise(4)).graph
    for operation in graph.get_operations():
        # The last output of the normalization is scratch memory of GPUs.
        if operation.type not in ("FusedBatchNormV3", "ZerosLike"):
            assert all(output.shape.is_fully_defined() for output in operation.outputs), operation
