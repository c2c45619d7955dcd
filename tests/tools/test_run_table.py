"""One command a table: which steps it takes, that their recipes build, and one run of all of it."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import gin
import pytest
from conftest import ROOT, TINY_GIN, noise_video, sampling, write_records

from cvrl_tf import checkpoints
from cvrl_tf.evaluation import frozen
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.preparation import subsets
from cvrl_tf.reports import measurements, recipes, tables
from cvrl_tf.training.run import Run


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    folder = tmp_path / "overlay"
    (folder / "baselines").mkdir(parents=True)
    for kind in ("pretrain", "methods", "ablation", "baselines", "probe", "finetune", "semi"):
        (folder / f"{kind}.gin").write_text(TINY_GIN)
    loops = TINY_GIN.replace("NUM_FRAMES", "from cvrl_tf.data import pipeline\nNUM_FRAMES", 1)
    loops += "train/pipeline.Pipeline.leave_out_short = False\n"  # videos of 24 frames
    (folder / "methods.gin").write_text(loops)
    (folder / "baselines" / "simclr.gin").write_text(
        TINY_GIN.replace("NUM_FRAMES = 4", "NUM_FRAMES = 1")
    )
    return folder


def call(data: Path, output: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/run_table.py", f"--data_dir={data}", f"--output={output}"]
    return subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True)


def steps(data: Path, output: Path, *flags: str) -> list[list[str]]:
    done = call(data, output, "--dry_run", *flags)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line)[1:] for line in done.stdout.splitlines()]


def test_steps_of_each_table(noise_records: Path, tmp_path: Path) -> None:
    def kinds(*flags: str) -> list[str]:
        found = steps(noise_records, tmp_path, *flags)
        return [step[1] if step[0] == "-m" else Path(step[0]).name for step in found]

    train, evaluate = "cvrl_tf.train", "cvrl_tf.evaluate"
    some = "--table=1", "--row=CVRL", "--row=SimCLR", "--row=Supervised"
    assert kinds(*some) == [train, evaluate, train, "inflate.py", evaluate, train]
    assert kinds("--table=1", "--imagenet=r50.safetensors").count("inflate.py") == 2
    second = f"--transfer_dir={noise_records}"
    # Each method pretrains and is fine-tuned; one row is supervised.
    methods = sum(row.startswith("2/") for row in recipes.by_row())
    assert kinds("--table=2", second, second) == [train] * (2 * methods + 1)
    assert kinds("--table=2", second, "--row=CVRL", "--seeds=3") == [train] * 6
    assert kinds("--table=3").count("make_subset.py") == 2
    assert kinds("--table=3").count(train) == 2 + 2 * 3
    assert kinds("--table=4", "--seeds=3") == [train, evaluate] * 12
    assert kinds("--table=4", "--protocol=paper") == [train] * 9  # encoders at random once
    # Tables share their pretraining.
    assert len(kinds(second)) == len(kinds("--table=1")) + methods + 1 + 8 + 8


def test_what_is_missing_is_said_before_any_work(noise_records: Path, tmp_path: Path) -> None:
    done = call(noise_records, tmp_path / "out", "--table=2")
    assert done.returncode == 1 and "Table 2 needs --transfer_dir" in done.stderr
    done = call(tmp_path / "nothing", tmp_path / "out", "--table=1")
    assert done.returncode == 1 and "dataset_info.json" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_step_done_with_other_settings_is_not_taken_for_done(
    noise_records: Path, tmp_path: Path
) -> None:
    (first, *_) = steps(noise_records, tmp_path, "--table=4")
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "ablation_ta.json").write_text(json.dumps(first))
    assert first not in steps(noise_records, tmp_path, "--table=4")
    for step in steps(noise_records, tmp_path, "--table=4"):
        (name,) = re.findall(r"/(ablation/[\w-]+|probe/[\w-]+)(?:\.json)?$", step[-1])
        (tmp_path / "done" / f"{name.replace('/', '_')}.json").write_text(json.dumps(step))
    assert steps(noise_records, tmp_path, "--table=4") == []
    changed = call(
        noise_records, tmp_path, "--table=4", "--gin_param=run.Run.epochs=7", "--dry_run"
    )
    assert changed.returncode == 1 and "ablation/ta was done with other settings" in changed.stderr


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["cached", "paper"])
def test_recipes_build_behind_their_overlay(
    protocol: str, noise_records: Path, overlay: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(noise_records, data)
    for percent in (1, 10):
        subsets.write_subset(data, "train", percent / 100, f"train_{percent}pct")
    encoder = ResNet3D(10, 0.125, stem_pool=False)
    encoder.build()
    checkpoints.save_as_run(encoder, sampling(4, 16), tmp_path / "run")
    output = tmp_path / "out"
    flags = f"--overlay={overlay}", f"--protocol={protocol}", f"--transfer_dir={noise_records}"
    # As in docs/evaluation.md: a parameter of training is none of an evaluation.
    more = "--gin_param=STRATEGY='mirrored'", "--gin_param=run.Run.global_batch=2"
    cells = []
    for step in steps(data, output, *flags, *more):
        if not {"cvrl_tf.train", "cvrl_tf.evaluate"} & set(step):
            continue
        gin.clear_config()
        gin.add_config_file_search_path(str(ROOT))
        files = [f.partition("=")[2] for f in step if f.startswith("--gin_file=")]
        params = [f.partition("=")[2] for f in step if f.startswith("--gin_param=")]
        params = [p if str(output) not in p else f"CHECKPOINT='{tmp_path / 'run'}'" for p in params]
        assert len(files) == 2, "a recipe, and what stands behind it"
        gin.parse_config_files_and_bindings(files, params)
        if "cvrl_tf.evaluate" in step:
            assert gin.get_configurable(frozen.FrozenEvaluation)().num_classes == 2
            continue
        run = gin.get_configurable(Run)(model_dir=tmp_path / "new")
        assert run.model.encoder.get_config()["width"] == 0.125
        cells.append(gin.query_parameter("CELL/gin.macro.value"))
    assert {"1/Supervised", "2/CVRL", "3/CVRL", "3/SimCLR", "3/Supervised"} <= set(cells)
    if protocol == "paper":
        assert {"1/CVRL", "1/SimCLR", "1/Random weights", "4/TA", "4/Random weights"} <= set(cells)


@pytest.mark.slow
def test_a_table(overlay: Path, tmp_path: Path) -> None:
    """On videos of two classes, as few as there can be. The others take steps of the same kinds."""
    data = tmp_path / "tiny"
    videos = [noise_video(16, 32, 40, seed) for seed in range(12)]
    write_records(data, videos[:8])
    write_records(data, videos[8:], "test")
    output = tmp_path / "out"
    rows = "--row=CVRL", "--row=SimCLR", "--row=Supervised"
    flags = "--table=1", *rows, f"--overlay={overlay}", "--note=Noise."
    done = call(data, output, *flags)
    assert done.returncode == 0, done.stderr
    assert "6 of 6" in done.stdout
    measured = measurements.gather([output])
    wanted = {"CVRL", "SimCLR", "Supervised", *tables.BASELINES.values()}
    assert {(run.table, run.row, run.column) for run in measured} == {
        ("1", row, "tiny") for row in wanted
    }
    assert len(measured) == len(wanted)
    assert {run.epochs for run in measured if run.row == "SimCLR"} == {(1, 3)}
    page = (output / "report" / "report.html").read_text()
    assert "Noise." in page and page.count("<h2") == 2 + 4 + 2 + 1
    # What is done is not done again.
    assert steps(data, output, *flags) == []
