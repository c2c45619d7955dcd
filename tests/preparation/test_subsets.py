"""Label fractions: whom they take, and that their records are copies."""

import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, noise_video, write_records

from cvrl_tf.data import records, schema
from cvrl_tf.preparation import subsets


def labels_of(sizes: list[int]) -> dict[str, int]:
    return {
        f"class_{label}/video_{number}": label
        for label, size in enumerate(sizes)
        for number in range(size)
    }


@pytest.mark.parametrize(
    ("fraction", "wanted"),
    [
        (0.01, [1, 1, 1, 1, 5]),  # 7 of 709 would do without one of the first two classes
        (0.1, [1, 1, 10, 10, 50]),  # 71, which leaves none for the remainder of 10.1
        (0.25, [1, 1, 25, 25, 125]),  # 177
        (0.6, [1, 4, 60, 60, 300]),  # 425; 0.6 and 4.2 and 60.6
        (0.7, [1, 5, 70, 70, 350]),  # 496; 0.7, 4.9 and 70.7
        (1.0, [1, 7, 100, 101, 500]),
    ],
)
def test_each_class_has_its_share(fraction: float, wanted: list[int]) -> None:
    labels = labels_of([1, 7, 100, 101, 500])
    counts = Counter(labels[video_id] for video_id in subsets.choose(labels, fraction))
    assert [counts[label] for label in range(5)] == wanted


@pytest.mark.parametrize("percent", [1, 10, 12.5, 33.3])
def test_the_subset_has_the_exact_size(percent: float) -> None:
    """Sizes as those of the classes of Kinetics-400; rounding up would give 8 % more of 1 %."""
    sizes = np.random.default_rng(0).integers(250, 1000, 400)
    labels = labels_of(sizes.tolist())
    chosen = subsets.choose(labels, percent / 100)
    assert len(chosen) == round(percent * len(labels) / 100)
    counts = Counter(labels[video_id] for video_id in chosen)
    exact = sizes * percent / 100
    assert all(abs(counts[label] - each) < 1 for label, each in enumerate(exact))
    # Classes with one more have the larger remainders.
    more = np.array([counts[label] > each for label, each in enumerate(exact)])
    remainder = (exact - np.floor(exact + 1e-9)).round(6)
    assert remainder[more].min() >= remainder[~more].max()


def test_a_whole_share_is_not_rounded_up() -> None:
    """0.07 * 100 is 7.000000000000001 in binary."""
    labels = labels_of([100])
    counts = [len(subsets.choose(labels, percent / 100)) for percent in range(1, 101)]
    assert counts == list(range(1, 101))


def test_fractions_are_nested() -> None:
    labels = labels_of([3, 40, 250])
    chosen = [subsets.choose(labels, fraction) for fraction in (0.01, 0.05, 0.1, 0.5, 1.0)]
    for small, large in itertools.pairwise(chosen):
        assert small < large


def test_the_order_of_the_videos_does_not_matter() -> None:
    labels = labels_of([30, 40])
    backwards = dict(reversed(labels.items()))
    assert subsets.choose(backwards, 0.1) == subsets.choose(labels, 0.1)


def test_a_seed_is_a_subset() -> None:
    labels = labels_of([200, 300])
    chosen = [subsets.choose(labels, 0.1, seed) for seed in range(3)]
    assert chosen[0] == subsets.choose(labels, 0.1)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        # Independent draws share a tenth of their 50, give or take.
        assert len(chosen[one] & chosen[other]) < 15


def test_every_video_is_as_likely() -> None:
    labels = labels_of([20])
    counts = Counter(v for seed in range(1000) for v in subsets.choose(labels, 0.25, seed))
    # 250 each, with a deviation of 14.
    assert len(counts) == 20 and all(190 < count < 310 for count in counts.values())


def test_pinned() -> None:
    """Published lists stay what they are, on any machine and in any version."""
    labels = {f"video_{number:02d}": number % 2 for number in range(40)}
    assert subsets.choose(labels, 0.1) == {"video_00", "video_10", "video_21", "video_31"}
    assert subsets.choose(labels, 0.05, seed=1) == {"video_26", "video_27"}


def serialized(folder: Path, split: str) -> dict[str, bytes]:
    info = schema.DatasetInfo.load(folder)
    found = {}
    for record in records.in_order(records.shard_paths(folder, info.split(split))):
        found[records.parse(record)["video_id"].numpy().decode()] = record.numpy()
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """12 videos of 2 classes and 3 to 6 frames."""
    return write_records(tmp_path, [noise_video(3 + i % 4, 16, 16, i) for i in range(12)])


