"""A run's folder: its lock, and what is set aside."""

import errno
import fcntl
from pathlib import Path

import pytest

from cvrl_tf.training import run_folder


def test_a_damaged_lock_still_refuses(tmp_path: Path) -> None:
    with run_folder.locked(tmp_path):
        (tmp_path / ".lock").write_bytes(b"\xff\xfe")
        with pytest.raises(run_folder.Stopped, match="is in use by"), run_folder.locked(tmp_path):
            pass


def test_a_disk_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with run_folder.locked(tmp_path):
        assert "No locks available" in caplog.text and "one command at a time" in caplog.text


def test_lines_later_than_the_step_are_set_aside(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    early, late = b'{"step": 1}\n{"step": 2}\n', b'{"step": 3}\n\x00\n{"step": 2'
    log.write_bytes(early + late)
    run_folder.set_aside(tmp_path, 2)
    assert log.read_bytes() == early
    assert (tmp_path / "aside" / "1" / "metrics.jsonl").read_bytes() == late
    run_folder.set_aside(tmp_path, 2)
    run_folder.set_aside(tmp_path, 1)
    asides = sorted(path.name for path in (tmp_path / "aside").iterdir())
    assert asides == ["1", "2"]


def test_a_new_run_sets_aside_what_others_wrote(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events").write_text("a stranger's")
    (tmp_path / "notes.txt").write_text("stays")
    run_folder.set_aside(tmp_path, 0)
    assert (tmp_path / "aside" / "1" / "tensorboard" / "events").read_text() == "a stranger's"
    assert not (tmp_path / "tensorboard").exists() and (tmp_path / "notes.txt").exists()


def test_damaged_facts_are_none(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"seed": 0, "epo')
    assert run_folder.facts(tmp_path) == {}
