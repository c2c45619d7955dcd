"""Files of runs that are damaged are passed over or named."""

from pathlib import Path

import pytest

from cvrl_tf.reports import measurements, runs


def test_what_is_no_line_of_the_log_is_passed_over(tmp_path: Path) -> None:
    lines = [
        b'{"step": 1, "epoch": 1, "epoch/loss": 2.0}',
        b"\xff\x00",
        b"[1]",
        b'{"epoch/loss": 1}',
    ]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*lines, b'{"step": 2, "epo']))
    run = runs.Run(tmp_path, {})
    assert run.curve("epoch/loss") == [(1, 2.0)]


@pytest.mark.parametrize("content", [b"", b'{"seed": 0, "ep', b"\xff\xfe", b"[]"])
def test_a_damaged_run_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="run.json' is damaged: .*Restore it"):
        runs.Run.read(tmp_path)
    with pytest.raises(ValueError, match="run.json' is damaged"):
        measurements.gather([tmp_path])


def test_what_a_run_set_aside_is_no_run(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "aside" / "1"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text("{}")
    assert runs.find([tmp_path], "run.json") == [tmp_path / "run.json"]
