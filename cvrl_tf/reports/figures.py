"""Figures of the report."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cvrl_tf.measures.metrics import Estimate
from cvrl_tf.reports.tables import Cell, share_of

matplotlib.use("Agg")  # needs no screen
matplotlib.rcParams["text.parse_math"] = False  # a name is a name, whatever dollars it holds

_OURS, _PAPER = "#2c6fbb", "#b0b8c1"
_CLASSES_NAMED = 30  # more don't fit beside a picture
_LONGEST_NAME = 60  # characters, beside a picture


def shown(name: str) -> str:
    """Make a name of a run, row or class such that Matplotlib can draw it."""
    text = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in name)
    return (
        text
        if len(text) <= _LONGEST_NAME
        else f"{text[: _LONGEST_NAME - 1]}\N{HORIZONTAL ELLIPSIS}"
    )


def curves(runs: dict[str, list[tuple[int, float]]], title: str) -> Figure:
    """Draw a line for each run, of epochs and values."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, points in runs.items():
        axes.plot(
            *zip(*points, strict=True), label=shown(name), marker="." if len(points) < 30 else None
        )
    axes.set(xlabel="epoch", title=shown(title))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def accuracy_bars(accuracies: dict[str, Estimate], chance: float) -> Figure:
    """Draw horizontal bars with 95 % intervals, in percent, and a dashed line at chance."""
    figure = Figure(figsize=(7, 0.55 * len(accuracies) + 1), layout="constrained")
    axes = figure.subplots()
    for row, accuracy in enumerate(accuracies.values()):
        error = [[accuracy.value - accuracy.low], [accuracy.high - accuracy.value]]
        color = _OURS if row == 0 else _PAPER
        axes.barh(row, 100 * accuracy.value, xerr=100 * np.array(error), color=color, capsize=3)
        axes.text(
            100 * accuracy.high + 1, row, f"{100 * accuracy.value:.1f} %", va="center", fontsize=9
        )
    axes.axvline(100 * chance, color="black", linestyle="--", linewidth=1)
    axes.set(yticks=range(len(accuracies)), xlim=(0, 108), xlabel="top-1, % (dashed: chance)")
    axes.set_yticklabels([shown(name) for name in accuracies])
    axes.invert_yaxis()
    return figure


def table_bars(rows: dict[str, dict[str, Cell]], column: str) -> Figure:
    """Draw a column of a table: the paper's figures, and ours with their bounds."""
    cells = {row: of[column] for row, of in rows.items() if of[column].known}
    figure = Figure(figsize=(7, 0.6 * len(cells) + 1), layout="constrained")
    axes = figure.subplots()
    for number, cell in enumerate(cells.values()):
        aside = 0.2 if cell.paper is not None else 0.0
        if cell.paper is not None:
            axes.barh(number - aside, cell.paper, 0.38, color=_PAPER)
        if cell.measured is not None:
            value, low, high = cell.measured
            error = [[value - low], [high - value]]
            axes.barh(number + aside, value, 0.38, xerr=error, color=_OURS, capsize=3)
            if cell.minutes is not None:
                text = f"{cell.minutes:.0f} min"
                axes.text(high + 1, number + aside, text, va="center", fontsize=8)
    axes.set(yticks=range(len(cells)), xlim=(0, 108), title=shown(column))
    axes.set_xlabel("top-1, % (blue: measured, with the time of pretraining; gray: the paper's)")
    axes.set_yticklabels([shown(name) for name in cells])
    axes.invert_yaxis()
    return figure


def by_label_fraction(rows: dict[str, dict[str, Cell]], data: str) -> Figure:
    """Draw top-1 of each method by the share of the labels of a data set.

    Solid lines are measured, dashed lines are the paper's.

    Args:
      rows: of table 3, whose columns are named like "k400 10 %".
      data: such as "k400".
    """
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.subplots()
    split = {column: share_of(column) for column in next(iter(rows.values()))}
    shares = {column: part[1] for column, part in split.items() if part and part[0] == data}
    for number, (name, of) in enumerate(rows.items()):
        paper = [(x, of[c].paper) for c, x in shares.items() if of[c].paper is not None]
        ours = [(x, *found) for c, x in shares.items() if (found := of[c].measured)]
        if paper:
            axes.plot(*zip(*paper, strict=True), f"C{number}--", marker=".", alpha=0.5)
        if ours:
            x, value, low, high = np.array(ours).T
            axes.errorbar(
                x,
                value,
                [value - low, high - value],
                label=shown(name),
                color=f"C{number}",
                marker="o",
            )
    axes.set(xscale="log", xlabel="share of the labels, %", ylabel="top-1, %", title=shown(data))
    axes.set_xticks(sorted(shares.values()))
    axes.get_xaxis().set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    return figure


def confusion_matrix(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw which class is predicted for which, as shares of the row.

    Args:
      counts: int [C, C], number of test videos by class and predicted class.
      classes: C names.
    """
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the class's videos")
    axes.set(xlabel="predicted", ylabel="class")
    if len(classes) <= _CLASSES_NAMED:
        ticks, names = range(len(classes)), [shown(name) for name in classes]
        axes.set_xticks(ticks, names, rotation=90, fontsize=7)
        axes.set_yticks(ticks, names, fontsize=7)
    return figure


def tsne(features: np.ndarray, labels: np.ndarray, classes: Sequence[str], seed: int = 0) -> Figure:
    """Draw unit features in the plane by t-SNE (van der Maaten and Hinton, 2008).

    Args:
      features: float [N, D].
      labels: int [N].
      classes: names. The first 20 classes that occur have a color, the others are gray.
      seed: seed of t-SNE.
    """
    from sklearn.manifold import TSNE  # slow to import

    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    perplexity = min(30.0, (len(unit) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(unit)
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    colors = matplotlib.colormaps["tab20"]
    for number, label in enumerate(np.unique(labels)):
        x, y = places[labels == label].T
        if number < colors.N:
            axes.scatter(x, y, s=12, color=colors(number), label=shown(classes[label]))
        else:
            axes.scatter(x, y, s=12, color="lightgrey")
    axes.set(xticks=[], yticks=[])
    figure.legend(loc="outside right center", fontsize=7)
    return figure
