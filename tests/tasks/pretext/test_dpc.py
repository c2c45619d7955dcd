"""Dense prediction: the authors' model and loss, blocks and crops, the memory, and learning."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import replicated
import tensorflow as tf
import tf_keras as keras
from conftest import ramp_video, write_records

from cvrl_tf.augment import presets
from cvrl_tf.data import clips, pipeline, views
from cvrl_tf.models.block_predictor import BlockPredictor
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.pretext.dpc import DensePrediction, own_target

# MemDPC's settings, of each of which DPC has the other.
MEMDPC = {"memory_rows": 6, "both_directions": True, "gain": 0.1}


def predictor_of(num_predicted: int = 2, dim: int = 8, **others: Any) -> BlockPredictor:
    settings = {"memory_rows": None, "both_directions": False, "dropout": 0.1, "gain": 1.0}
    keras.utils.set_random_seed(0)
    return BlockPredictor(dim, num_predicted, **{**settings, **others})


def dpc(predictor: BlockPredictor | None = None, **kwargs: Any) -> DensePrediction:
    predictor = predictor or predictor_of()
    encoder = ResNet3D(depth=10, width=0.125, stem_pool=False)
    return DensePrediction(encoder, predictor, augment=presets.none(), **kwargs)


def batch_of(frames: np.ndarray) -> dict[str, tf.Tensor]:
    seeds = np.arange(2 * math.prod(frames.shape[:2]), dtype=np.int32)
    return {
        "frames": tf.constant(frames),
        "seeds": tf.constant(seeds.reshape(*frames.shape[:2], 2)),
    }


def noise(videos: int, blocks: int = 4, size: int = 32) -> dict[str, tf.Tensor]:
    rng = np.random.default_rng(0)
    return batch_of(rng.integers(0, 256, (videos, blocks, 4, size, size, 3), np.uint8))


def task_and_batch() -> tuple[DensePrediction, dict[str, np.ndarray]]:
    """What `replicated` computes."""
    model = dpc(predictor_of(**MEMDPC), weight_decay=1e-3)
    model.compile(keras.optimizers.SGD(0.01))
    return model, {name: rows.numpy() for name, rows in noise(4).items()}


@pytest.fixture(scope="module")
def task() -> DensePrediction:
    return dpc()


def outputs_of(predictions: np.ndarray, targets: np.ndarray) -> dict[str, tf.Tensor]:
    return {"predictions": tf.constant(predictions), "targets": tf.constant(targets)}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def authors_step(cell: Any, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """A step of the ConvGRU (backbone/convrnn.py of both repositories).

    There a kernel sees input and state side by side, and the update gate is the share of what is
    new, here of what stays.
    """
    kernel, recurrent, bias = (weight.numpy() for weight in cell.weights)
    both = np.concatenate([kernel, recurrent])
    update, reset, out = zip(np.split(both, 3, axis=1), np.split(bias, 3), strict=True)
    combined = np.concatenate([x, h], axis=-1)
    share = sigmoid(-(combined @ update[0] + update[1]))
    kept = sigmoid(combined @ reset[0] + reset[1])
    new = np.tanh(np.concatenate([x, h * kept], axis=-1) @ out[0] + out[1])
    return h * (1 - share) + new * share


def authors_prediction(model: BlockPredictor, way: int, blocks: np.ndarray) -> np.ndarray:
    """Blocks [B, N, S, E] to predictions [B, P, S, E], in a test.

    `forward` of dpc/model_3d.py of github.com/TengdaHan/DPC, and with a memory that of
    memdpc/model.py of github.com/TengdaHan/MemDPC.
    """
    if way:
        blocks = blocks[:, ::-1]
    hidden = np.zeros_like(blocks[:, 0])
    for block in np.moveaxis(blocks, 1, 0)[: -model.num_predicted]:
        hidden = authors_step(model.cells[way], np.maximum(block, 0), hidden)
    found = []
    (w1, b1), (w2, b2) = (
        [weight.numpy() for weight in layer.weights] for layer in (model.hidden, model.output_layer)
    )
    for _ in range(model.num_predicted):
        prediction = np.maximum(hidden @ w1 + b1, 0) @ w2 + b2
        if model.memory is not None:
            shares = np.exp(prediction - prediction.max(axis=-1, keepdims=True))
            shares /= shares.sum(axis=-1, keepdims=True)
            prediction = np.einsum("bsm,mc->bsc", shares, model.memory.numpy())
        found.append(prediction)
        hidden = authors_step(model.cells[way], np.maximum(prediction, 0), hidden)
    return np.stack(found, axis=1)


def authors_loss(predictions: np.ndarray, truth: np.ndarray) -> float:
    """Of [B, P, S, E]: scores and mask of dpc/model_3d.py, cross-entropy of dpc/main.py."""
    videos, steps, positions, _ = predictions.shape
    score = np.einsum("bpse,cqte->bpscqt", predictions, truth)
    mask = np.zeros(score.shape, int)  # 0 is an easy negative, of another video
    for b in range(videos):
        mask[b, :, :, b] = -3  # another position
        for s in range(positions):
            mask[b, :, s, b, :, s] = -1  # the same position at another time
            for p in range(steps):
                mask[b, p, s, b, p, s] = 1
    rows = videos * steps * positions
    target = (mask == 1).reshape(rows, rows).argmax(axis=1)
    logits = score.reshape(rows, rows)
    top = logits.max(axis=1, keepdims=True)
    everything = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
    return float(np.mean(everything - logits[np.arange(rows), target]))


@pytest.mark.parametrize("settings", [{}, {"memory_rows": 6}, MEMDPC], ids=["dpc", "memory", "mem"])
def test_predictions_and_loss_are_the_authors(
    settings: dict[str, Any], task: DensePrediction
) -> None:
    model = predictor_of(num_predicted=3, **settings)
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(3, 5, 4, 7)).astype(np.float32)
    model.build((None, 4, 1, 7))
    for variable in model.trainable_variables:  # biases too, and away from MemDPC's small kernels
        variable.assign(rng.normal(size=variable.shape) / 2)
    kernel, bias = (weight.numpy() for weight in model.neck.weights)
    blocks = maps @ kernel + bias
    expected, losses = [], []
    for way in range(model.num_directions):
        truth = blocks[:, ::-1] if way else blocks
        expected.append(authors_prediction(model, way, blocks))
        losses.append(authors_loss(expected[-1], truth[:, -3:]))
    predictions, targets = model(maps)
    assert predictions.shape == targets.shape == (3, model.num_directions, 3, 4, 8)
    np.testing.assert_allclose(predictions, np.stack(expected, axis=1), rtol=1e-4, atol=1e-5)
    result = task.losses(outputs_of(predictions, targets), {})
    np.testing.assert_allclose(np.mean(result.losses), sum(losses), rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 3, 16), (2, 3, 4), (3, 1, 1)])
def test_loss_is_the_authors(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    predictions, targets = rng.normal(size=(2, *shape, 5)).astype(np.float32)
    result = own_target(tf.constant(predictions), tf.constant(targets))
    np.testing.assert_allclose(
        np.mean(result.losses), authors_loss(predictions, targets), rtol=1e-5
    )
    unit = tf.nn.l2_normalize(targets, axis=-1)
    perfect = own_target(100 * unit, 100 * unit)
    np.testing.assert_array_equal(perfect.metrics["prediction_accuracy"], np.ones(math.prod(shape)))
    large = own_target(tf.constant(1e4 * predictions), tf.constant(1e4 * targets))
    assert np.isfinite(large.losses).all()  # the softmax of products of 1e8


@pytest.mark.parametrize(
    ("ways", "videos", "predicted", "positions", "expected"),
    [
        (1, 4, 3, 16, 5.2575),
        (1, 32, 3, 16, 7.3369),
        (1, 11, 3, 49, 7.3883),
        (1, 2, 3, 4, 3.1781),
        (2, 16, 3, 16, 13.2876),
        (2, 16, 3, 49, 15.5260),
    ],
)
def test_loss_at_chance(
    task: DensePrediction,
    ways: int,
    videos: int,
    predicted: int,
    positions: int,
    expected: float,
) -> None:
    """Where all embeddings are alike, W ln(BPS)."""
    alike = np.ones([videos, ways, predicted, positions, 2], np.float32)
    rows = videos * predicted * positions
    assert expected == pytest.approx(ways * math.log(rows), abs=5e-5)
    losses = task.losses(outputs_of(alike, alike), {}).losses
    np.testing.assert_allclose(losses, np.full(rows, ways * math.log(rows)), rtol=1e-5)


def test_state_halves_where_all_weights_are_zero() -> None:
    cell = predictor_of().cells[0]
    state = tf.constant(np.random.default_rng(0).normal(size=(2, 4, 8)), tf.float32)
    cell.build((2, 4, 8))
    cell.set_weights([0 * weight for weight in cell.get_weights()])
    np.testing.assert_allclose(cell(tf.ones_like(state), [state])[0], state / 2, rtol=1e-6)


def test_initial_kernels_are_orthogonal() -> None:
    for gain in (1.0, 0.1):
        model = predictor_of(gain=gain)
        model.build((None, 3, 1, 5))
        cell = model.cells[0]
        for kernel in (cell.kernel, cell.recurrent_kernel, model.hidden.kernel):
            products = tf.matmul(kernel, kernel, transpose_b=True)
            np.testing.assert_allclose(products, gain**2 * np.eye(8), atol=1e-5)


def memory_predictor(rows: int) -> tuple[BlockPredictor, tf.Tensor]:
    model = predictor_of(memory_rows=rows)
    model.build((None, 3, 1, 5))
    return model, tf.constant(np.random.default_rng(0).normal(size=(2, 4, 3, 5)), tf.float32)


def test_prediction_is_a_mean_of_the_memory() -> None:
    model, maps = memory_predictor(6)
    memory = model.memory.numpy()
    assert memory.shape == (6, 8) and 0.7 < memory.std() < 1.3
    predictions = model(maps)[0].numpy()
    assert (predictions >= memory.min(axis=0) - 1e-6).all()
    assert (predictions <= memory.max(axis=0) + 1e-6).all()
    model.output_layer.kernel.assign(tf.zeros_like(model.output_layer.kernel))
    mean = np.broadcast_to(memory.mean(axis=0), predictions.shape)
    np.testing.assert_allclose(model(maps)[0], mean, rtol=1e-5, atol=1e-6)
    model.output_layer.bias.assign(1e4 * np.eye(6)[2])
    np.testing.assert_array_equal(model(maps)[0], np.broadcast_to(memory[2], predictions.shape))


def test_memory_of_one_row_leaves_nothing_to_learn_but_itself() -> None:
    model, maps = memory_predictor(1)
    with tf.GradientTape() as tape:
        predictions, targets = model(maps)
        loss = tf.reduce_mean(own_target(predictions, targets).losses)
    assert np.ptp(predictions, axis=(0, 1, 2, 3)).max() == 0
    learned = model.hidden.trainable_variables + model.output_layer.trainable_variables
    for gradient in tape.gradient(loss, learned):
        np.testing.assert_array_equal(gradient, tf.zeros_like(gradient))


def test_memory_has_no_weight_decay() -> None:
    model = dpc(predictor_of(**MEMDPC), weight_decay=1.0)
    before = float(model.weight_decay_loss())
    model.predictor.memory.assign(100 * model.predictor.memory)
    assert float(model.weight_decay_loss()) == before > 0
    model.predictor.cells[1].recurrent_kernel.assign_add(tf.ones([8, 24]))
    assert float(model.weight_decay_loss()) > before


def test_time_has_no_direction_of_its_own(task: DensePrediction) -> None:
    """The same loss of reversed videos, once the two GRUs change places."""
    model = predictor_of(num_predicted=3, **{**MEMDPC, "gain": 1.0})
    maps = tf.constant(np.random.default_rng(0).normal(size=(2, 5, 4, 7)), tf.float32)

    def loss(maps: tf.Tensor) -> float:
        outputs = dict(zip(("predictions", "targets"), model(maps), strict=True))
        return float(tf.reduce_mean(task.losses(outputs, {}).losses))

    forward, reversed_ = loss(maps), loss(maps[:, ::-1])
    first, second = (cell.get_weights() for cell in model.cells)
    model.cells[0].set_weights(second)
    model.cells[1].set_weights(first)
    assert loss(maps[:, ::-1]) == pytest.approx(forward, rel=1e-5)
    assert reversed_ != pytest.approx(forward, rel=1e-5)


@pytest.mark.parametrize("way", [0, 1])
def test_no_prediction_sees_what_it_predicts(way: int) -> None:
    """And no position sees another."""
    model = predictor_of(num_predicted=2, **MEMDPC)
    maps = tf.constant(np.random.default_rng(0).normal(size=(1, 5, 4, 7)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        prediction = tf.reduce_sum(model(maps)[0][:, way, 0, 2])
    seen = np.abs(tape.gradient(prediction, maps).numpy()).max(axis=(0, 3)) > 0
    expected = np.zeros((5, 4), bool)
    expected[slice(2, 5) if way else slice(0, 3), 2] = True
    np.testing.assert_array_equal(seen, expected)


def test_gradients_reach_the_targets() -> None:
    """As in the authors' code."""
    rng = np.random.default_rng(0)
    predictions, targets = (tf.constant(rng.normal(size=(2, 1, 4, 5)), tf.float32) for _ in "pt")
    with tf.GradientTape() as tape:
        tape.watch(targets)
        loss = tf.reduce_mean(own_target(predictions, targets).losses)
    assert np.abs(tape.gradient(loss, targets)).max() > 1e-3


