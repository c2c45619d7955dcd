"""Pictures and pages of what runs have shown."""

import base64
import html
import io
import json
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from cvrl_tf.evaluation.metrics import Estimate

matplotlib.use("Agg")  # no screen needed


def read_metrics(run: str | Path, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric of a run's metrics.jsonl."""
    lines = map(json.loads, (Path(run) / "metrics.jsonl").read_text().splitlines())
    points = [(line["step"], line[name]) for line in lines if name in line]
    return [step for step, _ in points], [value for _, value in points]


def curve(run: str | Path, names: dict[str, str]) -> Figure:
    """One panel a metric of a run, by step; `names` says what to call each."""
    figure = Figure(figsize=(4.5 * len(names), 3.2), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(names)), names.items(), strict=True):
        axes.plot(*read_metrics(run, name), color="#2c6fbb")
        axes.set(xlabel="step", title=title)
        axes.grid(alpha=0.3)
    return figure


def accuracy_bars(accuracies: dict[str, Estimate], chance: float) -> Figure:
    """Horizontal bars with 95 % intervals, in percent; a dashed line at chance."""
    figure = Figure(figsize=(7, 0.55 * len(accuracies) + 1), layout="constrained")
    axes = figure.subplots()
    for row, accuracy in enumerate(accuracies.values()):
        error = [[accuracy.value - accuracy.low], [accuracy.high - accuracy.value]]
        colour = "#2c6fbb" if row == 0 else "#b0b8c1"
        axes.barh(row, 100 * accuracy.value, xerr=100 * np.array(error), color=colour, capsize=3)
        axes.text(
            100 * accuracy.high + 1, row, f"{100 * accuracy.value:.1f} %", va="center", fontsize=9
        )
    axes.axvline(100 * chance, color="black", linestyle="--", linewidth=1)
    axes.set(yticks=range(len(accuracies)), xlim=(0, 108), xlabel="top-1, % (dashed: chance)")
    axes.set_yticklabels(list(accuracies))
    axes.invert_yaxis()
    return figure


def view_sheet(views: np.ndarray) -> Figure:
    """Both views of some videos, every second frame: one row a view.

    Args:
      views: float [B, 2, T, H, W, 3] in [0, 1].
    """
    rows, shown = 2 * len(views), range(0, views.shape[2], 2)
    figure = Figure(figsize=(1.25 * len(shown) + 1, 1.25 * rows), layout="constrained")
    grid = figure.subplots(rows, len(shown), squeeze=False)
    for row in range(rows):
        for column, time in enumerate(shown):
            axes = grid[row][column]
            axes.imshow(views[row // 2, row % 2, time], interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(f"frame {time}", fontsize=8)
        grid[row][0].set_ylabel(f"video {row // 2 + 1}\nview {row % 2 + 1}", fontsize=8)
    return figure


def page(title: str, sections: list[tuple[str, str, Figure | None]]) -> str:
    """A self-contained HTML page of sections (heading, HTML text, picture)."""
    parts = []
    for heading, text, figure in sections:
        parts.append(f"<h2>{html.escape(heading)}</h2>\n<p>{text}</p>")
        if figure is not None:
            parts.append(f'<img alt="{html.escape(heading)}" src="{_data_url(figure)}">')
    style = (
        "body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
        "color:#222}img{max-width:100%}table{border-collapse:collapse}"
        "td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ddd}"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _data_url(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
