"""The documents: their commands and notebooks run, and their diffs apply."""

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import gin
import nbformat
import numpy as np
import pytest
from conftest import ROOT, TINY_GIN, noise_video, write_noise_video, write_records
from nbclient import NotebookClient

from cvrl_tf import checkpoints, renamed
from cvrl_tf.training.run import Run

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(), re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_shell_blocks_parse_and_links_lead_somewhere(document: Path) -> None:
    for block in blocks(document, "(?:bash|sh)"):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)", prose):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_recipes_and_flags_of_training_exist(document: Path) -> None:
    known = {"gin_file", "gin_param", "model_dir"}
    text = document.read_text().replace("\\\n", " ")
    commands = re.findall(r"python -m cvrl_tf\.train( [^\n&`]+)", text)
    for command in commands:
        assert set(re.findall(r"--(\w+)=", command)) <= known, command
        for recipe in re.findall(r"--gin_file=(gin/[\w/]+\.gin)", command):
            assert (ROOT / recipe).exists(), recipe


@pytest.fixture(scope="module")
def gin_reference() -> ModuleType:
    """The module by which Sphinx describes what recipes bind."""
    path = ROOT / "docs" / "gin_reference.py"
    spec = importlib.util.spec_from_file_location("gin_reference", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gin_reference"] = module  # where dataclasses look for annotations
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def gin_names(gin_reference: ModuleType) -> set[str]:
    """Everything that can be bound, "module.Class" and "module.Class.parameter"."""
    found = gin_reference.configurables()
    parameters = {f"{each.name}.{p.name}" for each in found for p in each.parameters}
    return parameters | {each.name for each in found}


def test_the_gin_reference_says_what_every_parameter_is(gin_reference: ModuleType) -> None:
    found = gin_reference.configurables()
    assert not [f"{c.path}: {p.name}" for c in found for p in c.parameters if not p.text]
    text = gin_reference.reference()
    assert "| `global_batch` | `int` | required | examples in a step of all replicas. |" in text
    assert "| `STRIDE` | `2` | frames from one frame" in text


def test_gin_parameters_in_documents_exist(gin_names: set[str]) -> None:
    modules = {name.partition(".")[0] for name in gin_names}
    for document in DOCUMENTS:
        if document.name == "migration.md":
            continue
        for name in re.findall(r"\b([a-z]\w*\.\w+\.[a-z]\w*)=", document.read_text()):
            if name.partition(".")[0] in modules:
                assert name in gin_names, f"{document.name}: {name}"


def test_old_names_are_gone_and_new_ones_exist(gin_names: set[str]) -> None:
    assert not renamed.GIN.keys() & gin_names
    assert set(renamed.GIN.values()) <= gin_names
    for module in renamed.MODULES.values():
        assert importlib.util.find_spec(module), module
    for module in renamed.MODULES:
        parent = module.rpartition(".")[0]
        assert not importlib.util.find_spec(parent) or not importlib.util.find_spec(module), module


@pytest.mark.parametrize("from_document", [False, True])
def test_neighbors_are_measured_in_pretraining(
    from_document: bool, noise_records: Path, tmp_path: Path
) -> None:
    """By the gin file that goes behind a recipe, and by the one that the document shows."""
    recipes = ["gin/demo/pretrain.gin", "gin/common/knn_monitor.gin"]
    if from_document:
        text = (ROOT / "docs" / "own_data.md").read_text()
        fences = re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        (shown,) = (each for each in fences if "KnnMonitor" in each)
        (tmp_path / "mine.gin").write_text(shown.replace("'validation'", "'test'"))
        recipes = [str(tmp_path / "mine.gin"), "gin/common/demo/pretrain.gin"]
    gin.clear_config()
    gin.add_config_file_search_path(str(ROOT))
    small = [f"DATA_DIR='{noise_records}'", "EVAL_SPLIT='test'", "SIZE=16", "NUM_FRAMES=4"]
    small += ["run.Run.global_batch=4", "resnet3d.ResNet3D.width=0.125"]
    small += ["settings.Checkpointing.best_metric='knn_top1'", "monitor.KnnMonitor.every=2"]
    gin.parse_config_files_and_bindings(recipes, small)
    run = gin.get_configurable(Run)(model_dir=tmp_path / "new")
    (monitor,) = gin.query_parameter("settings.Validation.monitors")
    monitor = monitor.scoped_configurable_fn()
    monitor.set_model(run.model)
    logs: dict[str, float] = {}
    monitor.on_epoch_end(0, logs)
    assert not logs
    monitor.on_epoch_end(1, logs)
    assert 0 <= logs["knn_top1"] <= 1


@pytest.mark.slow
def test_two_workers_as_documented(
    noise_records: Path, tmp_path: Path, child_environment: dict
) -> None:
    (block,) = (b for b in blocks(ROOT / "docs" / "distributed.md", "bash") if "127.0.0.1" in b)
    for port in ("12345", "23456"):
        with socket.create_server(("127.0.0.1", 0)) as free:
            block = block.replace(port, str(free.getsockname()[1]))
    small = [
        "run.Run.global_batch=4",
        "run.Run.epochs=1",
        "schedules.warmup_cosine.warmup_epochs=0",
        "resnet3d.ResNet3D.width=0.125",
        "clips.UniformClips.num_frames=4",
        "views.RandomResizedCrop.size=16",
        # Not Adam, which makes much of a gradient that is almost zero.
        "settings.Optimization.optimizer=@tf_keras.optimizers.SGD",
    ]
    flags = "".join(f" --gin_param='{each}'" for each in small)
    run, alone = tmp_path / "run", tmp_path / "alone"
    script = block.replace("runs/demo/records", str(noise_records))
    script = script.replace("runs/two_workers", str(run)).replace(" &\n", f"{flags} &\n")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**child_environment, "PATH": path}
    subprocess.run(["bash", "-c", script], env=environment, cwd=ROOT, check=True, timeout=240)
    assert json.loads((run / "run.json").read_text())["replicas"] == 2
    assert checkpoints.resolve(run).endswith("ckpt-4")
    # The weights are those of one process.
    script = f"python -m cvrl_tf.train --gin_file=gin/demo/pretrain.gin --model_dir={alone}"
    script += f" --gin_param=\"DATA_DIR='{noise_records}'\"{flags}"
    subprocess.run(["bash", "-c", script], env=environment, cwd=ROOT, check=True, timeout=240)
    weights = [checkpoints.load_encoder(folder).get_weights() for folder in (run, alone)]
    for ours, expected in zip(*weights, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4)


