"""The training loop: resumes to the same weights, logs, and refuses what can't work."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from conftest import logged_steps, noise_video, sampling, write_records

from cvrl_tf import checkpoints, distribution
from cvrl_tf.augment.chain import Chain, ViewChains
from cvrl_tf.augment.photometric import ColorJitter
from cvrl_tf.data import clips, pipeline, schema, views
from cvrl_tf.evaluation.features import extract
from cvrl_tf.evaluation.monitor import KnnMonitor
from cvrl_tf.measures.neighbors import Knn
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.optim.schedules import warmup_cosine
from cvrl_tf.tasks.classify import Classifier
from cvrl_tf.tasks.pretext.contrastive import ContrastiveLearner
from cvrl_tf.training import callbacks, run_folder
from cvrl_tf.training.run import Run
from cvrl_tf.training.settings import Checkpointing, Execution, Optimization, Validation

STEPS_PER_EPOCH = 3  # 17 videos, batches of 5


def learner() -> ContrastiveLearner:
    return ContrastiveLearner(
        ResNet3D(depth=10, width=0.125, stem_pool=False),
        ProjectionHead(hidden_dim=32, num_hidden=1, output_dim=16),
        ViewChains([Chain([ColorJitter()])]),
    )


def schedule(**facts: int) -> Any:
    warmup = min(1, facts["epochs"] - 1)
    return warmup_cosine(**facts, learning_rate=0.05, base_batch=5, warmup_epochs=warmup)


GROUPS = {
    "optimizer": "optimization.optimizer",
    "learning_rate": "optimization.learning_rate",
    "eval_data": "validation.data",
    "eval_batch": "validation.batch",
    "eval_every": "validation.every",
    "monitors": "validation.monitors",
    "initial_checkpoint": "checkpointing.initial",
    "checkpoint_every": "checkpointing.every",
    "keep_checkpoints": "checkpointing.keep",
    "best_metric": "checkpointing.best_metric",
    "extend": "checkpointing.extend",
    "strategy": "execution.strategy",
    "seed": "execution.seed",
    "precision": "execution.precision",
    "steps_per_execution": "execution.steps_per_execution",
    "log_every": "execution.log_every",
}
SETTINGS = {
    "optimization": Optimization,
    "validation": Validation,
    "checkpointing": Checkpointing,
    "execution": Execution,
}


def new_run(folder: Path, records: Path, **changes: Any) -> Run:
    arguments: dict[str, Any] = {
        "model_dir": folder,
        "strategy": distribution.strategy(),
        "train_data": pipeline.Pipeline(
            records, clips.UniformClips(4, 2, 2), views.RandomResizedCrop(16)
        ),
        "task": learner,
        "optimizer": lambda learning_rate: keras.optimizers.SGD(learning_rate, momentum=0.9),
        "learning_rate": schedule,
        "global_batch": 5,
        "epochs": 3,
        "log_every": 1,
        "checkpoint_every": 2,
        "keep_checkpoints": 100,
    }
    groups: dict[str, dict[str, Any]] = {name: {} for name in SETTINGS}
    rest: dict[str, Any] = {}
    for name, value in {**arguments, **changes}.items():
        group, _, field = GROUPS.get(name, name).partition(".")
        if field:
            groups[group][field] = value
        else:
            rest[name] = value
    return Run(**rest, **{name: SETTINGS[name](**of) for name, of in groups.items()})


class SignalAt(keras.callbacks.Callback):
    """A signal in a step."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__()
        self.number, self.step = number, step

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        if int(self.model.optimizer.iterations) == self.step - 1:
            os.kill(os.getpid(), self.number)


def weights(run: Run) -> list[np.ndarray]:
    return run.model.get_weights() + [v.numpy() for v in run.model.optimizer.variables]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, noise_records: Path) -> Run:
    run = new_run(tmp_path_factory.mktemp("undisturbed") / "run", noise_records)
    run.fit()
    return run


