"""MotionPred: the targets of pixels, its loss, the flow of others, and that it learns."""

import itertools
from pathlib import Path
from typing import Any

import authors_statistics
import cv2
import numpy as np
import pytest
import replicated
import tensorflow as tf
import tf_keras as keras
from conftest import write_records

from cvrl_tf.augment import presets
from cvrl_tf.data import clips, pipeline, views
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.pretext import motion, statistics
from cvrl_tf.tasks.pretext.flow import optical_flow
from cvrl_tf.tasks.pretext.motion import MotionPrediction, clip_statistics


def prediction(**kwargs: Any) -> MotionPrediction:
    keras.utils.set_random_seed(0)
    encoder = ResNet3D(depth=10, width=0.125, stem_pool=False)
    return MotionPrediction(encoder, **{"augment": presets.none(), **kwargs})


def batch_of(frames: np.ndarray) -> dict[str, tf.Tensor]:
    """frames: [B, T, S, S, 3], one clip a video."""
    seeds = tf.zeros([len(frames), 1, 2], tf.int32)
    return {"frames": tf.constant(frames[:, np.newaxis]), "seeds": seeds}


def shapes(videos: int = 4, num_frames: int = 4, size: int = 24) -> dict[str, tf.Tensor]:
    return batch_of(authors_statistics.moving_shapes(videos, num_frames, size)[0])


def task_and_batch() -> tuple[MotionPrediction, dict[str, np.ndarray]]:
    """What `replicated` computes."""
    model = prediction(weight_decay=1e-3)
    model.compile(keras.optimizers.SGD(0.001))
    return model, {name: rows.numpy() for name, rows in shapes().items()}


def test_targets_are_those_of_the_pixels(tmp_path: Path) -> None:
    """Of records, cropped and flipped: the authors' statistics of the frames and of their flow."""
    videos, _ = authors_statistics.moving_shapes(4, 8, 48)
    folder = write_records(tmp_path, list(videos))
    sampler = clips.UniformClips(num_frames=4, stride=2, num_clips=1)
    data = pipeline.Pipeline(folder, sampler, views.RandomResizedCrop(24))
    (batch,) = data.train_batches(4).take(1)
    moved, colored = clip_statistics(batch)
    frames = batch["frames"].numpy()[:, 0]
    flow = optical_flow(tf.constant(frames)).numpy()
    expected = [authors_statistics.motion(flow[:, clip]) for clip in range(4)]
    np.testing.assert_array_equal(moved, expected)
    np.testing.assert_array_equal(colored, [authors_statistics.appearance(c) for c in frames])
    _, captions = prediction().shown(batch)
    assert captions == [f"moves in {row[0]:.0f} and {row[2]:.0f} of 16" for row in moved]
    (again,) = data.train_batches(4).take(1)
    for ours, same in zip((moved, colored), clip_statistics(again), strict=True):
        np.testing.assert_array_equal(ours, same)


