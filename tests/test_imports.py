"""Who may import whom (the rules stand in the table), and what importing must or must not do."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

# Module or package: what of cvrl_tf it may import, itself as well; what is absent is forbidden.
# The longest name that fits a module is its row.
COMMAND = {
    "commands",
    "runner",
    "run_folder",
    "checkpoints",
    "tasks",
    "evaluation",
    "data",
    "augment",
}
MAY_IMPORT = {
    "cvrl_tf": set(),  # the package's own __init__
    "cvrl_tf.train": COMMAND,
    "cvrl_tf.export": {"commands", "saved_model"},
    "cvrl_tf.saved_model": {"checkpoints", "data", "models"},
    "cvrl_tf.evaluate": COMMAND,
    "cvrl_tf.report": {"commands", "evaluation"},
    "cvrl_tf.embed": {"commands", "evaluation"},
    "cvrl_tf.search": {"commands", "data", "evaluation"},
    "cvrl_tf.serve": {"commands", "evaluation", "serving"},
    "cvrl_tf.serving": {"data", "evaluation"},
    "cvrl_tf.commands": set(),
    "cvrl_tf.runner": {"callbacks", "checkpoints", "distribution", "run_folder"},
    "cvrl_tf.callbacks": {"run_folder"},
    "cvrl_tf.run_folder": set(),
    "cvrl_tf.tasks": {"tasks", "models", "losses", "augment", "distribution", "checkpoints"},
    "cvrl_tf.evaluation": {"evaluation", "models", "data", "checkpoints", "optim"},
    "cvrl_tf.data": set(),
    "cvrl_tf.data.preparation": {
        "data.annotations",
        "data.crew",
        "data.encoding",
        "data.files",
        "data.manifest",
        "data.schema",
    },
    "cvrl_tf.data.beam": {"data.annotations", "data.crew", "data.files"},
    "cvrl_tf.data.crew": {
        "data.annotations",
        "data.encoding",
        "data.files",
        "data.manifest",
        "data.schema",
        "data.wire",
    },
    "cvrl_tf.data.manifest": {"data.files"},
    "cvrl_tf.data.encoding": {"data.wire"},
    "cvrl_tf.data.wire": {"data.schema"},
    "cvrl_tf.data.upload": {"data.encoding", "data.schema"},
    "cvrl_tf.data.files": set(),
    "cvrl_tf.data.annotations": {"data.annotations"},
    "cvrl_tf.data.subsets": {"data.records", "data.schema"},
    "cvrl_tf.data.verification": {"data.manifest", "data.schema"},
    "cvrl_tf.data.pipeline": {"data.views", "data.clips", "data.records", "data.schema"},
    "cvrl_tf.data.views": {"data.clips", "data.records", "data.schema"},
    "cvrl_tf.data.records": {"data.schema"},
    "cvrl_tf.data.clips": set(),
    "cvrl_tf.data.schema": {"data.files"},
    "cvrl_tf.augment": {"augment"},
    "cvrl_tf.models": {"models"},
    "cvrl_tf.losses": {"losses"},
    "cvrl_tf.optim": {"optim"},
    "cvrl_tf.distribution": set(),
    "cvrl_tf.checkpoints": set(),
    "cvrl_tf.garden": {"checkpoints", "models"},
    "tools": {"data", "checkpoints"},
    "tools.inflate": {"commands", "checkpoints", "models"},
    "tools.convert_checkpoint": {"commands", "checkpoints", "garden"},
    "tools.browse_views": {"commands", "runner", "evaluation", "augment"},
}
# Rows for a whole package; a module without one of its own needs a new row.
PACKAGES = {"tasks", "evaluation", "augment", "models", "losses", "optim", "data.annotations"}

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("cvrl_tf", "tools")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def row_of(module: str) -> str | None:
    if module in MAY_IMPORT:
        return module
    package = module.rpartition(".")[0]
    if package == "tools" or package.removeprefix("cvrl_tf.") in PACKAGES:
        return package
    return None


def imported(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """Names of what a source imports of cvrl_tf or tools, anywhere in it, the most exact ones."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: None if is_package else -1]
                parents = parents[: len(parents) - (node.level - 1)]
                base = ".".join([*parents, base]).rstrip(".")
            known = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else base for name in known]
        elif module == "cvrl_tf" and isinstance(node, ast.Call):
            continue  # its names are imported when they are asked for
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [ast.literal_eval(node.args[0])]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in ("cvrl_tf", "tools"))


