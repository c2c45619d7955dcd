"""The report: one page that needs no other file, of real evaluations and runs."""

import html.parser
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image


class Page(html.parser.HTMLParser):
    """Headings, captions, and sources of pictures; fails where tags don't close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.pictures: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "img":
            self.pictures.append(found["src"] or "")
        elif tag not in ("meta", "link"):
            self.open.append(tag)
        self.links += [found["href"] or ""] if tag == "a" else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with an evaluation, an ablation of two seeds, and a run with 1 % of the labels."""
    random = np.random.default_rng(0)
    folder = tmp_path / "results"
    for name in ("query", "same", "other"):
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        frames = random.integers(256, size=[3, 16, 16, 3], dtype=np.uint8)
        first, *others = [Image.fromarray(frame) for frame in frames]
        first.save(folder / "pictures" / f"{name}.webp", save_all=True, append_images=others)

    def pictured(name: str, label: str) -> dict:
        return {"picture": str(folder / "pictures" / f"{name}.webp"), "class": label}

    features = random.normal(size=[40, 2, 8]).astype(np.float32)
    np.savez(folder / "features.npz", views=features, labels=np.arange(40) % 2)
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6, "count": 40}
    measures = {
        "linear_probe": {name: estimate for name in ("top1", "top5", "mean_per_class")},
        "knn": {"top1": estimate},
        "retrieval": {name: estimate for name in ("R@1", "R@5", "R@10", "R@20")},
    }
    data = {"data": "k400", "split": "train", "videos": 80, "views": 2}
    evaluation = {
        "cell": "1/CVRL",
        "seed": 0,
        "classes": ["<cats & dogs>", "walking"],
        "protocol": {
            "features": "cached",
            "checkpoint": "gone",
            "epochs": 100,
            "train": data,
            "test": data,
        },
        "encoders": {
            name: measures for name in ("trained", "random", "random_calibrated", "mean_color")
        },
        "confusion": [[15, 5], [5, 15]],
        "test_features": str(folder / "features.npz"),
        "gallery": [
            {
                **pictured("query", "walking"),
                "nearest": [
                    {**pictured("same", "walking"), "cosine": 0.9},
                    {**pictured("other", "<cats & dogs>"), "cosine": 0.8},
                ],
            }
        ],
    }
    (folder / "probe.json").write_text(json.dumps(evaluation))
    for cell, split, top1 in [
        ("4/TA", "train", 0.3),
        ("4/TA", "train", 0.4),
        ("3/CVRL", "train_1pct", 0.2),
    ]:
        run = folder / f"run{top1}"
        run.mkdir()
        facts = {
            "version": 2,
            "task": "Classifier",
            "kind": "classify",
            "metric_names": ["loss", "top1"],
            "cell": cell,
            "initial_checkpoint": None,
            "epochs": 2,
            "seed": 0,
            "train": {**data, "split": split},
            "test": data,
        }
        (run / "run.json").write_text(json.dumps(facts))
        write_log(run, {"epoch/loss": 0.5, "epoch/unnamed": 1.0, "test/top1": top1})
    return folder


