"""Rows find their recipes, and a plan has the steps of a table."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cvrl_tf import files
from cvrl_tf.data.schema import DatasetInfo
from cvrl_tf.reports import plan, recipes, tables


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project of two methods."""
    folder = tmp_path / "project"
    for name, text in {
        "pretrain/k400.gin": "# Rows:     1/CVRL, 3/CVRL\nNUM_FRAMES = 16\n",
        "methods/clip_order.gin": "# Rows:     1/ClipOrder, 2/ClipOrder\n",
        "baselines/frames.gin": "# Rows:     1/SimCLR\nNUM_FRAMES = 1\n",
        "baselines/supervised.gin": "# Rows:     1/Supervised\nCELL = '1/Supervised'\n",
        "finetune/ucf101.gin": "CELL = '2/CVRL'\n",
        "finetune/hmdb51.gin": "",
        "semi/k400_1pct.gin": "",
        "semi/k400_0.5pct.gin": "",
        "semi/k400_10pct.gin": "",
        "semi/mine_20pct.gin": "",
    }.items():
        path = folder / "gin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(files, "project", lambda: folder)
    recipes.by_row.cache_clear()
    yield folder
    recipes.by_row.cache_clear()


def test_the_recipes_of_the_project() -> None:
    found = {row: recipe.path for row, recipe in recipes.by_row().items()}
    expected = {
        "1/CVRL": "gin/pretrain/k400.gin",
        "2/CVRL": "gin/pretrain/k400.gin",
        "3/CVRL": "gin/pretrain/k400.gin",
        "1/SimCLR": "gin/baselines/simclr.gin",
        "3/SimCLR": "gin/baselines/simclr.gin",
        "1/Supervised": "gin/baselines/supervised_k400.gin",
        "4/TA": "gin/ablation/k400_ta.gin",
        "4/SA": "gin/ablation/k400_sa.gin",
        "4/TA+SA": "gin/ablation/k400_ta_sa.gin",
        "4/TA+SA+TC": "gin/ablation/k400_ta_sa_tc.gin",
    }
    assert expected.items() <= found.items()
    assert recipes.by_row()["1/SimCLR"].of_images and not recipes.by_row()["1/CVRL"].of_images
    assert recipes.by_row()["1/Supervised"].measures("1/Supervised")


def test_a_method_costs_its_recipe(project: Path) -> None:
    """Also one that the paper does not have."""
    (project / "gin" / "methods" / "mine.gin").write_text("# Rows:     1/Mine\n")
    assert tables.place("1/Mine") == ("1", "Mine")
    planned = plan.Plan(plan.Request(Path("/data"), Path("/out")), {})
    planned.add_table("1")
    assert [step.name for step in planned.steps] == [
        *("pretrain/cvrl", "probe/1-cvrl"),
        *("pretrain/simclr", "pretrain/simclr_inflated", "probe/1-simclr"),
        *("pretrain/cliporder", "probe/1-cliporder", "pretrain/mine", "probe/1-mine"),
        "supervised",
    ]
    steps = {step.name: step.command for step in planned.steps}
    assert "--gin_file=gin/methods/mine.gin" in steps["pretrain/mine"]
    assert "--gin_param=CHECKPOINT='/out/pretrain/mine'" in steps["probe/1-mine"]
    assert "--gin_param=CELL='1/Mine'" in steps["probe/1-mine"]
    assert "--like=/out/pretrain/cvrl" in steps["pretrain/simclr_inflated"]
    needs = {step.name: step.needs for step in planned.steps}
    assert needs["pretrain/mine"] == needs["supervised"] == frozenset()
    assert needs["probe/1-mine"] == {"pretrain/mine"}
    assert needs["pretrain/simclr_inflated"] == {"pretrain/simclr", "pretrain/cvrl"}
    assert needs["probe/1-simclr"] == {"pretrain/simclr_inflated"}


def test_rows_and_seeds(project: Path) -> None:
    request = plan.Request(Path("/data"), Path("/out"), only=["ClipOrder"], seeds=2)
    planned = plan.Plan(request, {})
    planned.add_table("1")
    steps = {step.name: step.command for step in planned.steps}
    assert list(steps) == [
        *("pretrain/cliporder", "probe/1-cliporder"),
        *("pretrain/cliporder-1", "probe/1-cliporder-1"),
    ]
    probe = steps["probe/1-cliporder-1"]
    assert "--gin_param=CHECKPOINT='/out/pretrain/cliporder-1'" in probe
    assert "--gin_param=frozen.FrozenEvaluation.seed=1" in probe
    assert "--gin_param=settings.Execution.seed=1" in steps["pretrain/cliporder-1"]
    with pytest.raises(ValueError, match=r"makes a row Order; there are CVRL, ClipOrder, ImageNet"):
        plan.Plan(plan.Request(Path("/data"), Path("/out"), only=["Order"]), {})


def test_protocols_are_those_of_the_data(project: Path) -> None:
    folders = [Path("/data/ucf101_split1"), Path("/data/hmdb51_split2"), Path("/data/mine")]
    infos = {folder: DatasetInfo([], 256, {}, folder.name) for folder in folders}
    planned = plan.Plan(plan.Request(folders[2], Path("/out"), folders), infos)
    planned.add_table("2")
    planned.add_table("3")
    recipe = {step.name: step.command[2] for step in planned.steps}
    assert recipe["finetune/ucf101_split1-cliporder"] == "--gin_file=gin/finetune/ucf101.gin"
    assert recipe["finetune/hmdb51_split2-supervised"] == "--gin_file=gin/finetune/hmdb51.gin"
    assert recipe["finetune/mine-cliporder"] == "--gin_file=gin/finetune/ucf101.gin"
    assert recipe["subset/20pct"] == "--percent=20"
    needs = {step.name: step.needs for step in planned.steps}
    assert needs["semi/20pct-cvrl"] == {"subset/20pct", "pretrain/cvrl"}
    assert needs["semi/20pct-supervised"] == {"subset/20pct"}
    assert needs["finetune/mine-cliporder"] == {"pretrain/cliporder"}
    assert recipe["semi/20pct-cvrl"] == "--gin_file=gin/semi/mine_20pct.gin"
    assert list(recipes.shares("other", "k400")) == ["0.5", "1", "10"]


def test_two_recipes_of_one_row_are_refused(project: Path) -> None:
    (project / "gin" / "methods" / "again.gin").write_text("# Rows:     1/CVRL\n")
    with pytest.raises(ValueError, match=r"methods/again.gin and gin/pretrain/k400.gin both make"):
        recipes.by_row()
