"""The report: tables.md, tables.csv and report.html."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cvrl_tf.reports import html, measurements, runs, sections, tables
from cvrl_tf.reports.html import Section

_TITLE = "CVRL: the paper's tables and these runs"


def write_report(paths: Iterable[str | Path], output: Path, note: str = "") -> int:
    """Write tables.md, tables.csv and report.html.

    The page begins with what was measured. Tables without a run come last, collapsed.

    Args:
      paths: see `measurements.gather`.
      output: folder to write into.
      note: what a reader must know about the data; stands on top.

    Returns:
      The number of measurements.

    Raises:
      FileNotFoundError, ValueError: see `measurements.gather`.
    """
    paths = list(paths)
    measured = measurements.gather(paths)
    shown = [sections.of_table(number, measured) for number in tables.TABLES]
    page: list[Section] = [Section("Read this first", [html.Paragraph(note)])] if note else []
    page += [sections.of_evaluation(path, content) for path, content in _evaluations(paths)]
    page.append(Section("How to read the tables", [html.Paragraph(tables.LEGEND)]))
    page += [section for section in shown if not section.collapsed]
    folders = [path.parent for path in runs.find(paths, "run.json")]
    if folders:
        page.append(sections.of_training([runs.Run.read(folder) for folder in folders]))
    page += [section for section in shown if section.collapsed]
    output.mkdir(parents=True, exist_ok=True)
    texts = {
        "tables.md": tables.markdown(measured),
        "tables.csv": tables.comma_separated(measured),
        "report.html": html.page(_TITLE, page),
    }
    for name, text in texts.items():
        (output / name).write_text(text, encoding="utf-8", errors="replace")
    return len(measured)


def _evaluations(paths: list[str | Path]) -> list[tuple[Path, dict[str, Any]]]:
    """Read the evaluations to show: of several seeds of a cell, the first."""
    found: dict[Any, tuple[Path, dict[str, Any]]] = {}
    for path in runs.find(paths, "*.json"):
        content = runs.read_evaluation(path)
        if content:
            cell = content["cell"]
            key = path if cell is None else (cell, content["protocol"]["train"]["data"])
            found.setdefault(key, (path, content))
    return list(found.values())
