"""Tables 1 to 4 of the paper: its figures, and beside them the measured ones.

A run says which row it measures by its parameter `cell`, such as "4/TA+SA": the table and the row.
The column is the name of the data set, without `_splitN`, and for table 3 also the share of the
labels, from the name of the split. `measurements` reads them from the files of runs.
"""

import csv
import dataclasses
import html
import io
import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from cvrl_tf.measures.metrics import Estimate
from cvrl_tf.reports import recipes


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
      title: title of the table.
      paper: the paper's top-1 in percent, by row and column.
    """

    title: str
    paper: dict[str, dict[str, float]]


def _rows(columns: Sequence[str], **rows: Sequence[float]) -> dict[str, dict[str, float]]:
    return {row: dict(zip(columns, values, strict=True)) for row, values in rows.items()}


_FRACTIONS = ("k400 1 %", "k400 10 %", "k600 1 %", "k600 10 %")
TABLES = {
    "1": Table(
        "Linear evaluation",
        {
            "VINCE": {"k400": 36.2},
            "VTHCL": {"k400": 37.8},
            **_rows(
                ("k400", "k600"),
                SimCLR=(46.9, 48.0),
                ImageNet=(53.5, 54.7),
                CVRL=(66.1, 70.4),
                Supervised=(75.8, 78.5),
            ),
        },
    ),
    "2": Table(
        "Transfer: fine-tuning",
        {
            **_rows(
                ("ucf101", "hmdb51"),
                **{
                    "MotionPred": (61.2, 33.4),
                    "3D-RotNet": (62.9, 33.7),
                    "ST-Puzzle": (65.8, 33.7),
                    "SpeedNet": (66.7, 43.7),
                    "ClipOrder": (72.4, 30.9),
                    "DPC": (75.7, 35.7),
                    "PacePred": (77.1, 36.6),
                    "MemDPC": (78.1, 41.2),
                    "CVRL": (92.1, 65.4),
                },
            ),
            "Supervised": {},  # from scratch; not in the paper
        },
    ),
    "3": Table(
        "Semi-supervised: fine-tuning with a share of the labels",
        _rows(
            _FRACTIONS,
            Supervised=(3.2, 39.6, 4.3, 45.3),
            ImageNet=(16.0, 49.1, 17.3, 52.6),
            SimCLR=(18.6, 46.5, 19.7, 48.3),
            CVRL=(35.1, 58.1, 36.7, 56.1),
        ),
    ),
    "4": Table(
        "Ablation: temporal (TA) and spatial (SA) augmentation, temporal consistency (TC)",
        _rows(("k400",), **{"TA": (24.8,), "SA": (40.4,), "TA+SA": (49.2,), "TA+SA+TC": (58.8,)}),
    ),
}
LEGEND = (
    "Top-1 in percent: the paper's figure; the measured figure with its 95 % interval over the "
    "test videos or, of several runs, their mean with the lowest and the highest; and the "
    "difference in points. A row with * is not in the paper's table."
)
# Baselines of `FrozenEvaluation`: rows below every table that it measures.
BASELINES = {
    "random": "Random weights",
    "random_calibrated": "Random weights, calibrated statistics",
    "mean_color": "Mean color of the clip",
}


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The figure of one cell by one run.

    Attributes:
      table, row, column: of the cell.
      top1: on the test videos.
      protocol: how it was measured.
      training_videos: number of labeled training videos.
      epochs: done in pretraining, None if its run is unknown, and in training on the labels.
      minutes: of the steps of pretraining, None if unknown.
      seed: seed of the run.
      source: the run's folder or the evaluation's file.
    """

    table: str
    row: str
    column: str
    top1: Estimate
    protocol: str
    training_videos: int
    epochs: tuple[float | None, float]
    minutes: float | None
    seed: int
    source: str


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table: the paper's figure, or None, and the runs that measured it."""

    paper: float | None
    runs: tuple[Measurement, ...]

    @property
    def measured(self) -> tuple[float, float, float] | None:
        """Top-1 in percent with its bounds, or None without a run.

        Of one run, the bounds are its 95 % interval over the test videos. Of several, the figure is
        their mean and the bounds are the lowest and the highest.
        """
        values = [run.top1.value for run in self.runs]
        if not values:
            return None
        only = self.runs[0].top1
        bounds = (only.low, only.high) if len(values) == 1 else (min(values), max(values))
        return 100 * float(np.mean(values)), 100 * bounds[0], 100 * bounds[1]

    @property
    def minutes(self) -> float | None:
        """Mean time of pretraining; None if unknown."""
        found = [run.minutes for run in self.runs if run.minutes is not None]
        return float(np.mean(found)) if found else None

    @property
    def known(self) -> bool:
        """Whether there is a figure, the paper's or a measured one."""
        return self.paper is not None or bool(self.runs)

    @property
    def difference(self) -> float | None:
        """The measured figure minus the paper's, in points; None if one of them is missing."""
        if self.paper is None or self.measured is None:
            return None
        return self.measured[0] - self.paper

    def __str__(self) -> str:
        paper = "" if self.paper is None else f"paper {self.paper:.1f}; "
        if self.measured is None:
            return paper + "no run" if self.paper is not None else "–"
        value, low, high = self.measured
        bounds = "" if len(self.runs) == 1 else f"{len(self.runs)} runs, "
        text = f"{paper}{value:.1f} ({bounds}{low:.1f} to {high:.1f})"
        return text if self.difference is None else f"{text}, {self.difference:+.1f}"