def written(folder: Path, names: list[str]) -> None:
    """Short videos under these names."""
    for seed, name in enumerate(names):
        write_noise_video(folder / name, 20, seed)


def kinetics(folder: Path, split: str, count: int) -> None:
    """A list and its videos, as Kinetics has them."""
    ids = [f"{split[:3]}_-abcde{number:02d}" for number in range(count)]
    lines = [f"class {n % 2},{video},3,13,{split}" for n, video in enumerate(ids)]
    written(folder / split, [f"{video}_000003_000013.mp4" for video in ids])
    text = "\n".join(["label,youtube_id,time_start,time_end,split", *lines])
    (folder / f"{split}.csv").write_text(text + "\n")


@pytest.fixture
def sandbox(tmp_path: Path, child_environment: dict) -> tuple[Path, dict]:
    """A folder in which the documents' commands find what they name, and the environment."""
    for name in ("gin", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    for split in ("train", "validation"):
        written(tmp_path / "videos" / split, [f"{c}/{n}.mp4" for c in "ab" for n in range(3)])
    kinetics(tmp_path / "k400", "train", 6)
    kinetics(tmp_path / "k400", "val", 2)
    (tmp_path / "k400" / "replacement").mkdir()
    written(tmp_path, ["query.mp4", "more.mp4"])
    (tmp_path / "more.mp4").rename(tmp_path / "more.mkv")
    written(tmp_path, ["UCF-101/A/v_A_g01_c01.mp4"])
    (tmp_path / "UCF-101/A/v_A_g01_c01.mp4").rename(tmp_path / "UCF-101/A/v_A_g01_c01.avi")
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "trainlist01.txt").write_text("A/v_A_g01_c01.avi 1\r\n")
    written(tmp_path / "hmdb51", ["wave/a#1.mp4"])
    (tmp_path / "hmdb51/wave/a#1.mp4").rename(tmp_path / "hmdb51/wave/a#1.avi")
    (tmp_path / "hmdb51_splits").mkdir()
    (tmp_path / "hmdb51_splits/wave_test_split1.txt").write_text("a#1.avi 1 \n")
    written(tmp_path / "20bn-something-something-v2", ["7.mp4"])
    folder = tmp_path / "20bn-something-something-v2"
    (folder / "7.mp4").rename(folder / "7.webm")
    item = [{"id": "7", "label": "x", "template": "Moving [something]"}]
    (tmp_path / "something-something-v2-train.json").write_text(json.dumps(item))
    videos = [noise_video(20, 48, 64, seed) for seed in range(40)]
    write_records(tmp_path / "runs/demo/records", videos)
    for split in (2, 3):
        write_records(tmp_path / f"records/ucf101_split{split}", videos[:2])
    (tmp_path / "tiny.gin").write_text(TINY_GIN.replace("'test'", "'validation'"))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return tmp_path, {**child_environment, "PATH": path}