def test_dropout_is_of_training_alone_and_of_the_seeds() -> None:
    model, batch = dpc(predictor_of(**MEMDPC)), noise(2, size=8)
    frames = model.views(batch)

    def predictions(training: bool) -> np.ndarray:
        return model.embed(frames, batch, training)["predictions"].numpy()

    np.testing.assert_array_equal(predictions(False), predictions(False))
    dropped = predictions(True)
    np.testing.assert_array_equal(predictions(True), dropped)
    batch["seeds"] += 1000
    assert np.abs(predictions(True) - dropped).max() > 1e-5
    model.predictor.dropout = 0.0
    whole = predictions(True)
    assert np.abs(whole - dropped).max() > 1e-5
    np.testing.assert_array_equal(predictions(True), whole)


def test_blocks_of_a_ramp_follow_each_other(tmp_path: Path) -> None:
    """From records: frame m of block n is at start + stride * (5n + m), by its gray value too."""
    folder = write_records(tmp_path, [ramp_video(60, 32, 32) for _ in range(12)])
    sampler = clips.ConsecutiveClips(num_frames=5, stride=2, num_clips=4)
    data = pipeline.Pipeline(folder, sampler, views.RandomResizedCrop(16, per_video=True))
    (batch,) = data.train_batches(12).take(1)
    starts = batch["positions"].numpy()[:, :1, :1]
    expected = starts + 2 * (5 * np.arange(4)[:, None] + np.arange(5))
    np.testing.assert_array_equal(batch["positions"], expected)
    gray = batch["frames"].numpy().mean(axis=(3, 4, 5)) / 4
    np.testing.assert_allclose(gray, expected, atol=0.3)
    assert len(np.unique(starts)) > 4 and starts.max() <= 60 - 39