def test_write_subset(folder: Path) -> None:
    everything = serialized(folder, "train")
    before = schema.DatasetInfo.load(folder)
    written = subsets.write_subset(folder, "train", 0.3, "some", seed=5)

    labels = {f"video_{number}": number % 2 for number in range(12)}
    chosen = subsets.choose(labels, 0.3, seed=5)
    assert len(chosen) == 4
    copies = serialized(folder, "some")
    assert copies == {video_id: everything[video_id] for video_id in chosen}

    info = schema.DatasetInfo.load(folder)
    assert info.splits.pop("some") == written
    assert info == before
    assert written.num_examples == 4 and written.class_counts == {"even": 2, "odd": 2}
    lengths = [3 + int(video_id.removeprefix("video_")) % 4 for video_id in chosen]
    assert written.num_frames == sum(lengths)
    assert sum(written.frame_rates.values()) == 4
    for name, count in written.shards.items():
        assert sum(1 for _ in tf.data.TFRecordDataset(str(folder / name))) == count > 0
    assert (folder / "some_ids.txt").read_text().splitlines() == sorted(chosen)
    assert not list(folder.glob(".*"))


def test_shards_follow_the_fraction(folder: Path) -> None:
    assert len(subsets.write_subset(folder, "train", 0.1, "tenth").shards) == 1
    whole = subsets.write_subset(folder, "train", 1.0, "whole")
    assert list(whole.shards) == ["whole-00000-of-00002", "whole-00001-of-00002"]
    assert list(whole.shards.values()) == [6, 6]
    assert serialized(folder, "whole") == serialized(folder, "train")


@pytest.mark.parametrize(
    ("split", "fraction", "name", "message"),
    [
        ("train", 0.0, "some", "fraction=0.0 is not in"),
        ("train", 1.5, "some", "fraction=1.5 is not in"),
        ("train", -0.1, "some", "fraction=-0.1 is not in"),
        ("train", 0.1, "train", "There is a split 'train' already"),
        ("validation", 0.1, "some", "No split 'validation'"),
    ],
)
def test_refusals(folder: Path, split: str, fraction: float, name: str, message: str) -> None:
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(ValueError, match=message):
        subsets.write_subset(folder, split, fraction, name)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_unlabeled_data_are_refused(folder: Path) -> None:
    info = schema.DatasetInfo.load(folder)
    schema.DatasetInfo([], info.short_side, info.splits).save(folder)
    with pytest.raises(ValueError, match="unlabeled"):
        subsets.write_subset(folder, "train", 0.1, "some")


def test_a_video_without_a_class_is_refused(folder: Path) -> None:
    info = schema.DatasetInfo.load(folder)
    info.splits["train"].class_counts["even"] -= 2
    info.save(folder)
    with pytest.raises(ValueError, match="2 of 12 videos of split 'train' are unlabeled; .*=skip"):
        subsets.write_subset(folder, "train", 0.1, "some")


def test_videos_of_one_id_are_refused(folder: Path) -> None:
    info = schema.DatasetInfo.load(folder)
    first, second = (folder / name for name in info.split("train").shards)
    second.write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match="12 records have only 6 different ids"):
        subsets.write_subset(folder, "train", 0.1, "some")


def test_no_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make_tfrecords"):
        subsets.write_subset(tmp_path, "train", 0.1, "some")


@pytest.mark.slow
def test_command(folder: Path, child_environment: dict[str, str]) -> None:
    command = [sys.executable, str(ROOT / "tools/make_subset.py"), f"--data_dir={folder}"]
    done = subprocess.run(
        [*command, "--percent=10", "--seed=3"],
        env=child_environment,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Wrote split 'train_10pct': 2 videos, 2 classes." in done.stdout
    assert "10 % of 12 are 1, but each class has at least one." in done.stdout
    labels = {f"video_{number}": number % 2 for number in range(12)}
    assert serialized(folder, "train_10pct").keys() == subsets.choose(labels, 0.1, seed=3)
    info = json.loads((folder / schema.INFO_FILE).read_text())
    assert info["splits"]["train_10pct"]["class_counts"] == {"even": 1, "odd": 1}

    again = subprocess.run(
        [*command, "--percent=10"], env=child_environment, text=True, capture_output=True
    )
    assert again.returncode == 1
    assert "There is a split 'train_10pct' already" in again.stderr
    assert "Traceback" not in again.stderr
