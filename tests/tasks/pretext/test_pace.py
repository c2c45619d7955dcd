"""Pace prediction: labels out of positions, the loss at chance, and that only motion has a pace."""

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
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.pretext.pace import PacePrediction, pace_labels

PACES = (1, 2, 3, 4)


def pace(**kwargs: Any) -> PacePrediction:
    keras.utils.set_random_seed(0)
    encoder = ResNet3D(depth=10, width=0.125, stem_pool=False)
    return PacePrediction(
        encoder, ProjectionHead(8, 1, 4), PACES, stride=2, augment=presets.none(), **kwargs
    )


def batch_of(frames: np.ndarray) -> dict[str, tf.Tensor]:
    """Clips with paces that differ from row to row."""
    videos, count, length = frames.shape[:3]
    paces = 1 + np.arange(videos * count).reshape(videos, count, 1) % 4
    seeds = np.arange(videos * count * 2, dtype=np.int32).reshape(videos, count, 2)
    return {
        "frames": tf.constant(frames),
        "positions": tf.constant(7 + 2 * paces * np.arange(length), tf.int32),
        "seeds": tf.constant(seeds),
    }


def task_and_batch() -> tuple[PacePrediction, dict[str, np.ndarray]]:
    """What `replicated` computes."""
    model = pace(weight_decay=1e-3)
    model.compile(keras.optimizers.SGD(0.01))
    noise = np.random.default_rng(0).integers(0, 256, (4, 2, 4, 16, 16, 3), np.uint8)
    return model, {name: rows.numpy() for name, rows in batch_of(noise).items()}


def test_loss_at_chance() -> None:
    batch = batch_of(np.zeros([4, 2, 4, 8, 8, 3], np.uint8))
    outputs = {"pace_classifier": tf.zeros([8, 4]), "context_head": tf.ones([8, 4])}
    result = pace().losses(outputs, batch)
    np.testing.assert_allclose(result.losses, np.full(8, 1.580885), rtol=1e-6)
    assert pytest.approx(math.log(4) + 0.1 * math.log(2 * 4 - 1), rel=1e-6) == 1.580885


def test_pictures_tell_the_paces() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 8, 8, 3), np.uint8)
    clips, captions = pace().shown(batch_of(noise))
    assert captions == [f"pace {number}" for number in (1, 2, 3, 4, 1, 2)]
    np.testing.assert_allclose(clips, noise / 255, rtol=1e-6)


def test_labels_are_those_of_the_pixels(tmp_path: Path) -> None:
    """From records, also of videos that loop: the steps of the gray value tell the pace."""
    folder = write_records(tmp_path, [ramp_video(10 + 20 * (i % 2), 32, 32) for i in range(60)])
    sampler = clips.PacedClips(num_frames=4, stride=2, paces=PACES, drawn_clips=2)
    data = pipeline.Pipeline(folder, sampler, views.RandomResizedCrop(16))
    (batch,) = data.train_batches(60).take(1)
    labels = pace_labels(batch, 2 * np.array(PACES)).numpy()
    assert stats.chisquare(np.bincount(labels, minlength=4)).pvalue > 1e-3
    gray = np.round(batch["frames"].numpy().mean(axis=(3, 4, 5)) / 4).reshape(120, 4)
    steps = np.diff(gray, axis=1)
    forward = steps > 0  # where the video does not begin anew
    np.testing.assert_array_equal(steps[forward], (2 * (labels + 1))[forward.nonzero()[0]])
    assert 0.5 < forward.mean() < 1
    (again,) = data.train_batches(60).take(1)
    np.testing.assert_array_equal(pace_labels(again, 2 * np.array(PACES)), labels)


@pytest.mark.slow
def test_still_videos_stay_at_chance() -> None:
    """No pace can be learned where all frames are the same."""
    model = pace(contrast=0.0)
    model.compile(keras.optimizers.SGD(0.002, momentum=0.9))
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (32, 1, 1, 1, 1, 3))
    frames = np.broadcast_to(colors, (32, 2, 2, 8, 8, 3)).astype(np.uint8)

    def drawn() -> dict[str, tf.Tensor]:
        paces = rng.integers(1, 5, (32, 2, 1))
        return {**batch_of(frames), "positions": tf.constant(2 * paces * np.arange(2), tf.int32)}

    step = tf.function(model.train_step)
    losses = [float(step(drawn())["loss"]) for _ in range(60)]
    assert math.log(4) - 0.03 < np.mean(losses[-20:]) < math.log(4) + 0.15


@pytest.mark.slow
def test_two_replicas_equal_one(tmp_path: Path) -> None:
    replicated.assert_replicas_equal_one(__file__, task_and_batch, tmp_path)
