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
            "cell": cell,
            "initial_checkpoint": None,
            "epochs": 2,
            "seed": 0,
            "train": {**data, "split": split},
            "test": data,
        }
        (run / "run.json").write_text(json.dumps(facts))
        lines = [{"step": n, "epoch": n, "epoch/loss": 1 / n, "test/top1": top1} for n in (1, 2)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


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
    assert sum(line.startswith("Table ") for line in page.texts["h2"]) == 4
    cells = page.texts["td"]
    assert "paper 24.8; 35.0 (2 runs, 30.0 to 40.0), +10.2" in cells
    assert "paper 66.1; 50.0 (40.0 to 60.0), -16.1" in cells
    assert any(cell.startswith("paper 35.1; 20.0 (") for cell in cells)
    assert "paper 58.8; no run" in cells
    captions = page.texts["figcaption"]
    for caption in (
        *("Table 1, k400", "Table 4, k400", "Accuracy by share of the labels: k400"),
        *("Linear probe", "Confusion matrix", "Features of the test videos, t-SNE"),
        *("Loss of classification, nats", "Top-1 in the test"),
        *("walking", "walking, 0.90", "<cats & dogs>, 0.80"),
    ):
        assert caption in captions, caption
    assert len(page.pictures) == len(captions)
    assert all(picture.startswith("data:image/") for picture in page.pictures)
    assert sum(picture.startswith("data:image/webp") for picture in page.pictures) == 3
    assert all(link.startswith("#") and f'id="{link[1:]}"' in text for link in page.links)
    assert (tmp_path / "out" / "tables.md").exists()
    assert len((tmp_path / "out" / "tables.csv").read_text().splitlines()) > 50


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
