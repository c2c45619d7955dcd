"""What runs measured stands in the right cell of the right table, and a cell without says so."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from cvrl_tf.measures.metrics import share
from cvrl_tf.reports import measurements, runs, tables

FACTS: dict[str, Any] = {
    "cell": "3/CVRL",
    "initial_checkpoint": None,
    "epochs": 5,
    "seed": 0,
    "train": {"data": "k400", "split": "train_1pct", "videos": 400, "views": 1},
    "test": {"data": "k400", "split": "validation", "videos": 200, "views": 30},
}


def write_run(folder: Path, top1: float, **facts: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({**FACTS, **facts}))
    lines = [{"epoch": 4, "test/top1": 0.01}, {"epoch": 5, "test/top1": top1}, {"step": 9}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_evaluation(path: Path, **content: Any) -> Path:
    def measured(value: float) -> dict:
        top1 = {"value": value, "low": value - 0.1, "high": value + 0.1, "count": 50}
        return {"linear_probe": {"top1": top1}}

    values = {"trained": 0.6, "random": 0.2, "random_calibrated": 0.3, "mean_color": 0.1}
    found = {
        "cell": "1/CVRL",
        "seed": 0,
        "protocol": {
            "features": "cached",
            "checkpoint": "gone/checkpoints/ckpt-3",
            "epochs": 100,
            "train": FACTS["train"] | {"data": "mine", "split": "train"},
            "test": FACTS["test"],
        },
        "encoders": {name: measured(value) for name, value in values.items()},
        **content,
    }
    path.write_text(json.dumps(found))
    return path


def test_a_run_stands_in_its_cell_with_its_interval_and_difference(tmp_path: Path) -> None:
    pretrained = write_run(tmp_path / "pre", 0, cell=None, epochs=800)
    run = write_run(tmp_path / "run", 0.4, initial_checkpoint=f"{pretrained}/checkpoints/ckpt-7")
    (measured,) = measurements.gather([tmp_path])
    assert measured.epochs == (800, 5)
    facts = json.loads((pretrained / "run.json").read_text()) | {"steps_per_epoch": 2}
    (pretrained / "run.json").write_text(json.dumps(facts))
    (run / "run.json").write_text(
        (run / "run.json").read_text().replace('"epochs": 5', '"epochs": 9')
    )
    (measured,) = measurements.gather([tmp_path])
    assert measured.epochs == (3.5, 5), "planned epochs, not those that were done"
    assert measured.minutes is None and "| 3.5 + 5 |  | 0 |" in tables.markdown([measured])
    speeds = [{"step": step, "steps_per_second": speed} for step, speed in ((3, 0.1), (6, 0.05))]
    (pretrained / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in speeds))
    (measured,) = measurements.gather([tmp_path])
    assert measured.minutes == pytest.approx(7 * 15 / 60)
    assert "| 3.5 + 5 | 1.8 | 0 |" in tables.markdown([measured])
    assert measured.top1 == share([True] * 80 + [False] * 120)
    assert 0.32 < measured.top1.low < 0.35 and measured.top1.high < 0.48
    cells = tables.cells("3", [measured])
    cell = cells["CVRL"]["k400 1 %"]
    assert cell.measured == pytest.approx((40, 100 * measured.top1.low, 100 * measured.top1.high))
    assert cell.difference == pytest.approx(40 - 35.1)
    assert [c for row in cells.values() for c in row.values() if c.runs] == [cell]
    assert str(cells["CVRL"]["k400 10 %"]) == "paper 58.1; no run"
    assert measured.source == str(run)


def test_seeds_and_splits_share_a_cell_whose_figure_is_their_mean(tmp_path: Path) -> None:
    for split, top1 in enumerate([0.9, 0.8, 0.85], 1):
        data = {"data": f"ucf101_split{split}", "split": "train", "videos": 9537, "views": 1}
        write_run(tmp_path / str(split), top1, cell="2/CVRL", train=data)
    cell = tables.cells("2", measurements.gather([tmp_path]))["CVRL"]["ucf101"]
    assert cell.measured == pytest.approx((85, 80, 90))
    assert str(cell) == "paper 92.1; 85.0 (3 runs, 80.0 to 90.0), -7.1"


def test_columns_of_shares_stand_in_their_order(tmp_path: Path) -> None:
    for percent in ("10", "1", "0.5"):
        data = {"data": "mine", "split": f"train_{percent}pct", "videos": 9, "views": 1}
        write_run(tmp_path / percent, 0.5, train=data)
    columns = list(tables.cells("3", measurements.gather([tmp_path]))["CVRL"])
    assert columns[-3:] == ["mine 0.5 %", "mine 1 %", "mine 10 %"]


def test_evaluations_share_their_baselines(tmp_path: Path) -> None:
    """Of one encoder at random, that two evaluations compare with, there is one measurement."""
    for number, cell in enumerate(("4/TA", "4/SA")):
        write_evaluation(tmp_path / f"{number}.json", cell=cell)
    write_evaluation(tmp_path / "other.json", cell="4/TA", seed=1)
    cells = tables.cells("4", measurements.gather([tmp_path]))
    assert len(cells["Random weights"]["mine"].runs) == 2
    assert len(cells["TA"]["mine"].runs) == 2 and len(cells["SA"]["mine"].runs) == 1


def test_an_evaluation_brings_its_baselines_along(tmp_path: Path) -> None:
    path = write_evaluation(tmp_path / "probe.json")
    cells = tables.cells("1", measurements.gather([path]))
    ours = {row: of["mine"].measured for row, of in cells.items() if of["mine"].runs}
    assert ours == {
        "CVRL": pytest.approx((60, 50, 70)),
        "Random weights": pytest.approx((20, 10, 30)),
        "Random weights, calibrated statistics": pytest.approx((30, 20, 40)),
        "Mean color of the clip": pytest.approx((10, 0, 20)),
    }
    assert str(cells["VINCE"]["k600"]) == "–" and str(cells["CVRL"]["k600"]) == "paper 70.4; no run"


def test_an_evaluation_of_an_earlier_version(tmp_path: Path) -> None:
    """It spells the mean color otherwise, and does not say how much the encoder gains."""
    path = write_evaluation(tmp_path / "probe.json")
    content = json.loads(path.read_text())
    content["encoders"]["mean_colour"] = content["encoders"].pop("mean_color")
    path.write_text(json.dumps(content))
    rows = {run.row for run in measurements.gather([path])}
    assert "Mean color of the clip" in rows and len(rows) == 4
    read = runs.read_evaluation(path)
    assert read is not None
    assert read["gain_over_baselines"] == {
        "baseline": "random_calibrated",
        "points": pytest.approx(30),
    }


def test_each_path_counts_once_and_what_has_no_test_yet_not_at_all(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 0.5)
    begun = write_run(tmp_path / "begun", 0.5)
    (begun / "metrics.jsonl").write_text("")
    write_evaluation(tmp_path / "other.json", cell=None)
    (tmp_path / "list.json").write_text("[1]")
    paths = [tmp_path, tmp_path / "run", tmp_path / "run" / "run.json"]
    assert len(measurements.gather(paths)) == 1


def test_text_forms(tmp_path: Path) -> None:
    measured = measurements.gather([write_evaluation(tmp_path / "probe.json")])
    text = tables.markdown(measured)
    assert "| CVRL | paper 66.1; no run | paper 70.4; no run | 60.0 (50.0 to 70.0) |" in text
    assert "| ? + 100 |  | 0 |" in text  # its checkpoint is gone
    lines = tables.comma_separated(measured).splitlines()
    assert "1,CVRL,k400,66.10,,,,,0" in lines and "1,CVRL,mine,,60.00,50.00,70.00,,1" in lines
    (table, *_) = text.split("## Runs")
    assert {line.count("|") for line in table.splitlines() if "|" in line} == {5}


@pytest.mark.parametrize("cell", ["5/CVRL", "4/CVRL", "CVRL", "1/"])
def test_an_unknown_cell_is_refused(cell: str, tmp_path: Path) -> None:
    write_run(tmp_path / "run", 0.5, cell=cell)
    with pytest.raises(ValueError, match=re.escape(f"cell={cell!r}") + ".*4/TA"):
        measurements.gather([tmp_path])


def test_a_path_without_anything_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        measurements.gather([tmp_path / "nowhere"])


def test_recipes_name_cells_that_there_are() -> None:
    named = set()
    for recipe in (ROOT / "gin").rglob("*.gin"):
        named |= set(re.findall(r"^CELL = '(.*)'$", recipe.read_text(), re.MULTILINE))
    assert {"1/CVRL", "2/CVRL", "3/CVRL", "1/Supervised"} <= named
    for cell in named:
        tables.place(cell)


def test_the_paper_s_figures() -> None:
    """Sums of the paper's tables, typed apart from the module."""
    sums = {
        number: sum(sum(row.values()) for row in table.paper.values())
        for number, table in tables.TABLES.items()
    }
    expected = {
        "1": 36.2 + 37.8 + 46.9 + 53.5 + 66.1 + 75.8 + 48.0 + 54.7 + 70.4 + 78.5,
        "2": 652.0 + 354.3,
        "3": 72.9 + 193.3 + 78.0 + 202.3,
        "4": 173.2,
    }
    assert sums == pytest.approx(expected)
