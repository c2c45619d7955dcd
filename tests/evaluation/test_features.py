"""Cached features against a loop by hand, and calibrated statistics against NumPy."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from cvrl_tf import checkpoints
from cvrl_tf.data import clips, pipeline, records, schema, views
from cvrl_tf.evaluation.features import FeatureStore, calibrate, extract

Contexts = Callable[[int], tf.distribute.InputContext]

CLIPS = clips.EvenClips(num_frames=4, stride=2, num_clips=3)
CROP = views.EvenCrops(size=16, short_side=16, num_crops=3)


def encoder(frames: tf.Tensor, training: bool) -> tf.Tensor:
    """[N, T, H, W, 3] to [N, 6]: not linear, so a mean of views is not a mean of their features."""
    assert not training
    mean = tf.reduce_mean(frames, axis=[1, 2, 3])
    return tf.concat([mean, tf.math.reduce_std(frames, axis=[1, 2, 3])], axis=1)


def by_hand(folder: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    split = schema.DatasetInfo.load(folder).split("train")
    features, labels, names = [], [], []
    seed = tf.zeros([2], tf.int32)
    found = map(records.parse, records.in_order(records.shard_paths(folder, split)))
    for record in sorted(found, key=lambda record: record["video_id"].numpy()):
        indices = CLIPS(tf.size(record["frames"]), seed)
        jpegs = tf.gather(record["frames"], indices)
        frames = views.extract(jpegs, CROP, tf.zeros([3, 2], tf.int32))
        pixels = frames.numpy().astype(np.float64) / 255
        of_views = np.concatenate([pixels.mean((1, 2, 3)), pixels.std((1, 2, 3))], axis=1)
        assert len(of_views) == 9
        features.append(of_views.mean(axis=0))
        labels.append(int(record["label"]))
        names.append(record["video_id"].numpy().decode())
    return np.stack(features), np.array(labels), names


@pytest.mark.parametrize("batch", [1, 4, 17, 20])
def test_extract(noise_records: Path, batch: int) -> None:
    found = extract(encoder, pipeline.Pipeline(noise_records, CLIPS, CROP), batch)
    assert found.views.shape == (17, 9, 6)
    features, labels = found.of_videos
    wanted, wanted_labels, names = by_hand(noise_records)
    assert names == sorted(f"video_{number}" for number in range(17))
    assert features.shape == (17, 6) and features.dtype == np.float32
    np.testing.assert_allclose(features, wanted, rtol=1e-5)
    np.testing.assert_array_equal(labels, wanted_labels)
    assert labels.dtype == np.int32
    assert np.ptp(wanted[:, 0]) > 0.01  # videos that could be mixed up would prove nothing


class OneNorm(keras.Model):
    """A convolution, batch normalization, and the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = keras.layers.Conv3D(5, (1, 3, 3))
        self.norm = keras.layers.BatchNormalization(momentum=0.73, synchronized=True)

    def call(self, frames: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return tf.reduce_mean(self.norm(self.conv(frames), training=training), axis=[1, 2, 3])


def test_calibrate(noise_records: Path, one_worker: Contexts) -> None:
    data = pipeline.Pipeline(noise_records, clips.EvenClips(4, 2, 1), views.EvenCrops(16, 16, 1))
    keras.utils.set_random_seed(0)
    model = OneNorm()
    model.build((None, None, None, None, 3))
    model.norm.moving_mean.assign(np.full(5, 77.0))  # whatever stood there is forgotten
    model.norm.moving_variance.assign(np.full(5, 99.0))
    model.norm.gamma.assign(np.linspace(0.5, 1.5, 5))
    before = [weight.numpy() for weight in model.trainable_variables]
    calibrate(model, data, batch=5)

    means, variances = [], []
    for examples in data.eval_batches(5, one_worker(1)):
        frames = tf.cast(examples["frames"][:, 0], tf.float32) / 255
        activations = model.conv(frames).numpy().astype(np.float64)
        means.append(activations.mean(axis=(0, 1, 2, 3)))
        variances.append(activations.var(axis=(0, 1, 2, 3)))
    assert len(means) == 4
    np.testing.assert_allclose(model.norm.moving_mean, np.mean(means, axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        model.norm.moving_variance, np.mean(variances, axis=0), rtol=1e-4, atol=1e-5
    )
    assert np.ptp(means, axis=0).min() > 1e-3  # the batches differ, so the order could matter

    assert model.norm.momentum == 0.73
    for weight, was in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(weight, was)


def test_calibrated_features_are_normalized(noise_records: Path) -> None:
    data = pipeline.Pipeline(noise_records, clips.EvenClips(4, 2, 1), views.EvenCrops(16, 16, 1))
    keras.utils.set_random_seed(0)
    model = OneNorm()
    model.build((None, None, None, None, 3))
    calibrate(model, data, batch=17)
    features, _ = extract(model, data, batch=4).of_videos
    # The mean over space of what has mean 0; before, the offset was that of the convolution.
    np.testing.assert_allclose(features.mean(axis=0), np.zeros(5), atol=0.01)


def test_copies_are_drawn_anew(noise_records: Path) -> None:
    random = pipeline.Pipeline(
        noise_records, clips.UniformClips(4, 2, 1), views.RandomResizedCrop(16)
    )
    once, twice = (extract(encoder, random, 4, copies).views for copies in (1, 2))
    assert twice.shape == (17, 2, 6)
    np.testing.assert_array_equal(twice[:, :1], once)
    assert np.abs(twice[:, 0] - twice[:, 1]).max(axis=1).min() > 1e-4


def test_stored_features_are_used_for_the_same_weights_and_views_alone(
    noise_records: Path, tmp_path: Path
) -> None:
    calls = []

    class Counted(OneNorm):
        def call(self, frames: tf.Tensor, training: bool | None = None) -> tf.Tensor:
            tf.py_function(lambda: calls.append(1), [], [])
            return super().call(frames, training=training)

        def get_config(self) -> dict:
            return {}

    keras.utils.set_random_seed(0)
    model = Counted()
    model.build((None, None, None, None, 3))
    crop = views.EvenCrops(16, 16, 1)

    def features(num_clips: int, split: str) -> tuple[np.ndarray, int]:
        calls.clear()
        sampler = clips.EvenClips(4, 2, num_clips)
        data = pipeline.Pipeline(noise_records, sampler, crop, split)
        store = FeatureStore(tmp_path / "store")
        found = store.get("name", checkpoints.fingerprint(model), lambda: model, data, batch=5)
        return found.views, len(calls)

    first, steps = features(1, "train")
    again, none = features(1, "train")
    np.testing.assert_array_equal(again, first)
    assert (steps, none) == (4, 0)
    assert features(2, "train")[1] == 9 and features(1, "test")[1] == 1
    model.conv.bias.assign_add(tf.ones(5))
    changed, steps = features(1, "train")
    assert steps == 4 and np.abs(changed - first).max() > 0.01
    stored = sorted((tmp_path / "store").iterdir())
    assert len(stored) == 4 and all(path.suffix == ".npz" for path in stored)
    assert "EvenClips(num_frames=4" in str(np.load(stored[0])["facts"])
