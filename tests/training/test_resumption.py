"""A run resumes only as what it was; more epochs have to be asked for."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tf_keras as keras
from conftest import noise_video, write_records
from test_run import epoch_lines, learner, new_run, schedule

from cvrl_tf.augment.chain import Chain, ViewChains
from cvrl_tf.augment.photometric import ColorJitter
from cvrl_tf.data import clips, pipeline, views
from cvrl_tf.losses.info_nce import InfoNCE
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.pretext.contrastive import ContrastiveLearner
from cvrl_tf.training.resumption import described
from cvrl_tf.training.run import Run


def stopping(**arguments: Any) -> keras.callbacks.EarlyStopping:
    """Ends a run after its second epoch, for the loss does not fall by so much."""
    return keras.callbacks.EarlyStopping("loss", min_delta=100, patience=1, **arguments)


@pytest.fixture(scope="module")
def ended(noise_records: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that Keras's callbacks accompanied, and ended after two epochs of three."""
    folder = tmp_path_factory.mktemp("ended")
    monitors = [
        stopping(),
        keras.callbacks.CSVLogger(folder / "log.csv"),
        keras.callbacks.ModelCheckpoint(folder / "epoch{epoch}.weights.h5", save_weights_only=True),
        keras.callbacks.TerminateOnNaN(),
    ]
    run = new_run(folder / "run", noise_records, monitors=monitors)
    run.fit("# parameters\n")
    return run


def refusal(folder: Path, records: Path, **changes: Any) -> str:
    """What is said of settings with which a run does not resume, after its folder's name."""
    with pytest.raises(ValueError, match="can't resume with other settings") as caught:
        new_run(folder, records, **changes)
    return str(caught.value).partition("settings: ")[2]


def test_each_other_setting_is_named(ended: Run, noise_records: Path) -> None:
    def other() -> ContrastiveLearner:
        return ContrastiveLearner(
            ResNet3D(depth=10, width=0.25, stem_pool=False),
            ProjectionHead(hidden_dim=64, num_hidden=1, output_dim=16),
            ViewChains([Chain([ColorJitter(hue=0.1)])]),
            InfoNCE(temperature=0.5),
            weight_decay=1e-3,
        )

    said = refusal(
        ended.model_dir,
        noise_records,
        task=other,
        train_data=pipeline.Pipeline(
            noise_records, clips.UniformClips(2, 1, 2), views.RandomResizedCrop(24, area=(0.5, 1))
        ),
        optimizer=lambda learning_rate: keras.optimizers.SGD(learning_rate, momentum=0.5),
        learning_rate=lambda **facts: schedule(**facts | {"global_batch": 10}),
        seed=1,
        precision="mixed_bfloat16",
    )
    assert said.split(". Rerun")[0].split(", ") == [
        "augment.chains[0].augmentations[0].hue was 0.2 and is 0.1",
        "input.clips.num_frames was 4 and is 2",
        "input.clips.stride was 2 and is 1",
        *["input.crop.area was [0.3", "1.0] and is [0.5", "1]"],
        "input.crop.size was 16 and is 24",
        "learning_rate.after_warmup_lr_sched.initial_learning_rate was 0.05 and is 0.1",
        "optimizer.momentum was 0.9 and is 0.5",
        "precision was 'float32' and is 'mixed_bfloat16'",
        "seed was 0 and is 1",
        "task.encoder.width was 0.125 and is 0.25",
        "task.head.hidden_dim was 32 and is 64",
        "task.loss.temperature was 0.1 and is 0.5",
        "task.weight_decay was 0.0 and is 0.001",
    ]


def test_what_is_there_or_not_is_named(ended: Run, noise_records: Path, tmp_path: Path) -> None:
    fewer = write_records(tmp_path / "fewer", [noise_video(24, 48, 64, i) for i in range(16)])

    def plain() -> ContrastiveLearner:
        model = learner()
        model.augment = ViewChains([Chain()])
        return model

    said = refusal(ended.model_dir, fewer, task=plain, optimizer=keras.optimizers.Adam, epochs=2)
    assert said.split(". Rerun")[0].split(", ") == [
        "augment.chains[0].augmentations was [ColorJitter] and is []",
        "epochs was 3 and is 2",
        "optimizer was SGD and is Adam",
        f"train.data was '{noise_records.name}' and is 'fewer'",
        "train.videos was 17 and is 16",
    ]


