"""What importing must and must not do. `setup.cfg` says who may import whom."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

MODULES = [
    path for folder in ("cvrl_tf", "tools") for path in sorted((ROOT / folder).rglob("*.py"))
]


def test_gin_files_do_not_hide_the_package_gin() -> None:
    assert (ROOT / "gin").is_dir()
    assert not list((ROOT / "gin").rglob("*.py"))


def test_nothing_imports_the_training_command() -> None:
    """`python -m cvrl_tf.train` would load it twice, under two names."""
    for path in [*(ROOT / "gin").rglob("*.gin"), *MODULES]:
        text = path.read_text()
        assert "import cvrl_tf.train" not in text and "from cvrl_tf import train" not in text, path


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of `setup.cfg` on the package in a folder."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    return subprocess.run(
        [*command, str(ROOT / "setup.cfg")], cwd=folder, text=True, capture_output=True
    )


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("tasks/task.py", "cvrl_tf.training.run"),  # upward
        ("training/run.py", "cvrl_tf.evaluation.features"),  # sideways
        ("export.py", "cvrl_tf.train"),  # a command
        ("inference/server.py", "cvrl_tf.commands"),  # the helper of commands
        ("data/records.py", "cvrl_tf.data.clips"),
        ("data/schema.py", "cvrl_tf.measures.metrics"),
        ("losses/info_nce.py", "cvrl_tf.distribution"),
    ],
)
def test_forbidden_imports_are_found(module: str, imported: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "cvrl_tf", tmp_path / "cvrl_tf")
    assert lint_imports(tmp_path).returncode == 0
    path = tmp_path / "cvrl_tf" / module
    path.write_text(f"{path.read_text()}\n\ndef f() -> None:\n    import {imported}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stderr
    name = f"cvrl_tf.{module.removesuffix('.py').replace('/', '.')}"
    assert f"{name} -> {imported}" in done.stdout


def run(code: str, environment: dict[str, str], cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=cwd, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_chooses_the_keras(child_environment: dict[str, str], tmp_path: Path) -> None:
    child_environment.pop("TF_USE_LEGACY_KERAS", None)
    code = "import cvrl_tf, os, sys; print(os.environ['TF_USE_LEGACY_KERAS'], len(sys.modules))"
    chosen, count = run(code, child_environment, tmp_path).split()
    assert chosen == "1"
    assert int(count) < 200  # and does not load TensorFlow


def test_preparation_does_without_tensorflow(
    child_environment: dict[str, str], tmp_path: Path
) -> None:
    """Which takes 300 MB of every worker."""
    code = "import cvrl_tf.preparation.prepare, sys; print('tensorflow' in sys.modules)"
    assert run(code, child_environment, tmp_path) == "False"


@pytest.mark.parametrize(
    "command",
    ["train", "evaluate", "export", "report", "embed", "search", "serve", "prepare", "tables"],
)
def test_help_comes_without_tensorflow(command: str, child_environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"cvrl_tf.{command}", "--help"],
        env=child_environment,
        text=True,
        capture_output=True,
    )
    assert {"--output", "--model_dir", "--model"} & set(re.findall(r"--\w+", done.stdout))
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "absl.flags" in imported and not {"tensorflow", "tf_keras"} & imported
