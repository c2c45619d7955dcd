"""What a page shows of files and names that it does not know."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cvrl_tf.measures.metrics import Estimate
from cvrl_tf.reports import figures, html, runs, tables
from cvrl_tf.reports.html import Picture


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp"])
def test_the_content_says_what_a_picture_is(kind: str, tmp_path: Path) -> None:
    path = tmp_path / 'x.png" onerror="alert(1)'
    path.write_bytes(picture(kind))
    found = Picture.of_file("x", path, tmp_path)
    assert found.source.startswith(f"data:image/{kind};base64,")


@pytest.mark.parametrize("content", [b"", b"text", b"<svg onload='x'/>", picture("bmp")])
def test_other_files_are_not_shown(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(content)
    found = Picture.of_file("x", tmp_path / "x.png", tmp_path)
    assert found.content is None and found.problem == "not of PNG, JPEG, GIF, WEBP"


def test_pictures_elsewhere_are_not_shown(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "x.png").write_bytes(picture("png"))
    (run / "link.png").symlink_to(tmp_path / "x.png")
    for path in (tmp_path / "x.png", run / "link.png", run / "../x.png", "/dev/zero", "x\0"):
        found = Picture.of_file("x", path, run)
        assert found.content is None and found.problem == f"not in {run}"
    assert Picture.of_file("x", run / "gone.png", run).problem == "not found"
    (tmp_path / "same").symlink_to(run)
    (run / "x.png").write_bytes(picture("png"))
    assert Picture.of_file("x", tmp_path / "same" / "x.png", run).content


def test_a_page_escapes_and_encodes_its_texts() -> None:
    text = html.page("<b>&", [html.Section("\udcff", [html.Table(["<i>"], [['"']])])])
    assert "&lt;b&gt;&amp;" in text and "&lt;i&gt;" in text and '<h2 id="s1">?</h2>' in text
    assert "content=\"default-src 'none'; img-src data:;" in text


@pytest.mark.parametrize("name", ["$\\frac{1}{$", "\udcff", "\0\n", "x" * 500, "_", "100 % $"])
def test_figures_draw_any_name(name: str) -> None:
    runs_of = {name: [(1, 0.5), (2, 0.6)], f"{name}2": [(1, 0.1)]}
    cell = {f"{name} 10 %": tables.Cell(10.0, ()), f"{name} 1 %": tables.Cell(1.0, ())}
    drawn = [
        figures.curves(runs_of, name),
        figures.accuracy_bars({name: Estimate(0.5, 0.4, 0.6, 10)}, 0.5),
        figures.table_bars({name: cell}, f"{name} 10 %"),
        figures.by_label_fraction({name: cell}, name),
        figures.confusion_matrix(np.eye(2, dtype=int), [name, name]),
    ]
    for figure in drawn:
        assert Picture.of_figure(name, figure).source.startswith("data:image/png")


def test_columns_of_shares() -> None:
    assert tables.share_of("my videos 2.5 %") == ("my videos", 2.5)
    assert (
        tables.share_of("my %") is tables.share_of("x 1.2.3 %") is tables.share_of("k400") is None
    )


@pytest.mark.parametrize("content", [b"{\n", b"\xff\n", b"[" * 100_000 + b"\n"])
def test_damage_is_a_sentence_that_names_the_file(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match="run.json' is damaged"):
        runs.Run.read(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(b'{"epoch": 1}\n' + content + b'{"epoch": 2}\n')
    assert runs.Run(tmp_path, {}).log == [{"epoch": 1}, {"epoch": 2}]
    assert "metrics.jsonl: 1 damaged lines" in caplog.text


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epo')
    assert runs.Run(tmp_path, {}).log == [{"epoch": 1}]
