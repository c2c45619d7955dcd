"""The momentum encoder and the queue, in a small MoCo."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import replicated
import tensorflow as tf
import tf_keras as keras

from cvrl_tf import checkpoints, distribution
from cvrl_tf.augment import presets
from cvrl_tf.data import clips, pipeline, views
from cvrl_tf.inference import saved_model
from cvrl_tf.losses import weight_decay as decay
from cvrl_tf.losses.result import LossResult
from cvrl_tf.models.encoder import Encoder
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.pretext.base import Outputs, PretextTask
from cvrl_tf.tasks.pretext.momentum import MomentumEncoder, Queue
from cvrl_tf.tasks.task import Batch
from cvrl_tf.training import settings
from cvrl_tf.training.run import Run

DIM = 16


class Moco(PretextTask):
    """The first clip of a video asks, the second is its key, the queue holds the others."""

    metric_names = ("contrastive_accuracy",)

    def __init__(
        self,
        encoder: Encoder,
        head: keras.Model,
        momentum: float = 0.9,
        anneal: bool = False,
        queue_size: int = 16,
        **base: Any,
    ) -> None:
        super().__init__(encoder, {"head": head}, presets.none(), **base)
        self.twins = MomentumEncoder(encoder, head, momentum, anneal)
        self.queue = Queue(queue_size, DIM)

    @property
    def checkpoint_roots(self) -> dict[str, tf.Module]:
        return super().checkpoint_roots | self.twins.roots | {"queue": self.queue}

    def on_begin(self) -> None:
        self.twins.copy()

    def after_step(self, step: tf.Tensor, total_steps: int | None) -> None:
        self.twins.update(step, total_steps)

    def embed(self, views: tf.Tensor, batch: Batch, training: bool) -> Outputs:
        queries = super().embed(views[:, :1], batch, training)["head"]
        keys = self.twins(views[:, 1])
        return {"queries": tf.nn.l2_normalize(queries, 1), "keys": tf.nn.l2_normalize(keys, 1)}

    def losses(self, outputs: Outputs, batch: Batch) -> LossResult:
        queries, keys = outputs["queries"], outputs["keys"]
        own = tf.reduce_sum(queries * keys, axis=1, keepdims=True)
        logits = tf.concat([own, tf.matmul(queries, self.queue.read(), transpose_b=True)], 1) / 0.1
        labels = tf.zeros(tf.shape(queries)[:1], tf.int32)
        self.queue.push(distribution.gather(keys)[0])
        accuracy = tf.cast(tf.argmax(logits, 1, tf.int32) == labels, tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return LossResult(losses, {"contrastive_accuracy": accuracy})


def moco(**kwargs: Any) -> Moco:
    keras.utils.set_random_seed(0)
    encoder = ResNet3D(depth=10, width=0.125, stem_pool=False)
    return Moco(encoder, ProjectionHead(hidden_dim=32, num_hidden=1, output_dim=DIM), **kwargs)


def noise(videos: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "frames": rng.integers(0, 256, (videos, 2, 4, 16, 16, 3), np.uint8),
        "seeds": np.zeros((videos, 2, 2), np.int32),
    }


def task_and_batch() -> tuple[Moco, dict[str, np.ndarray]]:
    """What `replicated` computes."""
    model = moco(weight_decay=1e-3, queue_size=24)
    model.compile(keras.optimizers.SGD(0.01))
    return model, noise(8)


@pytest.fixture(scope="module")
def small() -> tuple[Encoder, keras.Model]:
    model = moco()
    return model.encoder, model.head


def fill(model: tf.Module, value: float) -> None:
    for variable in model.variables:
        variable.assign(tf.fill(variable.shape, value))


def test_weights_follow_and_moving_statistics_do_not(small: tuple) -> None:
    encoder, head = small
    fill(encoder, 0.0)
    fill(head, 0.0)
    twins = MomentumEncoder(encoder, head, momentum=0.999)
    fill(encoder, 1.0)
    fill(head, 1.0)
    tf.function(lambda: twins.update(tf.constant(1, tf.int64), None))()
    for twin, model in ((twins.encoder, encoder), (twins.head, head)):
        assert len(twin.trainable_variables) == len(model.trainable_variables) > 2
        for variable in twin.trainable_variables:
            np.testing.assert_allclose(variable, np.full(variable.shape, 0.001), rtol=1e-4)
        for variable in twin.non_trainable_variables:
            np.testing.assert_array_equal(variable, np.zeros(variable.shape))
    twins.copy()
    for ours, theirs in zip(twins.encoder.weights, encoder.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("base", [0.994, 0.996])
def test_momentum_grows_to_one_by_a_cosine(base: float, small: tuple) -> None:
    twins = MomentumEncoder(*small, momentum=base, anneal=True)
    found = [float(twins.momentum_at(tf.constant(step, tf.int64), 10)) for step in (0, 5, 10)]
    np.testing.assert_allclose(found, [base, (1 + base) / 2, 1], atol=1e-6)
    with pytest.raises(ValueError, match="total_steps"):
        twins.update(tf.constant(1, tf.int64), None)
    steady = MomentumEncoder(*small, momentum=base)
    assert float(steady.momentum_at(tf.constant(7, tf.int64), 10)) == pytest.approx(base)


def test_momentum_is_a_share(small: tuple) -> None:
    with pytest.raises(ValueError, match=r"momentum=1.5 is not in \[0, 1\]"):
        MomentumEncoder(*small, momentum=1.5)


def test_frozen_layers_change_no_pair() -> None:
    """Keras puts what is frozen behind the rest."""
    model = moco()
    model.encoder.stem.norm.trainable = False
    twins = MomentumEncoder(model.encoder, model.head, momentum=0.5)
    found = twins.encoder.stem.norm.gamma
    model.encoder.stem.norm.gamma.assign_add(tf.ones(found.shape))
    twins.update(tf.constant(1, tf.int64), None)
    np.testing.assert_allclose(found, np.full(found.shape, 1.5))


def test_twins_use_the_statistics_of_the_batch() -> None:
    model = moco()
    frames = noise(4)["frames"][:, 0] / np.float32(255)
    expected = model.head(model.encoder(frames, training=True), training=True)
    np.testing.assert_allclose(model.twins(frames), expected, rtol=1e-5, atol=1e-6)


def test_queue_begins_with_random_directions() -> None:
    queue = Queue(500, 32)
    np.testing.assert_allclose(np.linalg.norm(queue.read(), axis=1), 1, rtol=1e-5)
    cosines = queue.read() @ tf.transpose(queue.read()) - tf.eye(500)
    assert np.abs(cosines).max() < 0.9
    np.testing.assert_array_equal(queue.read(), Queue(500, 32).read())


def test_the_third_push_overwrites_the_first() -> None:
    queue = Queue(8, 3)
    push = tf.function(queue.push)
    for number, pointer in ((1, 4), (2, 0), (3, 4)):
        push(tf.fill([4, 3], float(number)))
        assert queue.pointer == pointer
    np.testing.assert_array_equal(queue.read()[:, 0], [3, 3, 3, 3, 2, 2, 2, 2])


@pytest.mark.parametrize("count", [3, 5, 16])
def test_a_queue_that_is_no_multiple_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"queue of 8 keys can't be filled by {count} .* such as"):
        tf.function(Queue(8, 3).push).get_concrete_function(tf.TensorSpec([count, 3]))
    with pytest.raises(ValueError, match="queue of 16 keys can't be filled by 5"):
        model = moco()
        model.compile(keras.optimizers.SGD(0.01))
        model.fit(tf.data.Dataset.from_tensors(noise(5)), verbose=0)


def test_twins_and_queue_receive_no_gradient() -> None:
    model, batch = task_and_batch()
    held = [*model.twins.encoder.variables, *model.twins.head.variables, model.queue.keys]
    with tf.GradientTape() as tape:
        tape.watch(held)
        objective, _ = model.compute_losses(batch, training=True)
    assert all(slope is None for slope in tape.gradient(objective, held))


def test_twins_are_neither_trained_nor_decayed() -> None:
    model, batch = task_and_batch()
    names = [variable.ref() for variable in model.trainable_variables]
    for variable in [*model.twins.encoder.weights, *model.twins.head.weights, model.queue.keys]:
        assert variable.ref() not in names
    expected = decay.l2(
        decay.kernels(model.encoder.trainable_variables + model.head.trainable_variables)
    )
    np.testing.assert_allclose(model.weight_decay_loss(), 1e-3 * expected, rtol=1e-6)
    before = model.twins.encoder.stem.conv.kernel.numpy()
    initial = model.encoder.stem.conv.kernel.numpy()
    model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    after = model.encoder.stem.conv.kernel.numpy()
    assert np.abs(after - initial).max() > 0
    expected = 0.9 * before + 0.1 * after
    np.testing.assert_allclose(model.twins.encoder.stem.conv.kernel, expected, rtol=1e-5, atol=1e-8)
    assert model.queue.pointer == 8


def frozen(**kwargs: Any) -> Moco:
    """With frozen statistics, for micro-batches have statistics of their own."""
    model = moco(weight_decay=1e-3, **kwargs)
    for root in (model, model.twins.encoder, model.twins.head):
        for layer in root.submodules:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
    model.compile(keras.optimizers.SGD(0.01))
    return model


@pytest.mark.slow
def test_cached_gradients_are_those_of_the_whole_batch() -> None:
    batch = {name: tf.constant(rows) for name, rows in noise(4).items()}
    whole, cached = frozen(), frozen(micro_batch=3)
    expected, gradients, _ = tf.function(whole.gradients)(batch)
    objective, ours, _ = tf.function(cached.gradients)(batch)
    np.testing.assert_allclose(objective, expected, rtol=1e-5)
    scale = max(float(tf.reduce_max(tf.abs(gradient))) for gradient in gradients)
    for one, other in zip(ours, gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * scale)
    assert cached.queue.pointer == 4  # pushed once
    np.testing.assert_allclose(cached.queue.read(), whole.queue.read(), atol=1e-5)


@pytest.mark.slow
def test_micro_batches_move_the_twins_statistics_once_each() -> None:
    model = moco(micro_batch=4)
    model.compile(keras.optimizers.SGD(0.01))
    batch = {name: tf.constant(rows) for name, rows in noise(8).items()}
    tf.function(model.gradients)(batch)
    expected = moco().twins
    for part in (batch["frames"][:4], batch["frames"][4:]):
        expected(tf.cast(part[:, 1], tf.float32) / 255)
    found = model.twins.encoder.stem.norm.moving_mean
    assert np.abs(found).max() > 0
    np.testing.assert_allclose(found, expected.encoder.stem.norm.moving_mean, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_training_tells_videos_apart(jit_compile: bool) -> None:
    """Whose color both clips share; the queue of two batches forgets what it began with."""
    rng = np.random.default_rng(0)
    colors = rng.uniform(60, 190, (16, 8, 1, 1, 1, 1, 3))
    frames = (colors + rng.normal(scale=10, size=(16, 8, 2, 4, 16, 16, 3))).clip(0, 255)
    batches = {"frames": frames.astype(np.uint8), "seeds": np.zeros((16, 8, 2, 2), np.int32)}
    model = moco()
    model.compile(keras.optimizers.Adam(2e-3), jit_compile=jit_compile)
    data = tf.data.Dataset.from_tensor_slices(batches)
    losses = [model.fit(data, verbose=0).history["loss"][0] for _ in range(3)]
    assert losses[-1] < 0.8 * losses[0]


def new_run(folder: Path, records: Path) -> Run:
    return Run(
        folder,
        pipeline.Pipeline(records, clips.UniformClips(4, 2, 2), views.RandomResizedCrop(16)),
        lambda: moco(anneal=True, queue_size=12),
        settings.Optimization(
            lambda learning_rate: keras.optimizers.SGD(learning_rate, momentum=0.9),
            lambda steps_per_epoch, epochs, global_batch: 0.05,
        ),
        global_batch=4,
        epochs=2,
        validation=settings.Validation(),
        checkpointing=settings.Checkpointing(every=3, keep=10),
        execution=settings.Execution(distribution.strategy(), log_every=1),
    )


class StopAt(keras.callbacks.Callback):
    """Ctrl-C in a step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._step = step

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        if int(self.model.optimizer.iterations) == self._step - 1:
            signal.raise_signal(signal.SIGINT)


