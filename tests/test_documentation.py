"""The documents' commands: they parse, their flags exist, and what can run here runs."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from cvrl_tf import checkpoints

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(), re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_shell_blocks_parse_and_links_lead_somewhere(document: Path) -> None:
    for block in blocks(document, "(?:bash|sh)"):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_recipes_and_flags_of_training_exist(document: Path) -> None:
    known = {"gin_file", "gin_param", "model_dir"}
    text = document.read_text().replace("\\\n", " ")
    commands = re.findall(r"python -m cvrl_tf\.train( [^\n&`]+)", text)
    assert commands or document.name == "formats.md"
    for command in commands:
        assert set(re.findall(r"--(\w+)=", command)) <= known, command
        for recipe in re.findall(r"--gin_file=(gin/[\w/]+\.gin)", command):
            assert (ROOT / recipe).exists(), recipe


@pytest.mark.slow
def test_two_workers_as_documented(
    noise_records: Path, tmp_path: Path, child_environment: dict
) -> None:
    (block,) = (b for b in blocks(ROOT / "docs" / "distributed.md", "bash") if "127.0.0.1" in b)
    for port in ("12345", "23456"):
        with socket.create_server(("127.0.0.1", 0)) as free:
            block = block.replace(port, str(free.getsockname()[1]))
    small = [
        "runner.Run.global_batch=4",
        "runner.Run.epochs=1",
        "resnet3d.ResNet3D.width=0.125",
        "clips.UniformClips.num_frames=4",
        "views.RandomResizedCrop.size=16",
    ]
    run = tmp_path / "run"
    script = block.replace("runs/demo/records", str(noise_records))
    script = script.replace("runs/two_workers", str(run)).replace(
        " &\n", "".join(f" --gin_param='{each}'" for each in small) + " &\n"
    )
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**child_environment, "PATH": path}
    subprocess.run(["bash", "-c", script], env=environment, cwd=ROOT, check=True, timeout=240)
    assert json.loads((run / "run.json").read_text())["replicas"] == 2
    assert checkpoints.resolve(run).endswith("ckpt-4")
