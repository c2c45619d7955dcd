"""The worker pool with real processes, which are really killed."""

import array
import fcntl
import functools
import os
import signal
import stat
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from cvrl_tf.preparation import worker_process
from cvrl_tf.preparation.workers import TaskTimeout, WorkerDied, WorkerPool, WorkerStartError

LARGE = 64 * 2**20  # bytes, far more than a pipe holds


# What follows runs in the workers.


def square(number: int) -> int:
    return number * number


def process_id(*_: object) -> int:
    return os.getpid()


def work_until(begun: Path, end: Path) -> str:
    """Tells that it runs, and waits for a file."""
    begun.write_text(str(os.getpid()))
    while not end.exists():
        time.sleep(0.01)
    return "worked"


def unsent_bytes() -> int:
    """Bytes in the worker's pipe that the parent has not read."""
    total = 0
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                count = array.array("i", [0])
                fcntl.ioctl(fd, termios.TIOCOUTQ, count)
                total += count[0]
        except OSError:  # the list of the folder has a descriptor of its own
            continue
    return total


def send_signal_while_sending(number: int) -> bytes:
    """Returns a large result, and gets a signal in the midst of sending it."""

    def watch() -> None:
        while unsent_bytes() < 2**16:  # what comes before the result is shorter
            pass
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()
    return bytes(LARGE)


def fail(error: type[Exception], *arguments: object) -> None:
    raise error(*arguments)


class UnreadableError(Exception):
    """Can be pickled, but not be read again."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def a_lambda() -> Callable:
    return lambda: None


def count_up(last: int, send: Callable[[int], None]) -> str:
    for number in range(last):
        send(number)
    return "counted"


def blocked_signals() -> set[int]:
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, []))


def loaded_modules() -> set[str]:
    return set(sys.modules)


def die_once(marker: Path) -> None:
    """An initializer that kills the first worker that calls it."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def die(log: Path) -> None:
    """An initializer that kills every worker."""
    with log.open("a") as file:
        file.write("started\n")
    os._exit(3)


# What follows runs here.


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen]:
    """All worker processes that a test starts."""
    found: list[subprocess.Popen] = []
    real = subprocess.Popen

    def start(*arguments: Any, **named: Any) -> subprocess.Popen:
        found.append(real(*arguments, **named))
        return found[-1]

    monkeypatch.setattr(worker_process.subprocess, "Popen", start)
    return found


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(2) as found:
        yield found