def test_pictures_tell_what_is_predicted(task: DensePrediction) -> None:
    clips, captions = task.shown(noise(2, size=8))
    assert clips.shape == (2, 4, *clips.shape[2:])
    expected = ["block 1", "block 2", "block 3, to predict", "block 4, to predict"]
    assert captions == 2 * expected


def test_blocks_that_leave_nothing_to_predict_from_are_refused(task: DensePrediction) -> None:
    batch = noise(1, blocks=2, size=8)
    with pytest.raises(ValueError, match=r"2 of 2 blocks are to be predicted, .*ConsecutiveClips"):
        task.embed(tf.zeros([1, 2, 4, 8, 8, 3]), batch, False)


def test_predictions_are_float32_and_an_export_has_the_encoder_alone() -> None:
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = dpc(predictor_of(**MEMDPC))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    batch = noise(1)
    outputs = model.embed(model.views(batch), batch, training=True)
    assert model.encoder.compute_dtype == "bfloat16"
    assert {value.dtype for value in outputs.values()} == {tf.float32}
    assert set(model.checkpoint_roots) == {"encoder", "predictor"} and model.export_facts == {}


def test_predictors_are_rebuilt() -> None:
    model = predictor_of(**MEMDPC)
    again = BlockPredictor.from_config(model.get_config())
    assert again(tf.zeros([2, 3, 4, 5]))[0].shape == (2, 2, 2, 4, 8)
    assert again.memory.shape == (6, 8)