@pytest.mark.addons
@pytest.mark.parametrize(
    ("number", "step"),
    [
        (signal.SIGINT, 5),
        pytest.param(signal.SIGINT, STEPS_PER_EPOCH, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 2 * STEPS_PER_EPOCH, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 5, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 2 * STEPS_PER_EPOCH, marks=pytest.mark.slow),
    ],
)
def test_stopped_and_resumed_ends_in_the_same_weights(
    number: int,
    step: int,
    undisturbed: Run,
    noise_records: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = new_run(tmp_path, noise_records)
    fit = first.model.fit
    with monkeypatch.context() as patch:
        patch.setattr(
            first.model,
            "fit",
            lambda *args, callbacks, **kwargs: fit(
                *args, callbacks=[*callbacks, SignalAt(number, step)], **kwargs
            ),
        )
        with pytest.raises(SystemExit) as stopped:
            first.fit()
    assert stopped.value.code == (130 if number == signal.SIGINT else callbacks.PREEMPTED)
    assert f"Stopped; saved at step {step}. Rerun" in capsys.readouterr().out
    second = new_run(tmp_path, noise_records)
    assert second.step == step
    second.fit()
    assert second.step == 3 * STEPS_PER_EPOCH
    for resumed, expected in zip(weights(second), weights(undisturbed), strict=True):
        np.testing.assert_allclose(resumed, expected, rtol=1e-5, atol=1e-6)
    ends = [epoch_lines(run.model_dir) for run in (second, undisturbed)]
    assert len(ends[1]) == 3
    for resumed, expected in zip(*ends, strict=True):
        assert resumed == pytest.approx(expected, rel=1e-5)


def epoch_lines(folder: Path) -> list[dict]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "epoch" in line]


