"""Trains on two replicas to the end, with a random fault every 20 seconds for ten minutes.

The short form has one fault of each kind. The run ends in the weights of an undisturbed one.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tally import LONG, Tally
from tiny_run import (
    TWO_REPLICAS,
    assert_same,
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

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

EPOCHS = 500 if LONG else 20
SECONDS = 20  # from one fault to the next


def kill(run: subprocess.Popen, folder: Path, shard: Path) -> None:
    os.killpg(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL


def terminate(run: subprocess.Popen, folder: Path, shard: Path) -> None:
    run.terminate()
    code, text = ended(run, folder)
    assert code == 75, text


def full_disk_for_5_seconds(run: subprocess.Popen, folder: Path, shard: Path) -> None:
    with full_disk(run), contextlib.suppress(subprocess.TimeoutExpired):
        run.wait(5)
    if run.poll() is None:  # it was not writing
        kill(run, folder, shard)
        return
    assert run.returncode == 1 and "Can't write" in log_of(folder).read_text()[-2000:]


def damaged_newest_checkpoint(run: subprocess.Popen, folder: Path, shard: Path) -> None:
    kill(run, folder, shard)
    with contextlib.suppress(FileNotFoundError):  # none yet
        data = Path(f"{checkpoints.resolve(folder)}.data-00000-of-00001")
        content = bytearray(data.read_bytes())
        content[random.randrange(len(content))] ^= 255
        data.write_bytes(content)


def read_error(run: subprocess.Popen, folder: Path, shard: Path) -> None:
    away = shard.rename(shard.with_name("away"))
    code, text = ended(run, folder)
    away.rename(shard)
    assert code == 1 and "Stopped: " in text[-2000:] and "record" in text[-2000:], text


Fault = Callable[[subprocess.Popen, Path, Path], None]
FAULTS: list[Fault] = [
    kill,
    damaged_newest_checkpoint,
    terminate,
    full_disk_for_5_seconds,
    read_error,
]


def begin(environment: dict, records: Path, folder: Path) -> subprocess.Popen:
    # A full disk would refuse the progress bar, too.
    quiet = {"stdout": subprocess.DEVNULL}
    params = [f"run.Run.epochs={EPOCHS}", *TWO_REPLICAS]
    return start(environment, records, folder, *params, **quiet)


def wait_for_fault(run: subprocess.Popen, folder: Path) -> None:
    """Until the next fault is due: some seconds after the last or, in the short form, lines."""
    if LONG:
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(SECONDS)
    else:
        wait_for_lines(folder, lines(folder) + random.randrange(6, 10), run)


def test_random_faults(
    noise_records: Path, tmp_path: Path, child_environment: dict, tally: Tally
) -> None:
    undisturbed, folder, records = (tmp_path / name for name in ("undisturbed", "run", "records"))
    shutil.copytree(noise_records, records)
    shard = records / "train-00000-of-00002"
    code, text = ended(begin(child_environment, records, undisturbed), undisturbed, 1200)
    assert code == 0, text
    random.seed(0)
    deadline = time.monotonic() + 600
    run = begin(child_environment, records, folder)
    for number in tally.attempts(short=len(FAULTS), long=30):
        wait_for_fault(run, folder)
        if run.poll() == 0 or time.monotonic() > deadline:
            break
        fault = random.choice(FAULTS) if LONG else FAULTS[number]
        with tally.attempt(f"fault {number}, {fault.__name__}"):
            assert run.poll() is None, log_of(folder).read_text()[-3000:]
            fault(run, folder, shard)
        if run.poll() is None:
            run.kill()
        run.wait()
        run = begin(child_environment, records, folder)
    with tally.attempt("the undisturbed weights"):
        code, text = ended(run, folder, 1200)
        assert code == 0 and "Traceback" not in text, text
        assert_same(folder, tensors(undisturbed))
        assert logged(folder) == list(range(1, 4 * EPOCHS + 1))