def moving(videos: int, seed: int) -> np.ndarray:
    """A bright square of any color moves over a dark ground: uint8 [videos, 4, 2, 32, 32, 3]."""
    rng = np.random.default_rng(seed)
    places, steps = rng.integers(6, 18, (videos, 2)), rng.choice([-1, 1], (videos, 2))
    frames = np.empty((videos, 8, 32, 32, 3), np.uint8)
    frames[:] = rng.integers(0, 60, (videos, 1, 1, 1, 3))
    for number, color in enumerate(rng.integers(100, 256, (videos, 3))):
        for time in range(8):
            top, left = places[number] + (time - 4) * steps[number]
            frames[number, time, top : top + 12, left : left + 12] = color
    return frames.reshape(videos, 4, 2, 32, 32, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{}, {"memory_rows": 32, "both_directions": True}], ids=["dpc", "memdpc"]
)
def test_moving_squares_are_predicted(settings: dict[str, Any]) -> None:
    """Better than by who knows the video, but neither block nor position: W ln(PS)."""
    predictor = predictor_of(dim=32, **settings)
    encoder = ResNet3D(depth=10, width=0.25, stem_pool=False)
    model = DensePrediction(encoder, predictor, augment=presets.none())
    model.compile(keras.optimizers.Adam(2e-3))
    data = tf.data.Dataset.from_tensor_slices(moving(16 * 50, seed=0)).batch(16, True)
    model.fit(data, epochs=6, verbose=0)
    _, metrics = model.compute_losses(batch_of(moving(16, seed=1)), training=True)
    positions = 4
    assert metrics["loss"] < 0.9 * predictor.num_directions * math.log(2 * positions)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, MEMDPC], ids=["dpc", "memdpc"])
