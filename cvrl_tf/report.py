"""The paper's tables with what runs measured: `python -m cvrl_tf.report RUNS... --output=...`.

RUNS are folders of runs, files of `cvrl_tf.evaluate`, or folders that hold any of them. Writes into
OUTPUT tables.md, tables.csv and report.html, one page that needs no other file.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from cvrl_tf import commands
from cvrl_tf.measures.metrics import Estimate
from cvrl_tf.reports import html, measurements, tables

_OUTPUT = flags.DEFINE_string("output", "report", "Folder to write into.")
_NOTE = flags.DEFINE_string("note", "", "What a reader must know about the data; stands on top.")


def _of_tables(runs: list[tables.Measurement]) -> list[html.Section]:
    from cvrl_tf.reports import figures

    sections = []
    for number, table in tables.TABLES.items():
        rows = tables.cells(number, runs)
        columns = list(next(iter(rows.values())))
        measured = [c for c in columns if any(of[c].runs for of in rows.values())]
        drawn = {}
        if number == "3":
            for data in dict.fromkeys(column.split()[0] for column in measured if "%" in column):
                drawn[f"Accuracy by share of the labels: {data}"] = figures.by_label_fraction(
                    rows, data
                )
        else:
            for column in measured:
                drawn[f"Table {number}, {column}"] = figures.table_bars(rows, column)
        sections.append(
            html.Section(
                f"Table {number}. {table.title}",
                html.table(
                    ["", *columns], [[row, *map(str, of.values())] for row, of in rows.items()]
                )
                + "".join(html.picture(name, figure) for name, figure in drawn.items()),
            )
        )
    return sections


def _of_evaluation(path: Path, content: dict[str, Any]) -> html.Section:
    """All measures of an encoder beside those at random, and what its features look like."""
    from cvrl_tf.reports import figures

    classes, encoders = content["classes"], content["encoders"]
    names = {"trained": "this encoder", **tables.BASELINES}
    top1 = {names[name]: Estimate(**of["linear_probe"]["top1"]) for name, of in encoders.items()}
    best_other = max(e.value for name, e in top1.items() if name != names["trained"])
    gain = 100 * (top1[names["trained"]].value - best_other)
    measures = [
        (title, measure, key)
        for title, measure, key in [
            ("probe, top-1", "linear_probe", "top1"),
            ("probe, top-5", "linear_probe", "top5"),
            ("probe, mean per class", "linear_probe", "mean_per_class"),
            ("neighbors, top-1", "knn", "top1"),
            *((f"retrieval, {key}", "retrieval", key) for key in ("R@1", "R@5", "R@10", "R@20")),
        ]
    ]
    cells = [
        [names[name], *(f"{100 * of[measure][key]['value']:.1f}" for _, measure, key in measures)]
        for name, of in encoders.items()
    ]
    protocol = content["protocol"]
    content_html = html.paragraph(
        f"{gain:+.1f} points over the best of the other rows, by a linear probe on "
        f"{protocol['train']['videos']:,} videos, tested on {protocol['test']['videos']:,}. "
        "Intervals are 95 %, over test videos; they say nothing about other seeds."
    )
    content_html += html.picture("Linear probe", figures.accuracy_bars(top1, 1 / len(classes)))
    content_html += html.table(["%", *(title for title, _, _ in measures)], cells)
    confusion = np.array(content["confusion"])
    content_html += html.picture("Confusion matrix", figures.confusion_matrix(confusion, classes))
    features = Path(content["test_features"])
    if features.exists():
        with np.load(features) as stored:
            videos, labels = stored["views"].mean(axis=1), stored["labels"]
        content_html += html.picture(
            "Features of the test videos, t-SNE",
            figures.tsne(videos[:_TSNE_VIDEOS], labels[:_TSNE_VIDEOS], classes),
        )
    if content["gallery"]:
        content_html += html.paragraph(
            "Left the first test video of a class; beside it the training videos nearest to it, "
            "with their cosine; in a red frame where the class is another."
        )
        content_html += html.gallery(content["gallery"])
    return html.Section(f"Frozen features: {path}", content_html)


_TSNE_VIDEOS = 2000  # more take minutes


def _of_training(folders: list[Path]) -> html.Section:
    """Loss curves of all runs, and the views of the first batch of each that pretrains."""
    from cvrl_tf.reports import figures

    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    views = ""
    for folder in folders:
        epochs = [line for line in measurements.log_lines(folder) if "epoch/loss" in line]
        pretrains = bool(epochs) and "epoch/contrastive_accuracy" in epochs[0]
        titles = (
            {
                "epoch/loss": "InfoNCE loss, nats",
                "epoch/contrastive_accuracy": "Contrastive accuracy",
            }
            if pretrains
            else {"epoch/loss": "Loss of classification, nats", "test/top1": "Top-1 in the test"}
        )
        for name, title in titles.items():
            points = [(line["epoch"], line[name]) for line in epochs if name in line]
            if points:
                curves.setdefault(title, {})[str(folder)] = points
        if pretrains and (folder / "views.png").exists():
            views += html.image(f"Views of {folder}", folder / "views.png")
    content_html = html.paragraph(
        "A low loss and a high contrastive accuracy don't by themselves mean good features: tasks "
        "differ in how hard they are. The tables tell."
    )
    content_html += "".join(
        html.picture(title, figures.curves(of, title)) for title, of in curves.items()
    )
    return html.Section("Training", content_html + views)


def write_report(paths: list[str], output: Path, note: str) -> None:
    """Writes tables.md, tables.csv and report.html into `output`; see the module.

    Raises:
      FileNotFoundError, ValueError: see `measurements.gather`.
    """
    runs = measurements.gather(paths)
    sections = [html.Section("Read this first", html.paragraph(note))] if note else []
    sections += [html.Section("How to read the tables", html.paragraph(tables.LEGEND))]
    sections += _of_tables(runs)
    shown = set()
    for path in measurements.files(paths, "*.json"):
        content = json.loads(path.read_text())
        if isinstance(content, dict) and "encoders" in content:
            cell = content["cell"], content["protocol"]["train"]["data"]
            if content["cell"] is None or cell not in shown:  # one of several seeds is enough
                sections.append(_of_evaluation(path, content))
            shown.add(cell)
    folders = [path.parent for path in measurements.files(paths, "run.json")]
    if folders:
        sections.append(_of_training(folders))
    output.mkdir(parents=True, exist_ok=True)
    (output / "tables.md").write_text("# The paper's tables\n\n" + tables.markdown(runs))
    (output / "tables.csv").write_text(tables.comma_separated(runs))
    (output / "report.html").write_text(
        html.page("CVRL: the paper's tables and these runs", sections)
    )
    print(f"{len(runs)} measurements. Wrote tables.md, tables.csv and report.html in {output}.")


def main(argv: list[str]) -> None:
    if not argv[1:]:
        raise app.UsageError("Say which runs: python -m cvrl_tf.report runs/demo")
    with commands.explained():
        write_report(argv[1:], Path(_OUTPUT.value), _NOTE.value)


if __name__ == "__main__":
    app.run(main)
