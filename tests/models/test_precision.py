"""Encoder and head in mixed precision: near the float32 ones, and trained by the same step."""

from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from cvrl_tf.augment.chain import Chain, ViewChains
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.pretext.contrastive import ContrastiveLearner

CLIPS = np.random.default_rng(0).uniform(size=(4, 8, 32, 32, 3)).astype(np.float32)


@pytest.fixture(params=["mixed_bfloat16", "mixed_float16"])
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param
    keras.mixed_precision.set_global_policy("float32")


def built() -> tuple[ResNet3D, ProjectionHead]:
    encoder, head = ResNet3D(depth=10, width=0.25), ProjectionHead(64, 1, 16)
    encoder.build()
    head.build((None, encoder.feature_dim))
    return encoder, head


@pytest.mark.addons
def test_features_are_near_those_of_float32(precision: str) -> None:
    keras.utils.set_random_seed(0)
    exact, _ = built()
    keras.mixed_precision.set_global_policy(precision)
    mixed, _ = built()
    mixed.set_weights(exact.get_weights())
    assert {v.dtype for v in mixed.variables} == {tf.float32}
    features, expected = mixed(CLIPS, training=True), exact(CLIPS, training=True)
    assert features.dtype == tf.float32
    error = tf.norm(features - expected) / tf.norm(expected)
    assert 0 < error < (0.04 if precision == "mixed_bfloat16" else 0.005)  # 8 and 11 bits


@pytest.mark.slow
def test_a_training_step(precision: str) -> None:
    """The loss is float32; with float16 it is scaled, and the gradients are scaled back."""
    keras.utils.set_random_seed(0)
    weights = [model.get_weights() for model in built()]
    videos = np.random.default_rng(0).integers(0, 256, (4, 2, 4, 32, 32, 3), np.uint8)
    batch = {"frames": tf.constant(videos), "seeds": tf.zeros([4, 2, 2], tf.int32)}
    kernels, losses = [], []
    for policy in ("float32", precision):
        keras.mixed_precision.set_global_policy(policy)
        encoder, head = built()
        for model, values in zip((encoder, head), weights, strict=True):
            model.set_weights(values)
        before = head.output_layer.kernel.numpy()
        learner = ContrastiveLearner(encoder, head, ViewChains([Chain()]), weight_decay=1e-4)
        learner.compile(keras.optimizers.SGD(0.1))
        is_scaled = isinstance(learner.optimizer, keras.mixed_precision.LossScaleOptimizer)
        assert is_scaled == (policy == "mixed_float16")
        objective, _ = learner.compute_losses(batch, training=True)
        assert objective.dtype == tf.float32
        step = tf.function(learner.train_step)
        for _ in range(12):  # left out, until the loss is scaled by what float16 can hold
            losses.append(float(step(batch)["loss"]))
            if np.any(head.output_layer.kernel != before):
                break
        kernels.append(head.output_layer.kernel.numpy() - before)
    np.testing.assert_allclose(losses, losses[0], rtol=0.05)
    assert np.linalg.norm(kernels[1] - kernels[0]) < 0.2 * np.linalg.norm(kernels[0])
