"""`dataset_info.json` of each version."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cvrl_tf.data import schema

SPLIT: dict[str, Any] = {
    "shards": {"train-00000-of-00001": 2},
    "num_frames": 20,
    "frame_rates": {"25": 2},
    "class_counts": {},
    "skipped": {},
    "fps": None,
}
VERSION_1 = {"labels": [], "short_side": 256, "splits": {"train": SPLIT}}


def write(folder: Path, fields: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / schema.INFO_FILE).write_text(json.dumps(fields))
    return folder


def test_version_and_name_are_written(tmp_path: Path) -> None:
    info = schema.DatasetInfo([], 256, {"train": schema.SplitInfo(**SPLIT)}, "k400")
    info.save(tmp_path)
    assert json.loads((tmp_path / schema.INFO_FILE).read_text()) == {
        "version": 2, "name": "k400", **VERSION_1
    }  # fmt: skip
    assert schema.DatasetInfo.load(tmp_path) == info


def test_version_1_is_read_and_becomes_version_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "ucf101", VERSION_1)
    info = schema.DatasetInfo.load(folder)
    assert (info.name, info.short_side, info.split("train").num_examples) == ("ucf101", 256, 2)
    assert schema.DatasetInfo.load(f"{folder}{os.sep}") == info
    monkeypatch.chdir(folder)
    assert schema.DatasetInfo.load(".") == info

    info.save(folder)
    assert schema.DatasetInfo.load(folder.rename(tmp_path / "elsewhere")).name == "ucf101"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"version": 3}, "has version 3, but .* reads versions 1 to 2. Update cvrl_tf, or make"),
        ({"version": 3, "color": "red"}, "has version 3, but"),
        ({"version": "new"}, "has version new, but"),
        ({"version": 0}, "has version 0, but"),
        ({"color": "red"}, r"can't be read: unknown fields \['color'\]. Restore it"),
        ({"splits": {"train": SPLIT | {"hue": 1}}}, r"unknown fields \['hue'\]"),
        ({"splits": {"train": {}}}, r"missing fields \['class_counts', 'frame_rates', 'num_fra"),
        ({"splits": []}, "can't be read"),
    ],
)
def test_what_can_not_be_read(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    write(tmp_path, VERSION_1 | change)
    with pytest.raises(ValueError, match=complaint):
        schema.DatasetInfo.load(tmp_path)


def test_what_is_no_object(tmp_path: Path) -> None:
    (tmp_path / schema.INFO_FILE).write_text("[1, 2]")
    with pytest.raises(ValueError, match="can't be read"):
        schema.DatasetInfo.load(tmp_path)
