"""Classification: what is frozen, what is normalized, and multi-view testing."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from cvrl_tf.augment.chain import Chain, ViewChains
from cvrl_tf.measures.metrics import classification
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.classify import Classifier, _in_top
from cvrl_tf.tasks.task import dropout


def classifier(**kwargs: float) -> Classifier:
    keras.utils.set_random_seed(0)
    encoder = ResNet3D(depth=10, width=0.125, stem_pool=False)
    model = Classifier(encoder, num_classes=7, augment=ViewChains([Chain()]), **kwargs)
    model.compile(keras.optimizers.SGD(0.5))
    return model


@pytest.fixture
def batch() -> dict[str, tf.Tensor]:
    rng = np.random.default_rng(0)
    return {
        "frames": tf.constant(rng.integers(0, 256, (6, 1, 4, 24, 24, 3), np.uint8)),
        "seeds": tf.zeros([6, 1, 2], tf.int32),
        "label": tf.constant([0, 1, 2, 3, 4, 5]),
        "weight": tf.ones([6]),
    }


def test_probe_leaves_the_encoder_alone(batch: dict) -> None:
    model = classifier(freeze_encoder=True, normalize_features=True)
    before = [v.numpy() for v in model.encoder.variables]
    kernel = model.classifier.kernel.numpy()
    model.fit(tf.data.Dataset.from_tensors(batch).repeat(5), verbose=0)
    for variable, value in zip(model.encoder.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)  # BN statistics too
    assert np.abs(model.classifier.kernel - kernel).max() > 0
    assert [v.name.rsplit("/", 1)[-1] for v in model.trainable_variables] == ["kernel:0", "bias:0"]


def test_fine_tuning_trains_all_layers_and_statistics(batch: dict) -> None:
    model = classifier(freeze_encoder=False)
    before = [v.numpy() for v in model.encoder.variables]
    model.fit(tf.data.Dataset.from_tensors(batch).repeat(2), verbose=0)
    for variable, value in zip(model.encoder.variables, before, strict=True):
        assert np.abs(variable.numpy() - value).max() > 0, variable.name


def test_features_are_normalized_before_the_linear_layer(batch: dict) -> None:
    model = classifier(freeze_encoder=True, normalize_features=True)
    frames = tf.cast(batch["frames"][:, 0], tf.float32) / 255
    features = model.encoder(frames, training=False).numpy()
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = unit @ model.classifier.kernel.numpy() + model.classifier.bias.numpy()
    np.testing.assert_allclose(model(frames, training=False), expected, rtol=1e-4, atol=1e-5)


def test_dropout_acts_in_training_alone(batch: dict) -> None:
    losses = [
        classifier(freeze_encoder=True, dropout=rate).compute_losses(batch, training)[0]
        for rate in (0.0, 0.9)
        for training in (False, True)
    ]
    assert losses[0] == losses[1] == losses[2]
    assert abs(losses[3] - losses[0]) > 1e-3
    with pytest.raises(ValueError, match=r"dropout=1.0 is not in \[0, 1\)"):
        classifier(freeze_encoder=True, dropout=1.0)


def test_dropout_is_a_function_of_the_seeds() -> None:
    seeds = np.random.default_rng(0).integers(-(2**31), 2**31, (64, 3, 2)).astype(np.int32)
    x = tf.random.stateless_uniform([64, 500], [0, 0], 1, 2)
    whole = dropout(x, 0.3, {"seeds": seeds}).numpy()
    kept = whole != 0
    assert abs(kept.mean() - 0.7) < 0.01 and np.all(abs(kept.mean(axis=1) - 0.7) < 0.1)
    np.testing.assert_allclose(whole, np.where(kept, x / 0.7, 0), rtol=1e-6)
    # As if two replicas shared the batch, or another process computed it.
    for part in (slice(None, 32), slice(32, None)):
        np.testing.assert_array_equal(dropout(x[part], 0.3, {"seeds": seeds[part]}), whole[part])
        compiled = tf.function(dropout)(x[part], 0.3, {"seeds": seeds[part]})
        np.testing.assert_array_equal(compiled != 0, kept[part])
    masks = [
        kept,
        dropout(x, 0.3, {"seeds": seeds + 1}) != 0,
        dropout(x, 0.3, {"seeds": seeds}, 1) != 0,
    ]
    assert np.abs(np.corrcoef([np.ravel(mask) for mask in masks]) - np.eye(3)).max() < 0.02


def test_multi_view_test_is_the_mean_of_softmaxes_and_counts_weights(batch: dict) -> None:
    model = classifier(freeze_encoder=True)
    model.classifier.kernel.assign(50 * model.classifier.kernel)
    rng = np.random.default_rng(1)
    views = rng.integers(0, 256, (6, 3, 4, 24, 24, 3), np.uint8)
    weight = np.array([1, 1, 1, 1, 0, 0], np.float32)  # the last two only fill the batch
    test = {
        **batch,
        "frames": views,
        "seeds": np.zeros((6, 3, 2), np.int32),
        "weight": weight,
    }
    results = model.evaluate(tf.data.Dataset.from_tensors(test), verbose=0, return_dict=True)

    logits = np.stack(
        [model(tf.cast(views[:, v], tf.float32) / 255, training=False).numpy() for v in range(3)]
    ).astype(np.float64)
    softmax = np.exp(logits - logits.max(-1, keepdims=True))
    mean = (softmax / softmax.sum(-1, keepdims=True)).mean(axis=0)
    labels = np.array(batch["label"])
    rank = (mean > mean[np.arange(6), labels][:, None]).sum(axis=1)[:4]
    np.testing.assert_allclose(results["top1"], np.mean(rank < 1), rtol=1e-6)
    np.testing.assert_allclose(results["top5"], np.mean(rank < 5), rtol=1e-6)
    loss = -np.log(mean[np.arange(6), labels])[:4].mean()
    np.testing.assert_allclose(results["loss"], loss, rtol=1e-4)


def test_equal_scores_are_no_hits_for_all_classes(batch: dict) -> None:
    """In training and test, as `metrics.classification`: of equal scores the lower class wins."""
    model = classifier(freeze_encoder=True)
    model.classifier.kernel.assign(tf.zeros_like(model.classifier.kernel))
    equal = np.zeros([6, 7])
    expected = {name: each.value for name, each in classification(equal, np.arange(6)).items()}
    assert expected["top1"] == pytest.approx(1 / 6) and expected["top5"] == pytest.approx(5 / 6)
    _, trained = model.compute_losses(batch, training=False)
    tested = model.evaluate(tf.data.Dataset.from_tensors(batch), verbose=0, return_dict=True)
    for name in ("top1", "top5"):
        assert np.mean(trained[name]) == pytest.approx(expected[name])
        assert tested[name] == pytest.approx(expected[name])


def test_some_equal_scores_are_ordered_as_in_the_evaluation() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 4, (300, 9)).astype(np.float32), rng.integers(0, 9, 300)
    expected = classification(scores, labels)
    for name, hits in _in_top(tf.constant(labels), tf.constant(scores)).items():
        assert np.mean(hits) == pytest.approx(expected[name].value)


def test_scores_that_are_not_numbers_are_no_hits() -> None:
    hits = _in_top(tf.constant([0, 3]), tf.fill([2, 7], np.nan))
    assert not np.any(hits["top1"]) and not np.any(hits["top5"])


def test_label_smoothing_is_the_cross_entropy_with_softened_labels(batch: dict) -> None:
    model = classifier(freeze_encoder=True, label_smoothing=0.2)
    _, metrics = model.compute_losses(batch, training=False)
    frames = tf.cast(batch["frames"][:, 0], tf.float32) / 255
    logits = model(frames, training=False).numpy().astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    target = 0.8 * np.eye(7)[np.array(batch["label"])] + 0.2 / 7
    expected = -np.mean(np.sum(target * log_p, axis=1))
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_layer_decay_slows_each_stage_down(batch: dict) -> None:
    """A step, against the plain one times a factor a stage."""
    decay = 0.5
    moved = []
    for layer_decay in (1.0, decay):
        model = classifier(freeze_encoder=False, layer_decay=layer_decay)
        model.compile(keras.optimizers.SGD(0.1))
        before = [v.numpy() for v in model.trainable_variables]
        model.train_step(batch)
        pairs = zip(model.trainable_variables, before, strict=True)
        moved.append([v.numpy() - value for v, value in pairs])
    encoder = model.encoder
    stages = {id(v): 0 for v in encoder.stem.trainable_variables}
    stages |= {
        id(v): stage
        for stage, block in enumerate(encoder.blocks, start=1)  # one a stage in R3D-10
        for v in block.trainable_variables
    }
    assert len(stages) == len(encoder.trainable_variables)
    for variable, plain, slowed in zip(model.trainable_variables, *moved, strict=True):
        factor = decay ** (5 - stages.get(id(variable), 5))
        np.testing.assert_allclose(slowed, factor * plain, rtol=1e-3, atol=1e-6)
        assert np.abs(plain).max() > 1e-5


def test_layer_decay_needs_sgd() -> None:
    with pytest.raises(ValueError, match=r"layer_decay=0.5 needs SGD, not Adam"):
        classifier(freeze_encoder=False, layer_decay=0.5).compile(keras.optimizers.Adam())
