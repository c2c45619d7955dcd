"""The package as `pip install .` installs it, without the repository beside it."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the content of the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("cvrl_tf", "gin", "tools"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", f"--wheel-dir={folder}", str(source)]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder / "site")
    return folder / "site"


def python(installed: Path, cwd: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed), "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_recipes_and_templates_ship(installed: Path) -> None:
    shipped = {path.relative_to(installed / "cvrl_tf/shipped") for path in installed.rglob("*.gin")}
    assert shipped == {path.relative_to(ROOT) for path in (ROOT / "gin").rglob("*.gin")}
    assert (installed / "cvrl_tf/reports/templates/page.html").is_file()
    assert (installed / "cvrl_tf/shipped/tools/inflate.py").is_file()
    assert not list((installed / "cvrl_tf/shipped/gin").rglob("*.py"))
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {"cvrl_tf"}


@pytest.mark.parametrize("command", ["train", "prepare", "tables"])
def test_help(command: str, installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"cvrl_tf.{command}", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert f"python -m cvrl_tf.{command}" in done.stdout, done.stderr


def test_a_recipe_is_found_from_any_folder(
    installed: Path, noise_records: Path, tmp_path: Path
) -> None:
    run = "--model_dir=run", "--gin_file=gin/demo/pretrain.gin"
    small = "run.Run.global_batch=4", "run.Run.epochs=3", "resnet3d.ResNet3D.width=0.125"
    params = [f"--gin_param={each}" for each in (f"DATA_DIR='{noise_records}'", *small)]
    python(installed, tmp_path, "-m", "cvrl_tf.train", *run, *params)
    config = (tmp_path / "run" / "config.gin").read_text()
    assert "run.Run.global_batch = 4" in config and "ColorJitter.hue = 0.5" in config


def test_a_table_is_planned_from_any_folder(
    installed: Path, noise_records: Path, tmp_path: Path
) -> None:
    rows = "--row=CVRL", "--row=SimCLR", "--row=Supervised"
    flags = f"--data_dir={noise_records}", "--output=out", "--table=1", *rows, "--dry_run"
    said = python(installed, tmp_path, "-m", "cvrl_tf.tables", *flags)
    assert said.count("cvrl_tf.train") == 3 and str(installed) in said