def kill_first_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills the first worker right after its process was made."""
    real, killed = subprocess.Popen, threading.Event()

    def start(*arguments: Any, **named: Any) -> subprocess.Popen:
        process = real(*arguments, **named)
        if not killed.is_set():
            killed.set()
            process.kill()
        return process

    monkeypatch.setattr(worker_process.subprocess, "Popen", start)


@pytest.mark.parametrize("moment", ["process", "initializer"])
def test_a_worker_killed_while_it_starts_costs_nothing(
    moment: str,
    started: list[subprocess.Popen],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    initializer = functools.partial(die_once, tmp_path / "died")
    if moment == "process":
        kill_first_process(monkeypatch)
        initializer = None
    with WorkerPool(2, initializer) as pool:
        futures = [pool.submit(square, number) for number in range(8)]
        assert [future.result() for future in futures] == [number**2 for number in range(8)]
        wait_for(lambda: len(started) == 3)
        assert [process.poll() for process in started].count(-signal.SIGKILL) == 1
        assert pool.error is None


def assert_serves(pool: WorkerPool) -> None:
    """Many tasks in a row, so that each worker has some."""
    futures = [pool.submit(square, number) for number in range(20)]
    assert [future.result() for future in futures] == [number**2 for number in range(20)]
    assert pool.error is None


def test_a_worker_killed_while_it_works_costs_only_its_task(
    pool: WorkerPool, tmp_path: Path
) -> None:
    for trial in range(3):
        begun, end = tmp_path / f"begun{trial}", tmp_path / f"end{trial}"
        victim = pool.submit(work_until, begun, end)
        other = pool.submit(work_until, tmp_path / f"other{trial}", end)
        waiting = [pool.submit(square, number) for number in range(8)]
        wait_for(lambda begun=begun: begun.exists() and begun.read_text())
        os.kill(int(begun.read_text()), signal.SIGKILL)
        with pytest.raises(WorkerDied, match="exit code -9") as caught:
            victim.result()
        assert caught.value.exit_code == -signal.SIGKILL
        assert [future.result() for future in waiting] == [number**2 for number in range(8)]
        assert not other.done()
        end.touch()
        assert other.result() == "worked"
        assert_serves(pool)


def test_a_worker_killed_while_it_sends_its_result_costs_only_its_task(
    pool: WorkerPool, tmp_path: Path
) -> None:
    for trial in range(3):
        end = tmp_path / f"end{trial}"
        victim = pool.submit(send_signal_while_sending, signal.SIGKILL)
        other = pool.submit(work_until, tmp_path / "other", end)
        waiting = [pool.submit(square, number) for number in range(8)]
        with pytest.raises(WorkerDied) as caught:
            victim.result()
        assert caught.value.exit_code == -signal.SIGKILL
        assert [future.result() for future in waiting] == [number**2 for number in range(8)]
        assert not other.done()
        end.touch()
        assert other.result() == "worked"
        assert_serves(pool)


def test_a_worker_killed_while_it_has_nothing_to_do_costs_nothing(
    started: list[subprocess.Popen],
) -> None:
    with WorkerPool(1) as pool:
        victim = pool.submit(process_id).result()
        started[0].kill()
        wait_for(lambda: started[0].poll() is not None)
        assert pool.submit(process_id).result() != victim
        assert len(started) == 2


def test_all_workers_killed_at_once(pool: WorkerPool, tmp_path: Path) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    victims = [pool.submit(work_until, path, tmp_path / "never") for path in paths]
    waiting = [pool.submit(square, number) for number in range(8)]
    wait_for(lambda: all(path.exists() and path.read_text() for path in paths))
    for path in paths:
        os.kill(int(path.read_text()), signal.SIGKILL)
    for victim in victims:
        with pytest.raises(WorkerDied):
            victim.result()
    assert [future.result() for future in waiting] == [number**2 for number in range(8)]
    assert_serves(pool)


def test_a_large_result_arrives(pool: WorkerPool) -> None:
    assert pool.submit(bytes, LARGE).result() == bytes(LARGE)


def test_a_timeout_kills_only_its_own_worker(pool: WorkerPool, tmp_path: Path) -> None:
    end = tmp_path / "end"
    other = pool.submit(work_until, tmp_path / "other", end, timeout=1000)
    begun = tmp_path / "begun"
    hanging = pool.submit(work_until, begun, tmp_path / "never", timeout=3)
    with pytest.raises(TaskTimeout, match="within 3 s"):
        hanging.result()
    if begun.exists() and (hung := begun.read_text()):  # else it had not even begun
        wait_for(lambda: not is_running(hung))
    assert not other.done()
    end.touch()
    assert other.result() == "worked"
    assert_serves(pool)


def test_a_worker_that_freezes_while_it_sends_is_killed(pool: WorkerPool) -> None:
    with pytest.raises(TaskTimeout):
        pool.submit(send_signal_while_sending, signal.SIGSTOP, timeout=3).result()
    assert_serves(pool)


@pytest.mark.parametrize("num_tasks", [1, 10])
def test_an_initializer_that_fails_fails_all_tasks(num_tasks: int) -> None:
    with WorkerPool(2, fail, (ValueError, "no codec")) as pool:
        futures: list[Future] = []
        with pytest.raises(WorkerStartError, match="initializer failed: ValueError: no codec"):
            for _ in range(num_tasks):
                futures.append(pool.submit(square, 2))
            for future in futures:
                future.result()
        wait_for(lambda: pool.error)
        assert isinstance(pool.error.__cause__, ValueError)
        with pytest.raises(WorkerStartError, match="no codec"):
            pool.submit(square, 2)
        for future in futures:
            assert isinstance(future.exception(), WorkerStartError)


def test_workers_that_keep_dying_at_their_start_fail_all_tasks(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with WorkerPool(1, die, (log,)) as pool:
        futures = [pool.submit(square, number) for number in range(4)]
        for future in futures:
            with pytest.raises(WorkerStartError, match="3 times in a row: .* exit code 3"):
                future.result()
        with pytest.raises(WorkerStartError, match="3 times in a row"):
            pool.submit(square, 2)
    assert log.read_text() == "started\n" * 3


def test_processes_that_cannot_be_made_fail_all_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process.sys, "executable", "/no/such/python")
    with WorkerPool(2) as pool, pytest.raises(WorkerStartError, match="/no/such/python"):
        pool.submit(square, 2).result()


def test_a_pool_shut_down_leaves_no_process(
    started: list[subprocess.Popen], tmp_path: Path
) -> None:
    before = set(threading.enumerate())
    with WorkerPool(2) as pool:
        paths = [tmp_path / "one", tmp_path / "two"]
        running = [pool.submit(work_until, path, tmp_path / "never") for path in paths]
        waiting = pool.submit(square, 2)
        wait_for(lambda: all(path.exists() for path in paths))
    assert len(started) == 2
    for process in started:
        assert process.returncode == -signal.SIGKILL
    for future in running:
        assert isinstance(future.exception(), WorkerDied)
    assert waiting.cancelled()
    assert set(threading.enumerate()) <= before
    with pytest.raises(RuntimeError, match="was shut down"):
        pool.submit(square, 2)
    pool.shutdown()  # changes nothing


def test_a_pool_shut_down_while_it_starts_leaves_no_process(
    started: list[subprocess.Popen],
) -> None:
    with WorkerPool(2, time.sleep, (1000,)) as pool:
        waiting = pool.submit(square, 2)
        wait_for(lambda: started)
    assert waiting.cancelled()
    assert all(process.returncode is not None for process in started)


def test_workers_end_with_their_parent(tmp_path: Path, child_environment: dict[str, str]) -> None:
    code = """
