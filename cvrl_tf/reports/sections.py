"""Sections of the report: the paper's tables, evaluations of frozen features, and training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cvrl_tf.measures.metrics import Estimate
from cvrl_tf.reports import figures, html, tables
from cvrl_tf.reports.html import Block, Gallery, Paragraph, Picture, Section, Table
from cvrl_tf.reports.runs import Run

_TSNE_VIDEOS = 2000  # more take minutes
_MEASURES = [  # heading, measure, key
    ("probe, top-1", "linear_probe", "top1"),
    ("probe, top-5", "linear_probe", "top5"),
    ("probe, mean per class", "linear_probe", "mean_per_class"),
    ("neighbors, top-1", "knn", "top1"),
    *((f"retrieval, {key}", "retrieval", key) for key in ("R@1", "R@5", "R@10", "R@20")),
]


def of_table(number: str, measured: Sequence[tables.Measurement]) -> Section:
    """Show a table of the paper with what was measured; collapsed if nothing was."""
    rows = tables.cells(number, measured)
    columns = list(next(iter(rows.values())))
    drawn = [column for column in columns if any(of[column].runs for of in rows.values())]
    body = [[tables.starred(number, row), *map(str, of.values())] for row, of in rows.items()]
    blocks: list[Block] = [Table(["", *columns], body)]
    if number == "3":
        shares = [share for column in drawn if (share := tables.share_of(column))]
        for data in dict.fromkeys(data for data, _ in shares):
            caption = f"Accuracy by share of the labels: {data}"
            blocks.append(Picture.of_figure(caption, figures.by_label_fraction(rows, data)))
    else:
        for column in drawn:
            figure = figures.table_bars(rows, column)
            blocks.append(Picture.of_figure(f"Table {number}, {column}", figure))
    heading = f"Table {number}. {tables.TABLES[number].title}"
    return Section(heading if drawn else f"{heading} (no run)", blocks, collapsed=not drawn)


def of_evaluation(path: Path, content: dict[str, Any]) -> Section:
    """Show all measures of an encoder and of its baselines, and what its features look like.

    Args:
      path: of the file.
      content: see `runs.read_evaluation`.
    """
    classes, encoders = content["classes"], content["encoders"]
    names = {"trained": "this encoder", **tables.BASELINES}
    top1 = {names[name]: Estimate(**of["linear_probe"]["top1"]) for name, of in encoders.items()}
    cells = [
        [names[name], *(f"{100 * of[measure][key]['value']:.1f}" for _, measure, key in _MEASURES)]
        for name, of in encoders.items()
    ]
    confusion = figures.confusion_matrix(np.array(content["confusion"]), classes)
    blocks: list[Block] = [
        Paragraph(_summary(content)),
        Picture.of_figure("Linear probe", figures.accuracy_bars(top1, 1 / len(classes))),
        Table(["%", *(heading for heading, _, _ in _MEASURES)], cells),
        Picture.of_figure("Confusion matrix", confusion),
    ]
    features = Path(content["test_features"])
    if html.is_below(features, path.parent) and features.exists():
        with np.load(features) as stored:
            videos, labels = stored["views"].mean(axis=1), stored["labels"]
        figure = figures.tsne(videos[:_TSNE_VIDEOS], labels[:_TSNE_VIDEOS], classes)
        blocks.append(Picture.of_figure("Features of the test videos, t-SNE", figure))
    if content["gallery"]:
        blocks.append(
            Paragraph(
                "Each row begins with the first test video of a class. The training videos nearest "
                "to it follow, with their cosine similarity. A red frame marks another class."
            )
        )
        blocks += [_nearest(query, path.parent) for query in content["gallery"]]
    return Section(f"Frozen features: {path}", blocks)


def _summary(content: dict[str, Any]) -> str:
    gain, protocol = content["gain_over_baselines"], content["protocol"]
    baseline = tables.BASELINES[gain["baseline"]]
    return (
        f"{gain['points']:+.1f} points over the best baseline ({baseline}), by a linear probe on "
        f"{protocol['train']['videos']:,} videos, tested on {protocol['test']['videos']:,}. "
        "Intervals are 95 %, over test videos. They do not cover other seeds."
    )


def _nearest(query: dict[str, Any], folder: Path) -> Gallery:
    """Show an entry of `gallery.nearest_videos`, whose pictures are in a folder."""
    pictures = [Picture.of_file(query["class"], query["picture"], folder, "query")]
    for near in query["nearest"]:
        role = "same" if near["class"] == query["class"] else "other"
        caption = f"{near['class']}, {near['cosine']:.2f}"
        pictures.append(Picture.of_file(caption, near["picture"], folder, role))
    return Gallery(pictures)


def of_training(trained: Sequence[Run]) -> Section:
    """Show the curves of all runs, and the first views of those that pretrain."""
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    views: list[Block] = []
    for run in trained:
        for metric in run.metric_names:
            for prefix, suffix in (("epoch", ""), ("test", ", test")):
                points = run.curve(f"{prefix}/{metric}")
                if points:
                    title = f"{run.facts['task']}: {metric}{suffix}"
                    curves.setdefault(title, {})[str(run.folder)] = points
        picture = run.folder / "views.png"
        if run.facts["kind"] == "pretrain" and picture.exists():
            views.append(Picture.of_file(f"Views of {run.folder}", picture, run.folder))
    text = (
        "A low loss does not by itself mean good features: tasks differ in how hard they are. "
        "Compare methods by the tables."
    )
    drawn = [Picture.of_figure(title, figures.curves(of, title)) for title, of in curves.items()]
    return Section("Training", [Paragraph(text), *drawn, *views])
