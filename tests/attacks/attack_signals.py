"""Signals and closed pipes against commands: each ends soon, whole, and can be called again.

SIGTERM, SIGHUP and SIGUSR1 go to the command alone, as `kill` sends them; Ctrl-C twice goes to all
of its processes, as a terminal sends it; a closed pipe is what `| head` leaves. Within a minute
nothing of the command runs any more, its exit code is that of a shell, it says how to go on if
anybody can read that, and the same command then ends with the result of an undisturbed one.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attack_preparation import assert_no_process_left, contents
from conftest import ROOT, TINY_GIN, write_noise_video
from tally import Tally

from cvrl_tf.inference.feature_file import ClipFeatures

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

PATIENCE = 60  # seconds, for what takes one or two
RESUME = "Rerun the same command to resume."


@dataclass(frozen=True)
class Command:
    """A command under attack.

    Attributes:
      line: of Python, without what says where it writes.
      is_at_work: whether it has written something, but not all.
      result: what it has written, and is to be the same after all.
    """

    line: Callable[[Path], list[str]]
    is_at_work: Callable[[Path], Any]
    result: Callable[[Path], Any]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(24):
        write_noise_video(folder / f"{number:02d}.mp4", 40, number)
    return folder


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("overlay")
    for kind in ("pretrain", "methods", "ablation", "baselines", "probe", "finetune", "semi"):
        (folder / f"{kind}.gin").write_text(TINY_GIN)
    return folder


@pytest.fixture(scope="module")
def commands(
    videos: Path, exported_model: Path, noise_records: Path, overlay: Path
) -> dict[str, Command]:
    def records(output: Path) -> list[str]:
        flags = "--num_shards=24", "--short_side=720", "--workers=1", "--name=noise"
        return ["-m", "cvrl_tf.prepare", f"--input={videos}", f"--output={output}", *flags]

    def embed(output: Path) -> list[str]:
        flags = f"--output={output / 'features.npz'}", "--workers=1", "--num_clips=40"
        return ["-m", "cvrl_tf.embed", f"--model={exported_model}", *flags, str(videos)]

    def features(output: Path) -> list[np.ndarray]:
        found = ClipFeatures.load(output / "features.npz")
        return [found.videos, found.results["feature"].round(4)]

    def table(output: Path) -> list[str]:
        flags = "--table=4", f"--overlay={overlay}", "--gin_param=run.Run.epochs=500"
        data = f"--data_dir={noise_records}", f"--output={output}"
        return ["tools/run_table.py", *data, *flags]

    return {
        "prepare": Command(records, lambda output: list(output.glob("train-*")), contents),
        "embed": Command(embed, lambda output: list(output.glob("*.parts/*.npz")), features),
        # All of it would take minutes: what is not done isn't said to be done.
        "run_table": Command(
            table,
            lambda output: list(output.glob("ablation/*/metrics.jsonl")),
            lambda output: list(output.glob("done/*")),
        ),
    }


def start(environment: dict[str, str], line: list[str]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, *line],
        cwd=ROOT,
        env=environment,
        stdout=pipe,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_until(condition: Callable[[], Any], run: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 4 * PATIENCE
    while not condition():
        assert run.poll() is None, run.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stopped(run: subprocess.Popen[str], how: str) -> str:
    """Stops a command; returns what it said."""
    if how == "PIPE":
        run.stdout.readline()
        run.stdout.close()
    elif how == "INT twice":
        os.killpg(run.pid, signal.SIGINT)
        time.sleep(0.3)
        os.killpg(run.pid, signal.SIGINT)
    else:
        run.send_signal(signal.Signals[f"SIG{how}"])
    if how == "PIPE":
        run.wait(PATIENCE)
        return ""
    return run.communicate(timeout=PATIENCE)[0]


def code_of(how: str) -> int:
    return 128 + signal.Signals[f"SIG{how.split()[0]}"]


def in_a_shell(run: subprocess.Popen[str]) -> int:
    """Exit code as a shell has it, which does not tell what a signal ended."""
    return run.returncode if run.returncode >= 0 else 128 - run.returncode


WAYS = ("TERM", "PIPE", "INT twice", "HUP", "USR1")
# In the short form the first ones: each command, and each way but one.
CELLS = [
    *(("prepare", "TERM"), ("prepare", "PIPE"), ("embed", "INT twice"), ("run_table", "HUP")),
    *(("prepare", "INT twice"), ("prepare", "HUP"), ("prepare", "USR1")),
    *(("embed", "TERM"), ("embed", "PIPE"), ("embed", "HUP"), ("embed", "USR1")),
    *(("run_table", "TERM"), ("run_table", "PIPE"), ("run_table", "INT twice")),
    ("run_table", "USR1"),
]


def test_commands_end_and_resume(
    tally: Tally, commands: dict[str, Command], tmp_path: Path, child_environment: dict[str, str]
) -> None:
    wanted: dict[str, Any] = {"run_table": []}
    for number in tally.attempts(short=4, long=len(CELLS)):
        name, how = CELLS[number]
        command = commands[name]
        if name not in wanted:
            output = tmp_path / name
            whole = start(child_environment, command.line(output))
            assert whole.wait(4 * PATIENCE) == 0, whole.communicate()[0]
            wanted[name] = command.result(output)
        with tally.attempt(f"{name}: {how}"):
            output = tmp_path / f"{name} {how}"
            run = start(child_environment, command.line(output))
            wait_until(lambda command=command, output=output: command.is_at_work(output), run)
            said = stopped(run, how)
            assert_no_process_left(run.pid)
            assert in_a_shell(run) == code_of(how), said
            assert "Traceback" not in said, said
            assert RESUME in said or how == "PIPE", said
            if name != "run_table":
                again = start(child_environment, command.line(output))
                said = again.communicate(timeout=4 * PATIENCE)[0]
                assert again.returncode == 0, said
            np.testing.assert_equal(command.result(output), wanted[name])


def test_the_server_ends(
    tally: Tally, exported_model: Path, child_environment: dict[str, str]
) -> None:
    """Every signal is a proper end but SIGPIPE: alone, without a pipe, that ends nothing."""
    for number in tally.attempts(short=1, long=len(WAYS)):
        how = WAYS[number]
        with tally.attempt(f"serve: {how}"):
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            line = ["-m", "cvrl_tf.serve", f"--model={exported_model}", f"--port={port}"]
            run = start(child_environment, line)
            try:
                wait_until(lambda port=port: is_healthy(port), run)
                if how == "PIPE":
                    run.send_signal(signal.SIGPIPE)
                    assert is_healthy(port)
                    run.send_signal(signal.SIGTERM)
                    said = run.communicate(timeout=PATIENCE)[0]
                else:
                    said = stopped(run, how)
                assert_no_process_left(run.pid)
                assert in_a_shell(run) in (0, code_of(how), code_of("TERM")), said
                assert "Traceback" not in said, said
            finally:
                run.kill()


def is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return json.load(answer)["status"] == "ok"
    except OSError:
        return False