import os, sys, time
from cvrl_tf.preparation.workers import WorkerPool
pool = WorkerPool(2)
print(*(pool.submit(os.getpid).result() for _ in range(8)), flush=True)
time.sleep(1000)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, env=child_environment, stdout=subprocess.PIPE, text=True
    ) as parent:
        workers = set(parent.stdout.readline().split())
        assert workers
        parent.kill()
    wait_for(lambda: not any(is_running(worker) for worker in workers))


def is_running(process: str) -> bool:
    """Whether a process is there, and no zombie that nobody waits for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_workers_are_replaced_after_some_tasks() -> None:
    with WorkerPool(1, max_tasks=2) as pool:
        found = [pool.submit(process_id).result() for _ in range(5)]
    assert found[0] == found[1] and found[2] == found[3]
    assert len(set(found)) == 3


def test_errors_of_a_task_are_its_futures(pool: WorkerPool) -> None:
    with pytest.raises(KeyError, match="lost") as caught:
        pool.submit(fail, KeyError, "lost").result()
    assert "in fail\n    raise error(*arguments)" in caught.value.__notes__[0]
    with pytest.raises(RuntimeError, match="UnreadableError: 1 and 2"):
        pool.submit(fail, UnreadableError, 1, 2).result()
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        pool.submit(a_lambda).result()
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        pool.submit(a_lambda())
    with pytest.raises(WorkerDied, match="exit code 7"):
        pool.submit(sys.exit, 7).result()
    assert_serves(pool)


def test_messages_come_in_order_before_the_result(pool: WorkerPool) -> None:
    found: list[int] = []
    future = pool.submit(count_up, 1000, on_message=found.append)
    assert future.result() == "counted"
    assert found == list(range(1000))


def test_an_error_about_a_message_ends_the_task(pool: WorkerPool) -> None:
    def complain(message: int) -> None:
        if message == 5:
            raise ValueError("five")

    with pytest.raises(ValueError, match="five"):
        pool.submit(count_up, 10**9, on_message=complain).result()
    assert_serves(pool)


def test_a_waiting_task_can_be_cancelled(tmp_path: Path) -> None:
    with WorkerPool(1) as pool:
        running = pool.submit(work_until, tmp_path / "begun", tmp_path / "end")
        waiting = pool.submit(Path.touch, tmp_path / "touched")
        assert waiting.cancel()
        (tmp_path / "end").touch()
        assert running.result() == "worked"
        assert_serves(pool)
    assert not (tmp_path / "touched").exists()


def test_workers_do_not_see_ctrl_c_and_import_little(pool: WorkerPool) -> None:
    for _ in range(8):
        assert signal.SIGINT in pool.submit(blocked_signals).result()
        modules = pool.submit(loaded_modules).result()
        assert not {"tensorflow", "cv2"} & modules and __name__ in modules
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
