"""What a Keras user writes: models by name, `compile`, `fit`, and encoders out of runs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from conftest import sampling

import cvrl_tf
from cvrl_tf import checkpoints


def small_learner() -> "cvrl_tf.ContrastiveLearner":
    keras.utils.set_random_seed(0)
    encoder = cvrl_tf.ResNet3D(depth=10, width=0.125, stem_pool=False)
    return cvrl_tf.ContrastiveLearner(encoder, cvrl_tf.ProjectionHead(32, 1, 16))


def test_names() -> None:
    assert all(getattr(cvrl_tf, name) for name in cvrl_tf.__all__)
    assert set(cvrl_tf.__all__) <= set(dir(cvrl_tf))
    with pytest.raises(AttributeError, match="no attribute 'ResNet4D'"):
        getattr(cvrl_tf, "ResNet4D")  # noqa: B009


def test_importing_it_brings_no_tensorflow() -> None:
    check = "import cvrl_tf, sys; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_fit_on_a_pipeline(noise_records: Path) -> None:
    data = cvrl_tf.Pipeline(
        noise_records, cvrl_tf.UniformClips(4, 2, 2), cvrl_tf.RandomResizedCrop(16)
    )
    learner = small_learner()
    learner.compile(keras.optimizers.Adam(1e-3))
    steps = data.num_examples // 4
    history = learner.fit(data.train_batches(4), epochs=8, steps_per_epoch=steps, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert learner.encoder(np.zeros([1, 4, 16, 16, 3], np.float32)).shape == (1, 64)


def test_fit_on_pairs_of_clips_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 256, [8, 2, 4, 16, 16, 3], np.uint8)
    learner = small_learner()
    seen, augment = [], learner.augment

    def noted(frames: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        seen.append(seeds.numpy())
        return augment(frames, seeds)

    monkeypatch.setattr(learner, "augment", noted)
    learner.compile(keras.optimizers.SGD(0.01), run_eagerly=True)
    learner.fit(tf.data.Dataset.from_tensor_slices(pairs).batch(4), epochs=2, verbose=0)
    seeds = np.concatenate(seen).reshape(-1, 2)
    assert len(np.unique(seeds, axis=0)) == 2 * 8 * 2  # another for each view, in each epoch


def test_load_encoder(tmp_path: Path) -> None:
    encoder = small_learner().encoder
    checkpoints.save_as_run(encoder, sampling(4, 16), tmp_path / "run")
    clips = np.random.default_rng(0).random([2, 4, 16, 16, 3], np.float32)
    loaded = cvrl_tf.load_encoder(tmp_path / "run")
    np.testing.assert_array_equal(loaded(clips), encoder(clips))