def forbidden(source: str, module: str, is_package: bool = False) -> list[str]:
    row = row_of(module)
    assert row is not None
    allowed = {f"cvrl_tf.{name}" for name in MAY_IMPORT[row]}
    return [
        name
        for name in imported(source, module, is_package)
        if name != "cvrl_tf"  # alone, it only chooses the Keras
        and not any(name == one or name.startswith(f"{one}.") for one in allowed)
    ]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_what_it_may(module: str) -> None:
    path = MODULES[module]
    assert row_of(module), f"{module} has no row in MAY_IMPORT: give it one."
    assert not forbidden(path.read_text(), module, path.name == "__init__.py")


def test_rows_are_of_modules_that_exist() -> None:
    assert len(MODULES) > 25
    assert set(MAY_IMPORT) - {"tools"} <= set(MODULES)


@pytest.mark.parametrize(
    ("module", "source", "wanted"),
    [
        ("cvrl_tf.losses.new", "import cvrl_tf.models", ["cvrl_tf.models"]),
        ("cvrl_tf.losses.new", "from cvrl_tf import models", ["cvrl_tf.models"]),
        ("cvrl_tf.losses.new", "from ..models import heads", ["cvrl_tf.models.heads"]),
        ("cvrl_tf.losses.new", "from . import info_nce", []),
        ("cvrl_tf.losses.new", "def f():\n  from cvrl_tf.data.clips import UniformClips",
         ["cvrl_tf.data.clips"]),
        ("cvrl_tf.data.records", "from cvrl_tf.data import clips, schema", ["cvrl_tf.data.clips"]),
        ("cvrl_tf.runner", "from cvrl_tf.tasks.pretrain import ContrastiveLearner",
         ["cvrl_tf.tasks.pretrain"]),
        ("cvrl_tf.runner", "import importlib\nimportlib.import_module('cvrl_tf.tasks')",
         ["cvrl_tf.tasks"]),
        ("cvrl_tf.runner", "import cvrl_tf, tensorflow\nfrom cvrl_tf import checkpoints", []),
        ("tools.new", "from cvrl_tf.models import heads\nfrom cvrl_tf.data import subsets",
         ["cvrl_tf.models.heads"]),
    ],
)  # fmt: skip
def test_the_check_sees_what_is_forbidden(module: str, source: str, wanted: list[str]) -> None:
    assert forbidden(source, module) == wanted


def test_new_modules_need_a_row() -> None:
    assert row_of("cvrl_tf.new") is None
    assert row_of("cvrl_tf.data.new") is None
    assert row_of("cvrl_tf.models.new") == "cvrl_tf.models"


def test_gin_files_do_not_hide_the_package_gin() -> None:
    assert (ROOT / "gin").is_dir()
    assert not list((ROOT / "gin").rglob("*.py"))


def test_nothing_imports_the_training_command() -> None:
    """`python -m cvrl_tf.train` would load it twice, under two names."""
    for path in [*(ROOT / "gin").rglob("*.gin"), *MODULES.values()]:
        text = path.read_text()
        assert "import cvrl_tf.train" not in text and "from cvrl_tf import train" not in text, path


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
    code = "import cvrl_tf.data.preparation, sys; print('tensorflow' in sys.modules)"
    assert run(code, child_environment, tmp_path) == "False"


@pytest.mark.parametrize(
    "command", ["train", "evaluate", "export", "report", "embed", "search", "serve"]
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