# What can't run here, or is run otherwise, by how it begins.
ELSEWHERE = ("git clone", "make ", "pip install", ". .venv/bin/activate", "docker run")
ELSEWHERE += ("python -m cvrl_tf.serve", "curl ", "mkdir -p models")


def run_commands(document: Path, sandbox: tuple[Path, dict]) -> None:
    """All shell blocks of a document, one after the other, behind tiny.gin."""
    folder, environment = sandbox
    for block in blocks(document, "sh"):
        lines = []
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith(ELSEWHERE):
                continue
            if "browse_views.py" in line:
                line += " --gin_param=run.Run.global_batch=2"
            elif "cvrl_tf.train" in line or "cvrl_tf.evaluate" in line:
                line += " --gin_file=tiny.gin"
                line = re.sub(r'--gin_param="(run.Run|resnet3d|SIZE|NUM_FRAMES)[^"]*"', "", line)
            elif "cvrl_tf.tables" in line:  # which has a test of its own
                line += " --dry_run"
            lines.append(line)
        done = subprocess.run(
            ["bash", "-ec", "\n".join(lines)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{document.name}: {block}{done.stdout}{done.stderr}"


def run_python(document: Path, folder: Path, environment: dict) -> None:
    clips = "import numpy as np\nclips = np.zeros([2, 4, 16, 16, 3], np.{})\n"
    code = clips.format("float32" if document.name == "python.md" else "uint8")
    code += "".join(blocks(document, "python"))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_commands_of_the_readme(sandbox: tuple[Path, dict]) -> None:
    run_commands(ROOT / "README.md", sandbox)
    run_python(ROOT / "README.md", *sandbox)
    assert "query.mp4" in (sandbox[0] / "search.html").read_text()


@pytest.mark.slow
def test_commands_of_the_documents(sandbox: tuple[Path, dict]) -> None:
    """Each finds what those before have left, as a reader's would."""
    folder, _ = sandbox
    for name in ("kinetics", "own_data", "training", "evaluation"):
        run_commands(ROOT / "docs" / f"{name}.md", sandbox)
    assert "Linear evaluation" in (folder / "report" / "report.html").read_text()
    (folder / "runs" / "demo" / "pretrain").symlink_to(folder / "runs" / "k400")
    for name in ("using", "python"):
        run_commands(ROOT / "docs" / f"{name}.md", sandbox)
        run_python(ROOT / "docs" / f"{name}.md", *sandbox)


@pytest.mark.slow
def test_the_server_and_its_client(sandbox: tuple[Path, dict], exported_model: Path) -> None:
    folder, environment = sandbox
    shutil.copytree(exported_model, folder / "encoder")
    (folder / "query.mp4").rename(folder / "video.mp4")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve, curl = (
        line.replace("8080", str(port))
        for block in blocks(ROOT / "docs" / "serving.md", "sh")
        for line in block.splitlines()
        if line.startswith(("python -m cvrl_tf.serve --model=encoder --port", "curl "))
    )
    curl += " --silent --fail --retry 60 --retry-delay 1 --retry-connrefused"
    server = subprocess.Popen(["bash", "-c", f"exec {serve}"], cwd=folder, env=environment)
    try:
        answer = subprocess.run(
            ["bash", "-c", curl], cwd=folder, capture_output=True, text=True, check=True
        )
        assert len(json.loads(answer.stdout)["feature"]) == 64
    finally:
        server.terminate()
        server.wait()


def executed(name: str, folder: Path) -> tuple[list[dict], str]:
    """Outputs of a notebook, and their text."""
    notebook = nbformat.read(ROOT / "docs" / "notebooks" / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return outputs, "".join(output.get("text", "") for output in outputs)


@pytest.mark.slow
def test_notebooks(tmp_path: Path) -> None:
    outputs, _ = executed("pretrain", tmp_path)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    sampling = checkpoints.SavedRun.open(tmp_path / "runs/notebooks/encoder").sampling
    assert (sampling.short_side, sampling.size) == (64, 40)  # as the records that were made
    _, text = executed("probe", tmp_path)  # and the next: of what the first has left
    pretrained, random = re.findall(r"linear probe\s+([\d.]+) %", text)
    assert float(pretrained) > float(random)
    _, text = executed("embed_and_search", tmp_path)
    cosine, video = text.splitlines()[-8].split()
    assert float(cosine) > 0.99 and video.endswith("circle_horizontal/0000.mp4")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["augmentation", "objective", "pretext_method", "encoder", "data_set"]
)
def test_diff_applies_and_its_tests_pass(name: str, tmp_path: Path) -> None:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for file in files.splitlines():
        if file.partition("/")[0] in ("cvrl_tf", "gin", "tests", "setup.cfg", "ruff.toml"):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, tmp_path / file)
    diff = ROOT / "docs" / "diffs" / f"{name}.diff"
    subprocess.run(["git", "apply", str(diff)], cwd=tmp_path, check=True)
    added = re.findall(r"^\+\+\+ b/(.*)$", diff.read_text(), re.MULTILINE)
    tests = [file for file in added if file.startswith("tests/")]
    recipes = [file for file in added if file.startswith("gin/")]
    assert len(tests) == 1 and len(recipes) == 1
    builds = [f"tests/test_gin.py::test_recipe_builds[{recipes[0]}]"]
    python = [sys.executable, "-m"]
    environment = {"PYTHONPATH": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "2", "HOME": str(tmp_path)}

    def run(*command: str) -> None:
        done = subprocess.run(
            [*python, *command], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    whole = name in ("pretext_method", "data_set")  # a recipe, and not what goes behind one
    run("pytest", "-q", "-p", "no:cacheprovider", *tests, *(builds if whole else []))
    run("ruff", "check", *(file for file in added if file.endswith(".py")))
    run("ruff", "format", "--check", *(file for file in added if file.endswith(".py")))
    if not whole:
        command = (
            "import sys, gin; from cvrl_tf.tasks.pretext.contrastive import ContrastiveLearner;"
            "gin.add_config_file_search_path('.');"
            "gin.parse_config_files_and_bindings(['gin/pretrain/k400.gin', sys.argv[1]],"
            "[\"DATA_DIR='x'\", 'resnet3d.ResNet3D.width=0.125', "
            "'heads.ProjectionHead.hidden_dim=8']);"
            "gin.get_configurable(ContrastiveLearner)()"
        )
        done = subprocess.run(
            [sys.executable, "-c", command, recipes[0]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
