"""SimSiam: its outputs, that targets stand still, and that it does not collapse."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import replicated
import tensorflow as tf
import tf_keras as keras

from cvrl_tf.augment import presets
from cvrl_tf.losses.negative_cosine import negative_cosine
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.pretext.simsiam import SimSiam


def simsiam(**kwargs: Any) -> SimSiam:
    keras.utils.set_random_seed(0)
    encoder = ResNet3D(depth=10, width=0.125, stem_pool=False)
    heads = ProjectionHead(32, 1, 16), ProjectionHead(8, 1, 16)
    return SimSiam(encoder, *heads, augment=presets.none(), **kwargs)


def noise(videos: int) -> dict[str, np.ndarray]:
    frames = np.random.default_rng(0).integers(0, 256, (videos, 2, 4, 16, 16, 3), np.uint8)
    return {"frames": frames, "seeds": np.zeros((videos, 2, 2), np.int32)}


def task_and_batch() -> tuple[SimSiam, dict[str, np.ndarray]]:
    """What `replicated` computes."""
    model = simsiam(weight_decay=1e-3)
    model.compile(keras.optimizers.SGD(0.01))
    return model, noise(4)


def test_loss_is_symmetric_in_the_clips() -> None:
    model, batch = task_and_batch()
    outputs = model.embed(model.views(batch), batch, training=True)
    assert outputs["predictor"].shape == outputs["head"].shape == (4, 2, 16)
    features = tf.reshape(outputs["features"], [8, -1])
    embeddings = model.head(features, training=True)
    np.testing.assert_allclose(
        tf.reshape(outputs["head"], [8, 16]), embeddings, rtol=1e-5, atol=1e-6
    )
    p1, p2 = tf.unstack(outputs["predictor"], axis=1)
    z1, z2 = tf.unstack(outputs["head"], axis=1)
    cosine = keras.losses.CosineSimilarity(reduction="none")  # negative, in Keras
    expected = tf.stack([cosine(z2, p1), cosine(z1, p2)], axis=1)
    found = model.losses(outputs, batch)
    np.testing.assert_allclose(found.losses, tf.reshape(expected, [-1]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        negative_cosine(outputs["predictor"], outputs["head"]), expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.slow
def test_training_tells_videos_apart() -> None:
    """Whose color both clips share; the loss alone would not show a collapse."""
    rng = np.random.default_rng(0)
    colors = rng.uniform(60, 190, (40, 8, 1, 1, 1, 1, 3))
    frames = (colors + rng.normal(scale=10, size=(40, 8, 2, 4, 16, 16, 3))).clip(0, 255)
    model = simsiam()
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    data = tf.data.Dataset.from_tensor_slices(frames.astype(np.uint8))
    history = [model.fit(data, verbose=0).history for _ in range(3)]
    assert history[-1]["loss"][0] < -0.5
    assert history[-1]["feature_spread"][0] > 0.05


@pytest.mark.slow
def test_two_replicas_equal_one(tmp_path: Path) -> None:
    replicated.assert_replicas_equal_one(__file__, task_and_batch, tmp_path)
