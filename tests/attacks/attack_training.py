"""Ends, starves and misleads processes that train: each says a sentence, and the run resumes."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tally import Tally
from tiny_run import (
    TWO_REPLICAS,
    assert_same,
    contents,
    ended,
    full_disk,
    lines,
    log_of,
    logged,
    start,
    tensors,
    wait_for_lines,
)

from cvrl_tf import checkpoints

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

LONG_RUN = "run.Run.epochs=1000"
EPOCHS = "run.Run.epochs=3"
KEEP = "settings.Checkpointing.keep=7"


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": str(root), "TF_CPP_MIN_LOG_LEVEL": "2"}


@pytest.fixture(scope="module")
def undisturbed(
    environment: dict, noise_records: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    code, text = ended(start(environment, noise_records, folder, EPOCHS), folder)
    assert code == 0, text
    return tensors(folder)


def step_of(folder: Path) -> int:
    """Of the newest whole checkpoint."""
    return int(checkpoints.resolve(folder).rpartition("-")[2])


# name: (signals, exit codes, how many of the last logged steps may be lost)
SIGNALS: dict[str, tuple[list[int], tuple[int, ...], int]] = {
    "TERM": ([signal.SIGTERM], (75,), 0),
    "INT": ([signal.SIGINT], (130,), 0),
    # The second one saves nothing: two steps since the last checkpoint, and the one that is logged.
    "INT twice": ([signal.SIGINT, signal.SIGINT], (130, -signal.SIGINT), 3),
    "HUP": ([signal.SIGHUP], (75,), 0),
    "PIPE": ([], (75,), 2),
    "USR1": ([signal.SIGUSR1], (75,), 0),
}


def test_signals(noise_records: Path, tmp_path: Path, environment: dict, tally: Tally) -> None:
    for repetition in tally.attempts(short=1, long=3):
        running = {}
        for name in SIGNALS:
            folder = tmp_path / f"{name}{repetition}"
            piped = {"stdout": subprocess.PIPE} if name == "PIPE" else {}
            running[name] = folder, start(environment, noise_records, folder, LONG_RUN, **piped)
        for name, (folder, run) in running.items():
            numbers, codes, most = SIGNALS[name]
            with tally.attempt(f"{name} {repetition}"):
                if name == "PIPE":
                    while b"Epoch 2/" not in os.read(run.stdout.fileno(), 4096):
                        assert run.poll() is None
                    run.stdout.close()
                wait_for_lines(folder, 7 + repetition, run)
                for number in numbers:
                    run.send_signal(number)
                    time.sleep(0.1)
                code, text = ended(run, folder)
                assert code in codes, (code, text)
                assert "Traceback" not in text, text
                lost = logged(folder)[-1] - step_of(folder)
                assert 0 <= lost <= most, text


def test_signals_before_the_first_step(
    noise_records: Path, tmp_path: Path, environment: dict, tally: Tally
) -> None:
    wanted = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    for number in tally.attempts(short=3, long=12):
        sent = wanted[number % 3]
        with tally.attempt(f"{sent.name}, moment {number}"):
            folder = tmp_path / str(number)
            run = start(environment, noise_records, folder, LONG_RUN)
            while "tensorflow" not in Path(f"/proc/{run.pid}/maps").read_text():
                time.sleep(0.01)
            time.sleep(number / 2)
            run.send_signal(sent)
            code, text = ended(run, folder)
            assert code == 75 and "Traceback" not in text, (code, text)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A disk of so many bytes; only root can make one."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_disk_full_while_a_checkpoint_is_saved(
    undisturbed: dict, noise_records: Path, tmp_path: Path, environment: dict, tally: Tally
) -> None:
    for number in tally.attempts(short=1, long=5):
        with tally.attempt(f"limit, moment {number}"):
            folder = tmp_path / f"limited{number}"
            run = start(environment, noise_records, folder, EPOCHS)
            wait_for_lines(folder, 6 + number, run)
            with full_disk(run):
                code, text = ended(run, folder)
            assert code == 1 and "Can't write" in text and "Traceback" not in text, text
            assert step_of(folder) >= 4
            code, text = ended(start(environment, noise_records, folder, EPOCHS), folder)
            assert code == 0, text
            assert_same(folder, undisturbed)
            assert logged(folder) == list(range(1, 13))
    if os.geteuid() == 0:
        with tally.attempt("a disk of its own"), contextlib.ExitStack() as stack:
            disk = tmp_path / "disk"
            stack.enter_context(small_disk(disk, "100m"))
            folder = disk / "run"
            log_of(folder).symlink_to(tmp_path / "disk.log")
            run = start(environment, noise_records, folder, EPOCHS)
            wait_for_lines(folder, 5, run)
            ballast = disk / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            code, text = ended(run, folder)
            assert code == 1 and "No space left" in text and "Traceback" not in text, text
            ballast.unlink()
            code, text = ended(start(environment, noise_records, folder, EPOCHS), folder)
            assert code == 0, text
            assert_same(folder, undisturbed)


def test_a_shard_that_vanishes_or_is_rewritten(
    noise_records: Path, tmp_path: Path, environment: dict, tally: Tally
) -> None:
    epochs = "run.Run.epochs=20"  # more than are read ahead
    calm = tmp_path / "undisturbed"
    code, text = ended(start(environment, noise_records, calm, epochs), calm)
    assert code == 0, text
    for name in ("vanishes", "is cut", "is rewritten"):
        with tally.attempt(name):
            folder, records = tmp_path / name.replace(" ", "_"), tmp_path / f"records {name}"
            shutil.copytree(noise_records, records)
            shard = records / "train-00001-of-00002"
            content = shard.read_bytes()
            run = start(environment, records, folder, epochs)
            wait_for_lines(folder, 1, run)
            if name == "vanishes":
                shard.unlink()
            elif name == "is cut":
                os.truncate(shard, len(content) // 2)
            else:
                shard.write_bytes(content[: len(content) // 3] + bytes(10) + content[10:])
            code, text = ended(run, folder)
            assert code == 1 and "Stopped: " in text and "record" in text, text
            assert str(shard) in text and "Traceback" not in text, text
            shard.write_bytes(content)
            code, text = ended(start(environment, records, folder, epochs), folder)
            assert code == 0, text
            assert_same(folder, tensors(calm))
            assert logged(folder) == list(range(1, 81))


def test_not_finite_on_two_replicas(
    noise_records: Path, tmp_path: Path, environment: dict, tally: Tally
) -> None:
    with tally.attempt("a rate of 1e30"):
        folder = tmp_path / "run"
        mad = "schedules.warmup_cosine.learning_rate=1e30"
        run = start(environment, noise_records, folder, LONG_RUN, *TWO_REPLICAS, mad)
        code, text = ended(run, folder)
        assert code == 1 and "is not finite" in text and "Traceback" not in text, text
        facts = json.loads((folder / "not_finite.json").read_text())
        assert len(facts["video_ids"]) == 4 and facts["learning_rate"] > 0
        assert "not_finite" in str(list(folder.iterdir())) and lines(folder) <= facts["step"] + 2


def test_malformed_tf_config(
    noise_records: Path, tmp_path: Path, environment: dict, tally: Tally
) -> None:
    malformed = ["{", '{"cluster": {"worker": ["host"]}}', '{"cluster": {"worker": ["h:1"]}}']
    for text in malformed:
        with tally.attempt(text):
            folder = tmp_path / "run"
            run = start({**environment, "TF_CONFIG": text}, noise_records, folder, LONG_RUN)
            code, said = ended(run, folder)
            assert code == 1 and f"TF_CONFIG={text!r}" in said and "Traceback" not in said, said
            assert not folder.exists()


def test_races_of_two_runs(
    undisturbed: dict, noise_records: Path, tmp_path: Path, environment: dict, tally: Tally
) -> None:
    for number in tally.attempts(short=1, long=20):
        with tally.attempt(f"race {number}"):
            folder = tmp_path / str(number)
            runs = [start(environment, noise_records, folder, EPOCHS) for _ in range(2)]
            codes = sorted(ended(run, folder)[0] for run in runs)
            text = log_of(folder).read_text()
            assert codes in ([0, 0], [0, 1]) and "Traceback" not in text, text
            assert "is in use by" in text or "are done already" in text, text
            assert_same(folder, undisturbed)
            assert logged(folder) == list(range(1, 13)), text


def test_a_refused_run_changes_nothing(
    noise_records: Path, tmp_path: Path, environment: dict, tally: Tally
) -> None:
    with tally.attempt("other parameters"):
        folder = tmp_path / "run"
        first = start(environment, noise_records, folder, LONG_RUN)
        wait_for_lines(folder, 2, first)
        os.kill(first.pid, signal.SIGSTOP)
        try:
            before = contents(folder)
            second = start(environment, noise_records, folder, LONG_RUN, KEEP)
            code, text = ended(second, folder)
            assert code == 1 and f"in use by process {first.pid} on" in text, text
            assert contents(folder) == before
        finally:
            first.kill()
            first.wait()
