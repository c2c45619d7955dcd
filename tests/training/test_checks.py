"""What can't work, or would learn nothing, is an error before a run begins."""

from pathlib import Path
from typing import Any

import pytest
import tf_keras as keras
from test_run import new_run

from cvrl_tf.augment.chain import Chain, ViewChains
from cvrl_tf.data import schema
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.optim.schedules import warmup_cosine
from cvrl_tf.tasks.classify import Classifier
from cvrl_tf.training import monitors
from cvrl_tf.training.checks import learning_rate
from cvrl_tf.training.monitors import check

METRICS = ["loss", "top1", "val_loss", "val_top1"]


def test_a_warm_up_leaves_epochs_to_train() -> None:
    facts = {"steps_per_epoch": 2, "global_batch": 8, "learning_rate": 0.1, "base_batch": 8}
    for epochs in (1, 2):
        with pytest.raises(ValueError, match=f"warmup_epochs=2 leaves nothing of the {epochs} ep"):
            warmup_cosine(epochs=epochs, warmup_epochs=2, **facts)
    rate = warmup_cosine(epochs=3, warmup_epochs=2, **facts)
    cosine = warmup_cosine(epochs=3, **facts)
    assert float(rate(4)) == float(cosine(4)) > 0
    assert all(float(rate(step)) <= float(cosine(step)) for step in range(6))


def test_what_learns_nothing_is_refused(noise_records: Path, tmp_path: Path) -> None:
    def refused(message: str, **changes: Any) -> None:
        with pytest.raises(ValueError, match=message):
            new_run(tmp_path / "run", noise_records, **changes)

    refused("ContrastiveLearner compares the videos of a batch .* fewer than 2", global_batch=1)
    refused("The learning rate is 0, and in no step above 0", learning_rate=lambda **_: 0.0)
    with pytest.raises(ValueError, match="The learning rate is -1, and in no step"):
        learning_rate(lambda step: -1.0, steps=1000)


def test_one_class_is_refused(noise_records: Path, tmp_path: Path) -> None:
    for file in noise_records.iterdir():
        (tmp_path / file.name).symlink_to(file)
    info = schema.DatasetInfo.load(noise_records)
    info.labels = ["only"]
    (tmp_path / schema.INFO_FILE).unlink()
    info.save(tmp_path)

    def probe() -> Classifier:
        encoder = ResNet3D(depth=10, width=0.125, stem_pool=False)
        return Classifier(encoder, 1, freeze_encoder=True, augment=ViewChains([Chain()]))

    with pytest.raises(ValueError, match=r"Classifier has nothing to learn: .*\['only'\]"):
        new_run(tmp_path / "run", tmp_path, task=probe)


@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        (keras.callbacks.ReduceLROnPlateau("loss"), "can't have ReduceLROnPlateau: the learning"),
        (keras.callbacks.LearningRateScheduler(abs), "can't have LearningRateScheduler: the lea"),
        (keras.callbacks.BackupAndRestore("x"), "can't have BackupAndRestore: a run resumes from"),
        (keras.callbacks.EarlyStopping("top2"), "monitor='top2': there is only loss, top1, val"),
        (keras.callbacks.EarlyStopping("val_top1"), "a lower val_top1 .* EarlyStopping.mode='max'"),
        (keras.callbacks.ModelCheckpoint("x", "top1", save_best_only=True), "a lower top1 for a"),
        (keras.callbacks.EarlyStopping("loss", restore_best_weights=True), "restore_best_weights"),
    ],
)
def test_callbacks_that_cannot_serve(monitor: keras.callbacks.Callback, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check([monitor], METRICS)


def test_callbacks_that_can() -> None:
    serving = [
        keras.callbacks.EarlyStopping("val_top1", mode="max"),
        keras.callbacks.EarlyStopping("val_loss"),
        keras.callbacks.ModelCheckpoint("x"),
        keras.callbacks.CSVLogger("x"),
        keras.callbacks.TerminateOnNaN(),
    ]
    check(serving, METRICS)
    assert [type(each).__name__ for each in monitors.of_worker(serving, is_chief=False)] == [
        *["EarlyStopping"] * 2,
        *("ModelCheckpoint", "TerminateOnNaN"),
    ]