def place(cell: str) -> tuple[str, str]:
    """Split a cell, such as "4/TA", into its table and row.

    The rows of a table are the paper's, those of `BASELINES`, and those that recipes make.

    Raises:
      ValueError: there is no such row.
    """
    known = [
        f"{number}/{row}"
        for number, table in TABLES.items()
        for row in (*table.paper, *BASELINES.values())
    ]
    known = list(dict.fromkeys([*known, *recipes.by_row()]))
    if cell not in known:
        raise ValueError(f"cell={cell!r}: the tables have {', '.join(known)}.")
    table, _, row = cell.partition("/")
    return table, row


def _by_share(column: str) -> tuple[str, float]:
    """Return the sort key of a column, such as "mine 10 %"."""
    return share_of(column) or (column, 0.0)


def share_of(column: str) -> tuple[str, float] | None:
    """Split a column, such as "mine 10 %", into data set and percent; None if it names no share."""
    found = re.fullmatch(r"(.*) (\d+(?:\.\d+)?) %", column, re.DOTALL)
    return (found[1], float(found[2])) if found else None


def cells(table: str, runs: Sequence[Measurement]) -> dict[str, dict[str, Cell]]:
    """Return the cells of a table by row and column: the paper's come first, then others."""
    paper = TABLES[table].paper
    by_cell = defaultdict(list)
    for run in runs:
        if run.table == table:
            by_cell[run.row, run.column].append(run)
    of_paper = [column for row in paper.values() for column in row]
    rows = dict.fromkeys([*paper, *(row for row, _ in by_cell)])
    others = sorted((column for _, column in by_cell), key=_by_share)
    columns = dict.fromkeys([*of_paper, *others])
    return {
        row: {
            column: Cell(paper.get(row, {}).get(column), tuple(by_cell[row, column]))
            for column in columns
        }
        for row in rows
    }


def markdown(runs: Sequence[Measurement]) -> str:
    """Write all tables as Markdown: those with a run, the runs, then those without.

    Top-1 in percent: the paper's figure; ours with its bounds (`Cell.measured`); and how much ours
    is higher, in points.
    """
    numbers = {run.table for run in runs}
    measured = [_markdown_table(number, runs) for number in TABLES if number in numbers]
    others = [_markdown_table(number, runs) for number in TABLES if number not in numbers]
    parts = [f"# The paper's tables\n\n{LEGEND}\n", *measured, _markdown_runs(runs)]
    if others:
        parts += ["\n# Tables without a run\n", *others]
    return "\n".join(parts)


def _markdown_table(number: str, runs: Sequence[Measurement]) -> str:
    rows = cells(number, runs)
    columns = list(next(iter(rows.values())))
    return f"## Table {number}. {TABLES[number].title}\n\n" + _markdown(
        ["", *columns], [[starred(number, row), *map(str, of.values())] for row, of in rows.items()]
    )


def starred(number: str, row: str) -> str:
    """Return a row's name, with a star if the paper's table has no such row."""
    return row if TABLES[number].paper.get(row) else f"{row} *"


def _markdown_runs(runs: Sequence[Measurement]) -> str:
    names = ["cell", "top-1, %", "protocol", "labeled videos", "epochs", "minutes of pretraining"]
    names += ["seed", "source"]
    rows = [
        [
            f"{run.table}, {run.row}, {run.column}",
            f"{100 * run.top1.value:.1f}",
            run.protocol,
            f"{run.training_videos:,}",
            " + ".join("?" if epochs is None else f"{epochs:g}" for epochs in run.epochs),
            "" if run.minutes is None else f"{run.minutes:.1f}",
            str(run.seed),
            f"`{run.source}`",
        ]
        for run in runs
    ]
    return "## Runs\n\n" + _markdown(names, rows)


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def escaped(text: str) -> str:
        return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")

    rows = [[escaped(text) for text in row] for row in (heads, *rows)]
    lines = [rows[0], ["---"] * len(heads), *rows[1:]]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def comma_separated(runs: Sequence[Measurement]) -> str:
    """Write all cells as CSV, one a line. Missing values are empty."""
    text = io.StringIO()
    names = ["table", "row", "column", "paper", "measured", "low", "high", "difference", "runs"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)

    def rounded(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    for number in TABLES:
        for row, of in cells(number, runs).items():
            for column, cell in of.items():
                figures = [cell.paper, *(cell.measured or [None] * 3), cell.difference]
                writer.writerow([number, row, column, *map(rounded, figures), len(cell.runs)])
    return text.getvalue()
