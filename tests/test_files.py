"""Locks and temporary files, between real processes."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from etils import epath

from cvrl_tf import files

HOLDER = """
import sys, time
from cvrl_tf import files
with files.locked(sys.argv[1], "wait"):
    print("held", flush=True)
    time.sleep(1000)
"""


def hold(path: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_lock_ends_with_its_process(tmp_path: Path, child_environment: dict[str, str]) -> None:
    path = tmp_path / "new" / ".lock"
    with hold(path, child_environment) as holder:
        said = f"new' is in use by process {holder.pid} on .*: stop it."
        with pytest.raises(files.InUse, match=said), files.locked(path, "stop it"):
            pass
        with pytest.raises(files.InUse), files.locked(path, "stop it", patience=0.1):
            pass
        holder.send_signal(signal.SIGKILL)
    assert path.exists()
    with files.locked(path, "stop it"):
        assert f"process {os.getpid()}" in path.read_text()
    assert not path.exists()


def test_one_at_a_time_though_the_file_comes_and_goes(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with files.locked(tmp_path / ".lock", "wait", patience=60):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and not list(tmp_path.iterdir())


def test_a_disk_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with files.locked(tmp_path / ".lock", "wait"), files.locked(tmp_path / ".lock", "wait"):
        pass
    assert "No locks available. Run one command at a time" in caplog.text
    with files.aside(epath.Path(tmp_path / "file")) as place:
        assert not files.is_abandoned(place)


def test_a_temporary_file_is_removed_unless_published(tmp_path: Path) -> None:
    path = epath.Path(tmp_path / "file")
    with pytest.raises(KeyError), files.aside(path) as place:
        place.write_text("half")
        raise KeyError
    assert not list(tmp_path.iterdir())
    with files.aside(path) as place:
        place.write_text("whole")
        files.publish(place, path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and path.read_text() == "whole"