def test_more_epochs_have_to_be_asked_for(
    ended: Run, noise_records: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = ended.model_dir
    before = (folder / "config.gin").read_text(), (folder / "run.json").read_text()
    assert "--extend_to=6" in refusal(folder, noise_records, epochs=6)
    again = new_run(folder, noise_records, epochs=6, extend=True)
    rate = schedule(steps_per_epoch=3, epochs=6, global_batch=5)
    said = capsys.readouterr().out
    assert "Extended from 3 to 6 epochs" in said
    assert f"{float(rate(6)):.3g} now, {float(rate(17)):.3g} in the last step" in said
    assert again.step == 6 and again.model.total_steps == 18
    assert before == ((folder / "config.gin").read_text(), (folder / "run.json").read_text())


def test_what_changes_no_number_may_change(ended: Run, noise_records: Path) -> None:
    data = pipeline.Pipeline(
        noise_records, clips.UniformClips(4, 2, 2), views.RandomResizedCrop(16), skip_damaged=True
    )
    changes = {"log_every": 7, "checkpoint_every": 1, "keep_checkpoints": 2}
    run = new_run(ended.model_dir, noise_records, **changes, train_data=data, steps_per_execution=3)
    assert run.step == 6


def test_another_pretrained_encoder_is_named(
    ended: Run, noise_records: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(ended.model_dir, tmp_path / "run")
    facts = json.loads((folder / "run.json").read_text())
    before = str(ended.model_dir / "checkpoints" / "ckpt-3")  # a newer one of the same run is fine
    (folder / "run.json").write_text(json.dumps(facts | {"initial_checkpoint": before}))
    said = refusal(folder, noise_records, initial_checkpoint=folder)
    assert said.startswith(f"settings.Checkpointing.initial was '{before}' and is '{folder}'")


def test_objects_are_described_by_what_they_keep() -> None:
    class Layer(keras.layers.Layer):  # without get_config
        def __init__(self, units: int, names: set[str]) -> None:
            super().__init__()
            self._units, self.names = units, names

    assert described(Layer(3, {"b", "a"})) == {
        "class": "Layer",
        "units": 3,
        "names": ["a", "b"],
    }
    assert described([np.float32(0.5), min, object()]) == [0.5, "min", {"class": "object"}]


@pytest.mark.parametrize(
    "facts", [None, *(pytest.param(text, marks=pytest.mark.slow) for text in ("{", "[]"))]
)
def test_without_facts_a_run_resumes(
    facts: str | None, ended: Run, noise_records: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(ended.model_dir, tmp_path / "run")
    content = json.loads((folder / "run.json").read_text())
    del content["settings"]  # as in those of earlier versions
    (folder / "run.json").write_text(json.dumps(content) if facts is None else facts)
    assert new_run(folder, noise_records).step == 6
    if facts:  # the checkpoint still tells
        with pytest.raises(ValueError, match="checkpoint has seed=0, but now it is 1"):
            new_run(folder, noise_records, seed=1)


def test_a_loss_that_was_not_finite_may_be_tamed(
    ended: Run, noise_records: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = shutil.copytree(ended.model_dir, tmp_path / "run")
    sgd = keras.optimizers.SGD
    changes: dict[str, Any] = {
        "optimizer": lambda learning_rate: sgd(learning_rate, momentum=0.9, global_clipnorm=1.0),
        "learning_rate": lambda **facts: schedule(**facts | {"global_batch": 1}),
    }
    (folder / "not_finite.json").write_text("{}")
    assert new_run(folder, noise_records, **changes).step == 6
    said = capsys.readouterr().out
    assert "optimizer.global_clipnorm was None and is 1.0" in said
    assert "initial_learning_rate was 0.05 and is 0.01" in said


def test_a_run_that_a_callback_ended_stays_ended(
    ended: Run, noise_records: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = ended.model_dir
    assert ended.step == 6 and (folder / "checkpoints" / "ckpt-6.index").exists()
    assert [line["epoch"] for line in epoch_lines(folder)] == [1, 2]
    lines = (folder.parent / "log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "0", "1"]
    saved = folder.parent / "epoch2.weights.h5"
    ended.model.load_weights(saved)
    before = (folder / "run.json").read_text()
    new_run(folder, noise_records, monitors=[stopping()]).fit()
    said = capsys.readouterr().out
    assert "EarlyStopping ended the run early, at step 6, after 2 of 3 epochs: loss has not" in said
    assert "--extend_to=4" in said and "Epoch" not in said
    assert (folder / "run.json").read_text() == before


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"epochs": 4, "extend": True, "monitors": [stopping()]}])
def test_a_run_that_a_callback_ended_goes_on(
    changes: dict[str, Any], ended: Run, noise_records: Path, tmp_path: Path
) -> None:
    """Without the callback, or to more epochs."""
    folder = shutil.copytree(ended.model_dir, tmp_path / "run")
    log = shutil.copy(ended.model_dir.parent / "log.csv", tmp_path)
    monitors = [*changes.get("monitors", []), keras.callbacks.CSVLogger(log)]
    run = new_run(folder, noise_records, **changes | {"monitors": monitors})
    run.fit()
    epochs = changes.get("epochs", 3)
    assert run.step == 3 * epochs
    facts = json.loads((folder / "run.json").read_text())
    assert facts["epochs"] == epochs and "ended_early" not in facts
    lines = Path(log).read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", *map(str, range(epochs))]
