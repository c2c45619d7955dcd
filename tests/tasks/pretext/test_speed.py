"""SpeedNet: clips that leave frames out, resizing that keeps shapes, and the loss at chance."""

import math
from typing import Any

import numpy as np
import pytest
import replicated
import tensorflow as tf
import tf_keras as keras

from cvrl_tf.augment import presets
from cvrl_tf.data import clips
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.pretext.speed import SpeedPrediction, resampled, resampling_sizes


def speed(**kwargs: Any) -> SpeedPrediction:
    keras.utils.set_random_seed(0)
    encoder = ResNet3D(depth=10, width=0.125, stem_pool=False)
    return SpeedPrediction(encoder, (8, 24), presets.none(), **kwargs)


def batch_of(frames: np.ndarray) -> dict[str, tf.Tensor]:
    seeds = np.arange(frames.shape[0] * 4, dtype=np.int32).reshape(-1, 2, 2)
    return {"frames": tf.constant(frames), "seeds": tf.constant(seeds)}


def task_and_batch() -> tuple[SpeedPrediction, dict[str, np.ndarray]]:
    """What `replicated` computes."""
    model = speed(weight_decay=1e-3)
    model.compile(keras.optimizers.SGD(0.01))
    noise = np.random.default_rng(0).integers(0, 256, (4, 2, 4, 16, 16, 3), np.uint8)
    return model, {name: rows.numpy() for name, rows in batch_of(noise).items()}


def test_frames_are_left_out_at_random() -> None:
    """Means over 2,000 draws are within four standard errors of those of the distribution."""
    sampler = clips.SpedUpPair(num_frames=16, stride=3)
    seeds = tf.constant(np.arange(4000).reshape(-1, 2), tf.int32)
    draw = tf.function(lambda seeds: tf.map_fn(lambda s: sampler(tf.constant(400), s), seeds))
    positions = draw(seeds).numpy()
    assert positions.min() >= 0 and positions.max() < 400
    steps = np.diff(positions, axis=2)
    assert steps.min() >= 3 and not (steps % 3).any()
    means = steps.mean(axis=2) / 3
    for version, (least, most) in enumerate((sampler.normal, sampler.fast)):
        error = means[:, version].std() / math.sqrt(len(means))
        assert abs(means[:, version].mean() - (least + most) / 2) < 4 * error
    kept = (steps == 3).mean(axis=(0, 2))  # the next one is, with probability 1 / f
    expected = [math.log(1.2) / 0.2, math.log(2.2 / 1.7) / 0.5]  # means of 1 / f
    np.testing.assert_allclose(kept, expected, atol=0.01)
    assert len(np.unique(positions[:, 0, 0])) > 200
    in_graph = tf.function(sampler)(tf.constant(400), seeds[0])
    np.testing.assert_array_equal(in_graph, positions[0])
    both = clips.SpedUpPair(16, 1, normal=(1.0, 1.0))(tf.constant(90), tf.constant([1, 2])).numpy()
    np.testing.assert_array_equal(np.diff(both[0]), np.ones(15))


def test_pictures_show_the_resized_clips() -> None:
    model, batch = task_and_batch()
    clips, captions = model.shown(batch)
    assert captions == 4 * ["normal", "sped up"]
    assert clips.shape == batch["frames"].shape
    changed = np.abs(clips - batch["frames"] / 255).max(axis=(1, 2, 3, 4, 5)) > 0.05
    np.testing.assert_array_equal(changed, resampling_sizes(batch, (8, 24)) < 16)


def test_loss_at_chance() -> None:
    frames = np.zeros([3, 2, 4, 16, 16, 3], np.uint8)
    result = speed().losses({"speed_classifier": tf.zeros([6, 1])}, batch_of(frames))
    np.testing.assert_allclose(result.losses, np.full(6, 0.693147), rtol=1e-6)


def test_the_head_sees_the_maximum_over_space_and_the_mean_over_time() -> None:
    model = speed()
    maps = np.zeros([2, 4, 3, 3, model.encoder.feature_dim], np.float32)
    maps[0, 1, 2, 0] = 6.0
    model.encoder.feature_map = lambda frames, training: tf.constant(maps)
    model.speed_classifier.set_weights([np.ones([model.encoder.feature_dim, 1]), np.zeros([1])])
    batch = batch_of(np.zeros([1, 2, 4, 16, 16, 3], np.uint8))
    found = model.embed(model.views(batch), batch, training=False)["speed_classifier"]
    np.testing.assert_allclose(found[:, 0], [model.encoder.feature_dim * 6 / 4, 0], rtol=1e-6)


def test_resampling_is_tensorflows() -> None:
    rng = np.random.default_rng(0)
    views = tf.constant(rng.uniform(size=(4, 2, 3, 20, 20, 3)).astype(np.float32))
    sizes = [7, 13, 20, 31]
    found = resampled(views, tf.constant(sizes)).numpy()
    for video, size, ours in zip(views, sizes, found, strict=True):
        frames = tf.reshape(video, [6, 20, 20, 3])
        small = tf.image.resize(frames, [min(size, 20)] * 2, antialias=True)
        expected = tf.image.resize(small, [20, 20]).numpy().reshape(ours.shape)
        np.testing.assert_allclose(ours, expected, atol=2e-5)
    np.testing.assert_allclose(found[2:], views[2:], atol=1e-6)  # as large as they are, or larger


def test_both_clips_of_a_video_get_the_same_size() -> None:
    seeds = tf.constant(np.arange(8000).reshape(2000, 2, 2), tf.int32)
    draw = tf.function(lambda seeds: resampling_sizes({"seeds": seeds}, (64, 336)))
    sizes = draw(seeds).numpy()
    assert sizes.shape == (2000,) and sizes.min() >= 64 and sizes.max() <= 336
    assert abs(sizes.mean() - 200) < 4 * sizes.std() / math.sqrt(2000)
    np.testing.assert_array_equal(resampling_sizes({"seeds": seeds[:9]}, (64, 336)), sizes[:9])


@pytest.mark.slow
def test_still_videos_stay_at_chance() -> None:
    model = speed()
    model.compile(keras.optimizers.SGD(0.002, momentum=0.9))
    colors = np.random.default_rng(0).integers(0, 256, (32, 1, 1, 1, 1, 3))
    frames = np.broadcast_to(colors, (32, 2, 2, 8, 8, 3)).astype(np.uint8)
    data = tf.data.Dataset.from_tensors(frames).repeat(20)
    losses = [model.fit(data, verbose=0).history["loss"][0] for _ in range(2)]
    assert abs(losses[1] - math.log(2)) < 0.05


@pytest.mark.slow
def test_two_replicas_equal_one(tmp_path: Any) -> None:
    replicated.assert_replicas_equal_one(__file__, task_and_batch, tmp_path)