@pytest.mark.slow
def test_flow_finds_what_the_true_flow_and_that_of_opencv_find() -> None:
    """At least so many labels of motion are the same; those of two clips agree in a fifth.

    TV-L1, the original's flow, is not in opencv-python: it is one of OpenCV's extra modules.
    """
    frames, true = authors_statistics.moving_shapes(16, 8, 112)
    gray = [[cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip] for clip in frames]

    def farneback(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 3, 15, 3, 5, 1.2, 0)

    def dis(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        preset = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
        return cv2.DISOpticalFlow_create(preset).calc(first, second, None)

    flows = {"true": true, "ours": optical_flow(tf.constant(frames)).numpy()}
    for method in (farneback, dis):
        fields = [[method(*pair) for pair in itertools.pairwise(clip)] for clip in gray]
        flows[method.__name__] = np.moveaxis(np.array(fields), -1, 0)
    labels = {
        name: statistics.motion_statistics(tf.constant(flow)).numpy()
        for name, flow in flows.items()
    }
    errors = {name: np.hypot(*(flow - true)).mean() for name, flow in flows.items()}

    def agreement(first: str, second: str) -> float:
        return (labels[first] == labels[second]).mean()

    assert (labels["true"] == np.roll(labels["true"], 1, axis=0)).mean() < 0.3
    assert agreement("ours", "true") > 0.6
    assert agreement("ours", "dis") > 0.65
    assert agreement("ours", "farneback") > 0.55
    # It is nearer to the truth than theirs.
    assert errors["ours"] < 0.75 * min(errors["dis"], errors["farneback"])
    assert agreement("ours", "true") > agreement("farneback", "true")


def test_loss_of_the_best_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """8.881 + 0.1 * 7.096 where all statistics of clips of 16 frames are equally frequent."""
    counts = authors_statistics.MOTION_COUNTS, authors_statistics.APPEARANCE_COUNTS
    # All numbers of each statistic, equally often.
    targets = [np.arange(240)[:, np.newaxis] % np.array(each) + 1.0 for each in counts]
    monkeypatch.setattr(motion, "clip_statistics", lambda batch: targets)
    heads = ("motion_head", "appearance_head")
    outputs = {
        name: tf.constant(np.tile(each.mean(axis=0), (240, 1)))
        for name, each in zip(heads, targets, strict=True)
    }
    result = prediction().losses(outputs, {})
    np.testing.assert_allclose(np.mean(result.metrics["motion_error"]), 8.8810, atol=5e-5)
    np.testing.assert_allclose(np.mean(result.metrics["appearance_error"]), 7.0962, atol=5e-5)
    np.testing.assert_allclose(np.mean(result.losses), 9.5906, atol=1e-4)


def test_loss_is_the_authors() -> None:
    """Transcribes train.py of github.com/laura-wang/video_repres_sts."""
    batch, rng = shapes(), np.random.default_rng(0)
    outputs = {
        "motion_head": tf.constant(rng.normal(5, 5, (4, 14)), tf.float32),
        "appearance_head": tf.constant(rng.normal(5, 5, (4, 13)), tf.float32),
    }
    errors = [
        np.mean((output.numpy() - target.numpy()) ** 2)
        for output, target in zip(outputs.values(), clip_statistics(batch), strict=True)
    ]
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        result = prediction().losses(outputs, batch)
        loss = tf.reduce_mean(result.losses)
    np.testing.assert_allclose(loss, errors[0] * 1 + errors[1] * 0.1, rtol=1e-5)
    slopes = tape.gradient(loss, outputs)
    for (name, slope), target, weight in zip(
        slopes.items(), clip_statistics(batch), (1, 0.1), strict=True
    ):
        expected = 2 * weight * (outputs[name] - target) / target.numpy().size
        np.testing.assert_allclose(slope, expected, rtol=1e-5)


def test_augmentation_changes_no_target() -> None:
    model, batch = prediction(augment=presets.paper()), shapes()
    outputs = {"motion_head": tf.zeros([4, 14]), "appearance_head": tf.zeros([4, 13])}
    found = model.losses(outputs, {**batch, "seeds": batch["seeds"] + 1}).losses
    np.testing.assert_array_equal(found, model.losses(outputs, batch).losses)


def test_augmented_frames_are_refused() -> None:
    batch = {"frames": tf.zeros([2, 1, 4, 24, 24, 3])}
    with pytest.raises(ValueError, match="leave pipeline.Pipeline.augment at None"):
        clip_statistics(batch)


def test_checkpoint_has_no_head_that_embeds() -> None:
    model = prediction()
    assert set(model.checkpoint_roots) == {"encoder", "motion_head", "appearance_head"}
    assert model.export_facts == {}


@pytest.mark.slow
def test_step_has_static_shapes() -> None:
    """What a TPU asks for; and XLA, which compiles the targets, changes none."""
    model, batch = prediction(weight_decay=1e-3, micro_batch=2), shapes()
    model.compile(keras.optimizers.SGD(0.1))
    graph = tf.function(model.train_step).get_concrete_function(batch).graph
    for operation in graph.get_operations():
        # The last output of the normalization is scratch memory of GPUs.
        if operation.type not in ("FusedBatchNormV3", "ZerosLike"):
            assert all(output.shape.is_fully_defined() for output in operation.outputs), operation
    compiled = tf.function(clip_statistics, jit_compile=True)(batch)
    for ours, expected in zip(compiled, clip_statistics(batch), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.slow
def test_four_ways_to_move_can_be_learned() -> None:
    """Of textures that it has not seen: 15 % below the error of the best constants."""
    rng = np.random.default_rng(0)
    frames = np.stack([authors_statistics.moving_shape(rng, 4, 24, i % 4)[0] for i in range(448)])
    train, test = batch_of(frames[:384]), batch_of(frames[384:])
    model = prediction()
    model.compile(keras.optimizers.Adam(0.005))
    data = tf.data.Dataset.from_tensor_slices(train).batch(32, drop_remainder=True)
    model.fit(data, epochs=8, verbose=0)
    _, metrics = model.compute_losses(test, training=True)
    chance = [np.var(targets, axis=0).mean() for targets in clip_statistics(test)]
    assert metrics["motion_error"] < 0.85 * chance[0]
    assert metrics["loss"] < 0.85 * (chance[0] + 0.1 * chance[1])


@pytest.mark.slow
def test_two_replicas_equal_one(tmp_path: Path) -> None:
    replicated.assert_replicas_equal_one(__file__, task_and_batch, tmp_path)