def held(run: Run) -> dict[str, np.ndarray]:
    """All that the checkpoint's roots hold."""
    return {
        key: variable.numpy()
        for name, root in run.model.checkpoint_roots.items()
        for key, variable in checkpoints.keys_of(root, name).items()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, noise_records: Path) -> Run:
    run = new_run(tmp_path_factory.mktemp("undisturbed") / "run", noise_records)
    run.fit()
    return run


@pytest.mark.slow
def test_a_resumed_run_ends_in_the_same_twins_and_queue(
    undisturbed: Run, noise_records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = new_run(tmp_path, noise_records)
    fit = first.model.fit
    with monkeypatch.context() as patch:
        patch.setattr(
            first.model,
            "fit",
            lambda *args, callbacks, **kwargs: fit(
                *args, callbacks=[*callbacks, StopAt(5)], **kwargs
            ),
        )
        with pytest.raises(SystemExit, match="130"):
            first.fit()
    second = new_run(tmp_path, noise_records)
    assert second.step == 5
    for name, value in held(first).items():
        np.testing.assert_array_equal(held(second)[name], value, err_msg=name)
    second.fit()
    expected = held(undisturbed)
    assert {name.split("/")[0] for name in expected} == {
        "encoder",
        "head",
        "momentum_encoder",
        "momentum_head",
        "queue",
    }
    for name, value in held(second).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_new_run_begins_with_the_initial_encoder(noise_records: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path, noise_records)
    run.model.encoder.stem.conv.kernel.assign_add(tf.ones_like(run.model.encoder.stem.conv.kernel))
    run.model.on_begin()
    np.testing.assert_array_equal(
        run.model.twins.encoder.stem.conv.kernel, run.model.encoder.stem.conv.kernel
    )


def test_the_export_holds_encoder_and_head_alone(undisturbed: Run, tmp_path: Path) -> None:
    facts = checkpoints.SavedRun.open(undisturbed.model_dir).facts
    assert set(facts) == {"head"}
    saved_model.export_encoder(undisturbed.model_dir, tmp_path / "model", num_clips=1, num_crops=1)
    reader = tf.train.load_checkpoint(str(tmp_path / "model" / "variables" / "variables"))
    count = sum(
        int(np.prod(shape))
        for name, shape in reader.get_variable_to_shape_map().items()
        if name.endswith(checkpoints.VALUE)
    )
    parts = (undisturbed.model.encoder, undisturbed.model.head)
    assert count == sum(part.count_params() for part in parts)


@pytest.mark.slow
def test_two_replicas_hold_the_same_and_equal_one(tmp_path: Path) -> None:
    replicated.assert_replicas_equal_one(__file__, task_and_batch, tmp_path)
