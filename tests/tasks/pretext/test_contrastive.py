"""Pretraining: the Garden's loss, weight decay, and that it learns."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from cvrl_tf.augment.chain import Chain, ViewChains
from cvrl_tf.losses import weight_decay
from cvrl_tf.losses.info_nce import InfoNCE, info_nce
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.pretext.contrastive import ContrastiveLearner, feature_spread
from cvrl_tf.tasks.task import NEVER


def learner(**kwargs: Any) -> ContrastiveLearner:
    keras.utils.set_random_seed(0)
    encoder = ResNet3D(depth=10, width=0.125, stem_pool=False)
    head = ProjectionHead(hidden_dim=32, num_hidden=1, output_dim=16)
    return ContrastiveLearner(encoder, head, ViewChains([Chain()]), **kwargs)


@pytest.fixture(scope="module")
def batch() -> dict[str, tf.Tensor]:
    """Four videos, each of its own color, which both views show with some noise."""
    rng = np.random.default_rng(0)
    colors = rng.uniform(100, 150, (4, 1, 1, 1, 1, 3))
    frames = colors + rng.normal(scale=30, size=(4, 2, 4, 24, 24, 3))
    return {
        "frames": tf.constant(frames.clip(0, 255).astype(np.uint8)),
        "seeds": tf.zeros([4, 2, 2], tf.int32),
    }


@pytest.mark.addons
def test_the_gardens_loss_is_twice_ours(batch: dict) -> None:
    from official.projects.video_ssl.losses import losses as garden

    model = learner(loss=InfoNCE(0.1), weight_decay=1e-3)
    _, metrics = model.compute_losses(batch, training=False)
    frames = tf.cast(tf.reshape(batch["frames"], [8, 4, 24, 24, 3]), tf.float32) / 255
    embeddings = model(frames, training=False)
    expected = garden.contrastive_loss(
        hidden=tf.concat([embeddings[0::2], embeddings[1::2]], axis=0),  # view after view
        num_replicas=1,
        normalize_hidden=True,
        temperature=0.1,
        model=model,
        weight_decay=1e-3,
    )
    np.testing.assert_allclose(2 * metrics["loss"], expected["contrastive_loss"], rtol=1e-5)
    np.testing.assert_allclose(metrics["weight_decay"], expected["reg_loss"], rtol=1e-6)


def l2_of_kernels(model: keras.Model) -> tf.Tensor:
    return weight_decay.l2(weight_decay.kernels(model.trainable_variables))


@pytest.mark.addons
def test_weight_decay_is_on_kernels_alone() -> None:
    model = learner()
    kernels = [layer.kernel for layer in model.submodules if hasattr(layer, "kernel")]
    assert len(kernels) == 12 + 2  # convolutions of the encoder, dense layers of the head
    expected = sum(float(np.sum(kernel.numpy().astype(np.float64) ** 2)) / 2 for kernel in kernels)
    np.testing.assert_allclose(l2_of_kernels(model), expected, rtol=1e-6)
    for variable in model.encoder.variables + model.head.variables:
        if not any(variable is kernel for kernel in kernels):
            variable.assign(variable + 1.0)
    np.testing.assert_allclose(l2_of_kernels(model), expected, rtol=1e-6)


def test_weight_decay_reaches_kernels_of_any_layer() -> None:
    """A recurrent kernel, which does not begin with the word; a task may spare some."""
    layers = [
        keras.layers.GRU(3),
        keras.layers.DepthwiseConv2D(2),
        keras.layers.LayerNormalization(),
    ]
    shapes = [(None, 4, 5), (None, 4, 4, 2), (None, 6)]
    for layer, shape in zip(layers, shapes, strict=True):
        layer.build(shape)
    found = weight_decay.kernels(v for layer in layers for v in layer.trainable_variables)
    names = [variable.name.rpartition("/")[2] for variable in found]
    assert names == ["kernel:0", "recurrent_kernel:0", "depthwise_kernel:0"]


@pytest.mark.addons
def test_a_task_may_spare_weights() -> None:
    class Sparing(ContrastiveLearner):
        @property
        def undecayed(self) -> list[tf.Variable]:
            return [self.head.output_layer.kernel]

    keras.utils.set_random_seed(0)
    encoder, head = ResNet3D(10, 0.125, stem_pool=False), ProjectionHead(32, 1, 16)
    model = Sparing(encoder, head, weight_decay=1.0)
    spared = tf.nn.l2_loss(model.head.output_layer.kernel)
    expected = l2_of_kernels(model) - spared
    np.testing.assert_allclose(model.weight_decay_loss(), expected, rtol=1e-6)
    assert spared > 0.1


@pytest.mark.addons
def test_after_step_hears_of_each_step_and_of_all() -> None:
    class Counting(ContrastiveLearner):
        def after_step(self, step: tf.Tensor, total_steps: int | None) -> None:
            self.seen.assign(100 * step + total_steps)

    model = Counting(ResNet3D(10, 0.125, stem_pool=False), ProjectionHead(32, 1, 16))
    model.seen = tf.Variable(0, trainable=False, dtype=tf.int64)
    model.compile(keras.optimizers.SGD(0.01))
    model.total_steps = 7
    clips = tf.zeros([2, 2, 2, 16, 16, 3], tf.uint8)
    model.fit(tf.data.Dataset.from_tensors(clips).repeat(3), verbose=0)
    assert model.seen == 307


@pytest.mark.addons
def test_objective_is_loss_plus_weight_decay(batch: dict) -> None:
    objective, metrics = learner(weight_decay=1e-2).compute_losses(batch, training=False)
    np.testing.assert_allclose(objective, metrics["loss"] + metrics["weight_decay"], rtol=1e-6)
    plain, _ = learner().compute_losses(batch, training=False)
    np.testing.assert_allclose(plain, metrics["loss"], rtol=1e-6)


@pytest.mark.addons
def test_blocks_of_keys_change_nothing(batch: dict) -> None:
    plain, expected = learner(weight_decay=1e-2).compute_losses(batch, training=True)
    blocked, metrics = learner(weight_decay=1e-2, loss=InfoNCE(0.1, block=3)).compute_losses(
        batch, training=True
    )
    np.testing.assert_allclose(blocked, plain, rtol=1e-5)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def gradients_of(batch: dict, **kwargs: Any) -> tuple[tf.Tensor, list, dict]:
    """With frozen statistics, for micro-batches have statistics of their own."""
    model = learner(weight_decay=1e-2, **kwargs)
    for layer in model.submodules:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    model.compile(keras.optimizers.SGD())
    return tf.function(model.gradients)(batch)


@pytest.fixture(scope="module")
def whole(batch: dict) -> tuple[tf.Tensor, list, dict]:
    return gradients_of(batch)


@pytest.mark.addons
@pytest.mark.parametrize("micro_batch", [1, 2, 3])
@pytest.mark.parametrize("block", [None, 3])
def test_cached_gradients_are_those_of_the_whole_batch(
    micro_batch: int, block: int | None, batch: dict, whole: tuple
) -> None:
    objective, gradients, metrics = whole
    cached_objective, cached, cached_metrics = gradients_of(
        batch, loss=InfoNCE(0.1, block), micro_batch=micro_batch
    )
    np.testing.assert_allclose(cached_objective, objective, rtol=1e-5)
    scale = max(float(tf.reduce_max(tf.abs(gradient))) for gradient in gradients)
    assert scale > 0.1
    for ours, expected in zip(cached, gradients, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5 * scale)
    assert cached_metrics.keys() == metrics.keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(cached_metrics[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.addons
def test_micro_batches_have_statistics_of_their_own_and_move_the_average_once_each(
    batch: dict,
) -> None:
    model = learner(micro_batch=2)
    model.compile(keras.optimizers.SGD())
    _, _, metrics = tf.function(model.gradients)(batch)
    expected = learner()
    frames = tf.cast(tf.reshape(batch["frames"], [8, 4, 24, 24, 3]), tf.float32) / 255
    rows = tf.concat([expected(part, training=True) for part in (frames[:4], frames[4:])], axis=0)
    np.testing.assert_allclose(
        metrics["loss"], tf.reduce_mean(info_nce(rows, rows, 0, 0.1)[0]), rtol=1e-5
    )
    for ours, theirs in zip(
        model.encoder.non_trainable_variables + model.head.non_trainable_variables,
        expected.encoder.non_trainable_variables + expected.head.non_trainable_variables,
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.addons
def test_feature_spread() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 7)) + 1
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = np.sqrt(np.mean(np.sum((unit - unit.mean(axis=0)) ** 2, axis=1)))
    np.testing.assert_allclose(feature_spread(tf.constant(features)), expected, rtol=1e-5)
    collapsed = features[:1] * np.arange(1, 51)[:, None]  # of one direction
    np.testing.assert_allclose(feature_spread(tf.constant(collapsed)), 0, atol=1e-3)


def test_gradient_norm_is_logged_and_clipped_by_the_optimizer(batch: dict) -> None:
    data = tf.data.Dataset.from_tensors(batch)
    changes = []
    for clip in (None, 0.5):
        model = learner()
        model.compile(keras.optimizers.SGD(1.0, global_clipnorm=clip))
        before = [variable.numpy() for variable in model.trainable_variables]
        norm = model.fit(data, verbose=0).history["gradient_norm"][0]
        changes.append(
            np.sqrt(
                sum(
                    np.sum((variable.numpy() - old) ** 2)
                    for variable, old in zip(model.trainable_variables, before, strict=True)
                )
            )
        )
    assert norm > 1
    np.testing.assert_allclose(changes, [norm, 0.5], rtol=1e-4)


@pytest.mark.addons
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_first_step_that_is_not_finite_is_noted(value: float, batch: dict) -> None:
    model = learner()
    model.compile(keras.optimizers.SGD(0.01))
    data = tf.data.Dataset.from_tensors(batch)
    model.fit(data.repeat(2), verbose=0)
    assert model.step_state.first_bad_step == NEVER
    model.head.output_layer.bias.assign(tf.fill([16], value))
    model.fit(data.repeat(2), verbose=0)
    assert model.step_state.first_bad_step == 2


@pytest.mark.addons
def test_both_views_share_the_statistics_of_one_pass(batch: dict) -> None:
    """In training mode the embeddings are those of all 2B clips normalized together."""
    model = learner()
    frames = tf.cast(tf.reshape(batch["frames"], [8, 4, 24, 24, 3]), tf.float32) / 255
    together = model(frames, training=True)
    model = learner()
    _, metrics = model.compute_losses(batch, training=True)
    expected = tf.reduce_mean(info_nce(together, together, 0, 0.1)[0])
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


@pytest.mark.addons
def test_training_brings_views_together(batch: dict) -> None:
    model = learner()
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9))
    _, before = model.compute_losses(batch, training=True)
    model.fit(tf.data.Dataset.from_tensors(batch).repeat(30), verbose=0)
    _, after = model.compute_losses(batch, training=True)
    assert after["loss"] < 0.1 * before["loss"]
    assert after["contrastive_accuracy"] == 1


@pytest.mark.slow
def test_step_compiles_under_xla(batch: dict) -> None:
    results = []
    for jit_compile in (False, True):
        model = learner(weight_decay=1e-4)
        model.compile(keras.optimizers.SGD(0.1), jit_compile=jit_compile)
        data = tf.data.Dataset.from_tensors(batch).repeat(3)
        results.append(model.fit(data, verbose=0).history["loss"])
    np.testing.assert_allclose(results[1], results[0], rtol=1e-3)


@pytest.mark.parametrize("kwargs", [{}, {"loss": InfoNCE(0.1, 3)}, {"micro_batch": 2}])
def test_step_has_static_shapes_and_no_python(kwargs: dict, batch: dict) -> None:
    """What a TPU asks for."""
    model = learner(weight_decay=1e-4, **kwargs)
    model.compile(keras.optimizers.SGD(0.1))
    graph = tf.function(model.train_step).get_concrete_function(batch).graph
    for operation in graph.get_operations():
        # The last output of the normalization is scratch memory of GPUs.
        if operation.type not in ("FusedBatchNormV3", "ZerosLike"):
            shapes = [output.shape for output in operation.outputs]
            assert all(shape.is_fully_defined() for shape in shapes), operation
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    assert len(nodes) > 100
    assert not [node.op for node in nodes if "PyFunc" in node.op]