def write_log(run: Path, values: dict[str, float]) -> None:
    """Two epochs of these values."""
    lines = [json.dumps({"step": n, "epoch": n, **values}) for n in (1, 2)]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def report(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "cvrl_tf.report", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_report(results: Path, tmp_path: Path) -> None:
    done = report(results, f"--output={tmp_path / 'out'}", "--note=Read <this>.")
    assert done.returncode == 0, done.stderr
    assert "7 measurements" in done.stdout  # 3 runs, an encoder, its 3 baselines
    text = (tmp_path / "out" / "report.html").read_text()
    page = Page(text)
    assert "Read <this>." in page.texts["p"]
    headings = page.texts["h2"]
    assert [heading[:12] for heading in headings] == [
        *("Read this fi", "Frozen featu", "How to read "),
        *("Table 1. Lin", "Table 3. Sem", "Table 4. Abl", "Training", "Table 2. Tra"),
    ]
    # What nobody measured is collapsed.
    assert text.count("<details") == 1 and headings[-1].endswith("(no run)")
    assert "+0.0 points over the best baseline (Random weights)" in text
    cells = page.texts["td"]
    assert "paper 24.8; 35.0 (2 runs, 30.0 to 40.0), +10.2" in cells
    assert "paper 66.1; 50.0 (40.0 to 60.0), -16.1" in cells
    assert any(cell.startswith("paper 35.1; 20.0 (") for cell in cells)
    assert "paper 58.8; no run" in cells
    captions = page.texts["figcaption"]
    for caption in (
        *("Table 1, k400", "Table 4, k400", "Accuracy by share of the labels: k400"),
        *("Linear probe", "Confusion matrix", "Features of the test videos, t-SNE"),
        *("Classifier: loss", "Classifier: top1, test"),
        *("walking", "walking, 0.90", "<cats & dogs>, 0.80"),
    ):
        assert caption in captions, caption
    assert not any("unnamed" in caption for caption in captions)
    assert len(page.pictures) == len(captions)
    assert all(picture.startswith("data:image/") for picture in page.pictures)
    assert sum(picture.startswith("data:image/webp") for picture in page.pictures) == 3
    assert all(link.startswith("#") and f'id="{link[1:]}"' in text for link in page.links)
    markdown = (tmp_path / "out" / "tables.md").read_text()
    order = ["## Table 1", "## Table 3", "## Table 4", "## Runs", "# Tables without", "## Table 2"]
    assert sorted(order, key=markdown.index) == order
    assert len((tmp_path / "out" / "tables.csv").read_text().splitlines()) > 50


def test_runs_say_what_they_are(tmp_path: Path) -> None:
    """A run of version 2 in run.json; of an earlier one the keys of encoder.json tell."""
    facts = {"cell": None, "epochs": 2, "seed": 0}
    values = {"epoch/loss": 0.5, "epoch/contrastive_accuracy": 0.5, "epoch/speed": 0.5}
    named = {"version": 2, "task": "SpeedLearner", "kind": "pretrain", "metric_names": ["speed"]}
    for name, more, encoder in [
        ("new", named, {}),
        ("old", {}, {"head": {}}),
        ("probe", {}, {"labels": ["a"]}),
        ("other", {}, None),
    ]:
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        (run / "run.json").write_text(json.dumps({**facts, **more}))
        if encoder is not None:
            (run / "encoder.json").write_text(json.dumps(encoder))
        write_log(run, values)
        Image.new("RGB", (8, 8)).save(run / "views.png")
    assert report(tmp_path / "runs", f"--output={tmp_path / 'out'}").returncode == 0
    captions = Page((tmp_path / "out" / "report.html").read_text()).texts["figcaption"]
    assert set(captions) == {
        *("SpeedLearner: loss", "SpeedLearner: speed"),
        *("Pretraining: loss", "Pretraining: contrastive_accuracy"),
        *("Classification: loss", "Training: loss"),
        *(f"Views of {tmp_path / 'runs' / name}" for name in ("new", "old")),
    }


def test_files_of_a_later_version_are_refused(results: Path, tmp_path: Path) -> None:
    content = json.loads((results / "probe.json").read_text())
    (results / "probe.json").write_text(json.dumps({**content, "version": 9}))
    done = report(results, f"--output={tmp_path / 'out'}")
    assert done.returncode == 1 and "is of version 9; this cvrl_tf reads up to 2" in done.stderr


def test_features_that_are_gone_leave_their_picture_out(results: Path, tmp_path: Path) -> None:
    (results / "features.npz").unlink()
    assert report(results, f"--output={tmp_path / 'out'}").returncode == 0
    assert "t-SNE" not in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"), [([], "Say which runs"), (["nowhere"], "No run at 'nowhere'")]
)
def test_mistakes(arguments: list[str], said: str) -> None:
    done = report(*arguments)
    assert done.returncode != 0 and said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