def test_cached_gradients_are_those_of_the_whole_batch(settings: dict[str, Any]) -> None:
    """Dropout included: the second pass drops what the first one did."""
    found = []
    for micro_batch in (None, 2):  # parts of 2 and 1
        model = dpc(predictor_of(**settings), weight_decay=1e-3, micro_batch=micro_batch)
        for layer in model.submodules:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False  # micro-batches have statistics of their own
        model.compile(keras.optimizers.SGD(0.01))
        found.append(tf.function(model.gradients)(noise(3)))
    (objective, gradients, metrics), (cached_objective, cached, cached_metrics) = found
    scale = max(float(tf.reduce_max(tf.abs(gradient))) for gradient in gradients)
    np.testing.assert_allclose(cached_objective, objective, rtol=1e-5)
    for ours, expected in zip(cached, gradients, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5 * scale)
    for name, value in metrics.items():
        np.testing.assert_allclose(cached_metrics[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_two_replicas_equal_one(tmp_path: Path) -> None:
    replicated.assert_replicas_equal_one(__file__, task_and_batch, tmp_path)


@pytest.mark.slow
def test_step_has_static_shapes() -> None:
    """What a TPU asks for."""
    model = dpc(predictor_of(**MEMDPC), weight_decay=1e-3, micro_batch=2)
    model.compile(keras.optimizers.SGD(0.1))
    graph = tf.function(model.train_step).get_concrete_function(noise(4)).graph
    for operation in graph.get_operations():
        # The last output of the normalization is scratch memory of GPUs.
        if operation.type not in ("FusedBatchNormV3", "ZerosLike"):
            assert all(output.shape.is_fully_defined() for output in operation.outputs), operation