@pytest.mark.slow
def test_steps_per_execution_change_nothing(
    undisturbed: Run, noise_records: Path, tmp_path: Path
) -> None:
    run = new_run(tmp_path, noise_records, steps_per_execution=2)
    run.fit()
    for ours, expected in zip(weights(run), weights(undisturbed), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    # Three steps an epoch, so the host hears of them after the second and the third.
    assert [line["step"] for line in lines if "train/loss" in line] == [2, 3, 5, 6, 8, 9]


@pytest.mark.addons
def test_logs_hold_every_step_once(noise_records: Path, tmp_path: Path) -> None:
    """What the run said after its last checkpoint, half a line included, is said again."""
    run = new_run(tmp_path, noise_records, epochs=1)
    run.fit()
    metrics, (events, *_) = tmp_path / "metrics.jsonl", list((tmp_path / "tensorboard").iterdir())
    before = metrics.read_text()
    for index in (tmp_path / "checkpoints").glob("ckpt-3*"):
        index.unlink()
    state = tmp_path / "checkpoints" / "checkpoint"
    state.write_text(state.read_text().replace("ckpt-3", "ckpt-2"))
    metrics.write_text(before + '{"step": 4, "tra')
    with events.open("ab") as file:
        file.write(b"half an event")
    again = new_run(tmp_path, noise_records, epochs=1)
    assert again.step == 2
    again.fit()
    lines, first = (
        [json.loads(line) for line in text.splitlines()] for text in (metrics.read_text(), before)
    )
    assert [line["step"] for line in lines] == [1, 2, 3, 3]
    for ours, expected in zip(lines, first, strict=True):
        for name in ("train/loss", "train/gradient_norm", "epoch/loss", "learning_rate", "epoch"):
            # The mean of the epoch goes on where it was.
            assert ours.get(name, 0) == pytest.approx(expected.get(name, 0), rel=1e-5), name
    said = logged_steps(tmp_path / "tensorboard")
    assert said["train/loss"] == [1, 2, 3] and said["epoch/loss"] == [3]


@pytest.mark.addons
def test_the_best_epoch_is_kept(noise_records: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path, noise_records, best_metric="contrastive_accuracy", epochs=4)
    run.fit()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    values = [line["epoch/contrastive_accuracy"] for line in lines if "epoch" in line]
    assert run._progress.best.numpy() == pytest.approx(max(values))
    assert checkpoints.resolve(tmp_path / "best").endswith(f"ckpt-{3 * (np.argmax(values) + 1)}")
    checkpoints.load_encoder(tmp_path / "best")
    again = new_run(tmp_path, noise_records, best_metric="contrastive_accuracy", epochs=4)
    assert again._progress.best.numpy() == pytest.approx(max(values))
    with pytest.raises(ValueError, match="best_metric='top1': there is only loss, contrastive"):
        new_run(tmp_path / "other", noise_records, best_metric="top1")


@pytest.mark.addons
def test_a_loss_that_is_not_finite_ends_the_run(noise_records: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path, noise_records, learning_rate=lambda **_: 1e30, checkpoint_every=1)
    with pytest.raises(run_folder.Stopped, match=r"step 1 is not finite \(learning rate 1e\+30"):
        run.fit()
    facts = json.loads((tmp_path / "not_finite.json").read_text())
    assert facts["step"] == 1 and facts["learning_rate"] == pytest.approx(1e30)
    assert facts["video_ids"] == run._train_data.video_ids(5, 0, 1)
    assert len(set(facts["video_ids"])) == 5
    assert checkpoints.resolve(tmp_path).endswith("ckpt-1")


@pytest.mark.slow
def test_a_damaged_record_ends_the_run_or_is_passed_over(
    noise_records: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(noise_records, folder)
    shard = folder / "train-00000-of-00002"
    os.truncate(shard, shard.stat().st_size // 2)

    def data(**policy: bool) -> pipeline.Pipeline:
        return pipeline.Pipeline(
            folder, clips.UniformClips(4, 2, 2), views.RandomResizedCrop(16), **policy
        )

    with pytest.raises(run_folder.Stopped) as stopped:
        new_run(tmp_path / "stops", folder, train_data=data()).fit()
    assert re.search(rf"record [4-8] of {shard}.*\n.*skip_damaged", str(stopped.value))
    run = new_run(tmp_path / "skips", folder, train_data=data(skip_damaged=True))
    run.fit()
    assert run.step == 9
    lines = (tmp_path / "skips" / "metrics.jsonl").read_text().splitlines()
    skipped = [json.loads(line).get("epoch/skipped_records", 0) for line in lines]
    assert 4 <= max(skipped) <= 9


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(
    precision: str, undisturbed: Run, noise_records: Path, tmp_path: Path
) -> None:
    run = new_run(tmp_path, noise_records, precision=precision)
    run.fit()
    assert all(weight.dtype == np.float32 for weight in run.model.get_weights())
    assert run.model.encoder.compute_dtype == precision.removeprefix("mixed_")
    ours, expected = (
        [
            line["train/loss"]
            for line in map(json.loads, (each.model_dir / "metrics.jsonl").open())
            if "train/loss" in line
        ]
        for each in (run, undisturbed)
    )
    # Only the first steps: float16 leaves some out until it has found its scale.
    np.testing.assert_allclose(ours[:2], expected[:2], rtol=0.02)
    assert new_run(tmp_path, noise_records, precision=precision).step == 9
    new_run(tmp_path / "plain", noise_records)  # the policy of this process again


def test_a_second_run_in_the_same_folder_is_refused(noise_records: Path, tmp_path: Path) -> None:
    first = new_run(tmp_path, noise_records)
    with (
        run_folder.locked(first.model_dir),
        pytest.raises(run_folder.Stopped, match=f"in use by process {os.getpid()} on"),
    ):
        new_run(tmp_path, noise_records).fit()
    assert not (tmp_path / "metrics.jsonl").exists()


def test_what_a_run_leaves(undisturbed: Run, noise_records: Path) -> None:
    folder = undisturbed.model_dir
    facts = json.loads((folder / "run.json").read_text())
    assert facts["steps_per_epoch"] == STEPS_PER_EPOCH and facts["train"]["videos"] == 17
    assert facts["packages"]["tensorflow"] == tf.__version__
    assert (facts["version"], facts["task"], facts["kind"]) == (2, "ContrastiveLearner", "pretrain")
    assert facts["metric_names"][:2] == ["loss", "contrastive_accuracy"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "train/loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 10))
    rates = schedule(steps_per_epoch=3, epochs=3, global_batch=5)
    for line in steps:
        np.testing.assert_allclose(line["learning_rate"], rates(line["step"] - 1), rtol=1e-5)
    assert [line["epoch"] for line in lines if "epoch" in line] == [1, 2, 3]
    assert list((folder / "tensorboard").iterdir())
    sheet = tf.io.decode_png((folder / "views.png").read_bytes()).numpy()
    assert sheet.shape == (10 * 16, 160 + 4 * 16, 3)  # two clips of each of five videos
    assert sheet[:, 160:].std() > 10 and sheet[:, :160].std() > 10
    names = sorted(path.name for path in (folder / "checkpoints").glob("*.index"))
    assert names == [f"ckpt-{step}.index" for step in (2, 3, 4, 6, 8, 9)]

    saved = checkpoints.SavedRun.open(folder)
    assert saved.sampling == sampling(4, 16, short_side=48)
    encoder = saved.load_encoder()
    frames = tf.random.uniform([2, 4, 16, 16, 3])
    np.testing.assert_array_equal(encoder(frames), undisturbed.model.encoder(frames))


@pytest.mark.addons
def test_a_finished_run_has_nothing_to_do(
    undisturbed: Run, noise_records: Path, capsys: pytest.CaptureFixture
) -> None:
    again = new_run(undisturbed.model_dir, noise_records)
    again.fit()
    assert again.step == 9
    assert "All 3 epochs are done" in capsys.readouterr().out


@pytest.mark.addons
def test_probe_starts_from_the_pretrained_encoder_and_is_tested(
    undisturbed: Run, noise_records: Path, tmp_path: Path
) -> None:
    def probe(encoder: Callable[[], ResNet3D]) -> Callable[[], Classifier]:
        return lambda: Classifier(encoder(), 2, freeze_encoder=True, augment=ViewChains([Chain()]))

    changes: dict[str, Any] = {
        "train_data": pipeline.Pipeline(
            noise_records, clips.UniformClips(4, 2, 1), views.RandomResizedCrop(16)
        ),
        "eval_data": pipeline.Pipeline(
            noise_records, clips.EvenClips(4, 2, 2), views.EvenCrops(16, 16, 3), split="test"
        ),
        "eval_batch": 2,
        "initial_checkpoint": undisturbed.model_dir,
    }
    small = probe(lambda: ResNet3D(depth=10, width=0.125, stem_pool=False))
    run = new_run(tmp_path, noise_records, task=small, **changes)
    run.fit()
    frames = tf.random.uniform([2, 4, 16, 16, 3])
    np.testing.assert_array_equal(run.model.encoder(frames), undisturbed.model.encoder(frames))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    tests = [line["test/top1"] for line in lines if "test/top1" in line]
    assert len(tests) == 3
    assert all(round(5 * top1, 4) in range(6) for top1 in tests)  # fifths: five test videos

    other = probe(lambda: ResNet3D(depth=18, width=0.125, stem_pool=False))
    with pytest.raises(ValueError, match="another depth or width.*\n.*missing there: encoder/"):
        new_run(tmp_path / "other", noise_records, task=other, **changes)


def test_batches_that_cannot_work_are_refused(noise_records: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="global_batch=18 is more than the 17 training examples"):
        new_run(tmp_path, noise_records, global_batch=18)


def test_videos_without_a_class_are_refused_where_it_is_needed(tmp_path: Path) -> None:
    records = write_records(tmp_path / "clips", [noise_video(8, 16, 16, 0)] * 5, num_shards=1)
    write_records(records, [noise_video(8, 16, 16, 0)], "test", num_shards=1)
    info = schema.DatasetInfo.load(records)
    info.splits["test"].class_counts.clear()
    info.save(records)
    test = pipeline.Pipeline(records, clips.EvenClips(4, 2, 1), views.EvenCrops(16, 16, 1), "test")
    new_run(tmp_path / "pretext", records, eval_data=test)

    def task() -> Classifier:
        return Classifier(ResNet3D(depth=10, width=0.125, stem_pool=False), 2, freeze_encoder=True)

    with pytest.raises(ValueError, match=r"1 of 1 videos of split 'test' .* --unlabeled=skip"):
        new_run(tmp_path / "tested", records, task=task, eval_data=test)


def test_seed_gives_the_initial_weights(noise_records: Path, tmp_path: Path) -> None:
    one, same, other = (
        new_run(tmp_path / name, noise_records, seed=seed).model.get_weights()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_pictures_are_of_the_first_batch(undisturbed: Run, one_worker: Callable) -> None:
    """In the run's folder, and the same in TensorBoard: a row for each clip, behind its caption."""
    (batch,) = undisturbed._train_data.train_batches(5, 0, 0, one_worker(1)).take(1)
    views = undisturbed.model.augment(batch["frames"], batch["seeds"]).numpy()
    views = views.reshape(batch["frames"].shape)  # [5, 2, 4, 16, 16, 3]
    (events,) = [
        list(tf.compat.v1.train.summary_iterator(str(path)))
        for path in sorted((undisturbed.model_dir / "tensorboard").iterdir())
        if b"clips of the first batch" in path.read_bytes()
    ]
    (value,) = [value for event in events for value in event.summary.value]
    (picture,) = value.tensor.string_val[2:]  # width and height come first
    shown = tf.io.decode_png(picture).numpy()
    rows = [np.concatenate(list(clip), axis=1) for clip in views.reshape(-1, 4, 16, 16, 3)]
    np.testing.assert_allclose(shown[:, -64:] / 255, np.concatenate(rows), atol=1 / 255)
    sheet = tf.io.decode_png((undisturbed.model_dir / "views.png").read_bytes())
    np.testing.assert_array_equal(sheet, shown)


@pytest.mark.slow
def test_neighbors_are_asked_every_other_epoch(noise_records: Path, tmp_path: Path) -> None:
    crop = views.EvenCrops(16, 16, 1)
    data = [
        pipeline.Pipeline(noise_records, clips.EvenClips(4, 2, 1), crop, split)
        for split in ("train", "test")
    ]
    monitor = KnnMonitor(*data, num_classes=2, batch=5, every=2)
    run = new_run(
        tmp_path / "run", noise_records, epochs=4, monitors=[monitor], best_metric="knn_top1"
    )
    run.fit()
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = {line["epoch"]: line.get("epoch/knn_top1") for line in lines if "epoch" in line}
    assert list(found) == [1, 2, 3, 4]
    assert found[1] is None and found[3] is None
    train, test = (extract(run.model.encoder, each, 5).of_videos for each in data)
    assert found[4] == pytest.approx(Knn(20, 0.07)(train, test, 2)["top1"].value)
    best = 6 if found[2] >= found[4] else 12
    assert (tmp_path / "run" / "best" / f"ckpt-{best}.index").exists()
