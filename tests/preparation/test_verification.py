"""A check finds records that were damaged on purpose, and finds nothing in good ones.

The records are two classes of three ramp clips of 64x48 pixels and 6 to 11 frames, in two shards.
"""

import dataclasses
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf
from etils import epath

from cvrl_tf.data import schema, shard_index
from cvrl_tf.preparation import annotations, manifest, prepare, shards, subsets, verification
from cvrl_tf.preparation.decoding import FrameOptions

FIRST, SECOND = "train-00000-of-00002", "train-00001-of-00002"


def write_clip(path: Path, length: int, rate: float = 25.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, rate, (64, 48))
    for i in range(length):
        writer.write(np.full((48, 64, 3), 7 * i, np.uint8))
    writer.release()


def write_here(todo: dict[str, list[annotations.Video]], job: shards.Job) -> None:
    for name, videos in todo.items():
        shards._write_shard(name, videos, [], job, lambda outcome: None)


def prepared(
    videos: Path, output: Path, seed: int = 0, quality: int = 95, num_shards: int = 2
) -> Path:
    options = FrameOptions(48, quality)
    prepare.prepare(
        annotations.read(videos), output, "train", options, num_shards, seed, write_here
    )
    return output


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for i in range(6):
        name = f"{['archery', 'bowling'][i % 2]}/{i}.mp4"
        write_clip(folder / name, length=6 + i, rate=[25.0, 29.97, 23.976][i % 3])
    (folder / "bowling" / "text.mp4").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def good(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(videos, tmp_path_factory.mktemp("records"))


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """Records for a test to damage."""
    return shutil.copytree(good, tmp_path / "records")


def problems(folder: Path, sample: int | None = None) -> list[str]:
    (report,) = verification.check(folder, "train", sample)
    return report.problems


def examples_of(shard: Path) -> list[tf.train.SequenceExample]:
    records = tf.data.TFRecordDataset(str(shard))
    return [tf.train.SequenceExample.FromString(record.numpy()) for record in records]


def index(shard: Path) -> None:
    shard_index.scan(shard).save(shard_index.path_of(shard))


def change(shard: Path, number: int, edit: Callable[[tf.train.SequenceExample], object]) -> str:
    """Edit one record of a shard, with correct checksums, and return the id of its video."""
    examples = examples_of(shard)
    edit(examples[number])
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for example in examples:
            writer.write(example.SerializeToString())
    index(shard)
    return examples[number].context.feature[schema.VIDEO_ID].bytes_list.value[0].decode()


def edit_info(folder: Path, edit: Callable[[schema.DatasetInfo], object]) -> None:
    info = schema.DatasetInfo.load(folder)
    edit(info)
    info.save(folder)


@pytest.mark.parametrize("sample", [None, 1, 3, 100])
def test_good_records_pass(good: Path, sample: int | None) -> None:
    (report,) = verification.check(good, sample=sample, num_previews=4)
    assert not report.problems and not report.strays and not report.notes
    assert [record.num_frames for record in report.records] == [
        len(example.feature_lists.feature_list[schema.FRAMES].feature)
        for shard in (FIRST, SECOND)
        for example in examples_of(good / shard)
    ]
    assert sorted(record.num_frames for record in report.records) == [6, 7, 8, 9, 10, 11]
    assert [len(record.preview) for record in report.records if record.preview] == [6] * 4
    assert {(r.label, r.height, r.width) for r in report.records} == {
        ("archery", 48, 64), ("bowling", 48, 64)
    }  # fmt: skip


def test_a_subset_has_no_manifest_and_passes(folder: Path) -> None:
    subsets.write_subset(folder, "train", 0.5, "half")
    train, half = verification.check(folder)
    assert not train.problems and not half.problems
    assert len(half.records) == 3 and "half_manifest.jsonl: there is none" in half.notes[0]
    assert not verification.check(folder, "half")[0].problems


@pytest.mark.parametrize("seed", range(12))
def test_a_flipped_bit_is_found(folder: Path, seed: int) -> None:
    """It may be in a length, a checksum, the context or a frame."""
    rng = random.Random(seed)
    ends = np.cumsum([16 + example.ByteSize() for example in examples_of(folder / FIRST)])
    content = bytearray((folder / FIRST).read_bytes())
    assert ends[-1] == len(content)
    at = 3 * seed if seed < 6 else rng.randrange(len(content))
    content[at] ^= 1 << rng.randrange(8)
    (folder / FIRST).write_bytes(content)
    number = int(np.searchsorted(ends, at, side="right"))

    (report,) = verification.check(folder)
    (problem,) = report.problems
    assert problem.startswith(f"{FIRST}, record {number}: corrupted record at")
    assert len(report.records) == number + 3  # those before it, and the other shard
    assert "totals" in report.notes[0]


@pytest.mark.parametrize(("kept", "number"), [(0.01, 0), (0.5, 1), (0.999, 2)])
def test_a_truncated_shard_is_found(folder: Path, kept: float, number: int) -> None:
    content = (folder / SECOND).read_bytes()
    (folder / SECOND).write_bytes(content[: int(kept * len(content))])
    (problem,) = problems(folder)
    assert problem.startswith(f"{SECOND}, record {number}: truncated record at")


@pytest.mark.parametrize("left", [0, 2])
def test_a_shard_that_ends_between_records_is_found(folder: Path, left: int) -> None:
    """No checksum tells this."""
    content = (folder / SECOND).read_bytes()
    sizes = [16 + example.ByteSize() for example in examples_of(folder / SECOND)]
    (folder / SECOND).write_bytes(content[: sum(sizes[:left])])
    found = problems(folder)
    assert found.pop(1).startswith(f"{SECOND}: its index is of another shard; see tools/index_")
    index(folder / SECOND)
    assert problems(folder) == found
    assert found[0] == f"{SECOND}: {left} records, but dataset_info.json says 3"
    assert f"{SECOND}: {3 - left} videos that train_manifest.jsonl says are in it" in found[1]
    assert any(problem.startswith("dataset_info.json, train, num_frames: 51") for problem in found)


def test_a_missing_shard_is_found_and_the_others_are_read(folder: Path) -> None:
    (folder / FIRST).unlink()
    (report,) = verification.check(folder)
    assert report.problems == [f"{FIRST}: missing, with its 3 records"]
    assert len(report.records) == 3


def test_a_shard_of_another_run_beside_ours_is_found(folder: Path) -> None:
    for name in ("train-00001-of-00003", "train_extra-00001-of-00003", "train_ids.txt"):
        shutil.copy(folder / FIRST, folder / name)
    (report,) = verification.check(folder)
    assert report.strays == ["train-00001-of-00003"]
    (problem,) = report.problems
    assert problem.startswith("train-00001-of-00003: ") and "another run" in problem


def test_a_shard_of_another_run_in_place_of_ours_is_found(
    folder: Path, videos: Path, tmp_path: Path
) -> None:
    """It has another shuffle, another quality, or other videos."""
    shutil.copy(prepared(videos, tmp_path / "shuffled", seed=1) / SECOND, folder / SECOND)
    found = problems(folder)
    assert any(f"train_manifest.jsonl says that it is in {FIRST}" in problem for problem in found)
    assert any(f"{FIRST}, record" in p and "same video id" in p for p in found)
    assert any(problem.startswith(f"{SECOND}: ") and "in no shard" in problem for problem in found)

    shutil.copy(prepared(videos, tmp_path / "rough", quality=50) / SECOND, folder / SECOND)
    index(folder / SECOND)
    found = problems(folder)
    assert len(found) == 3 and all("num_bytes is" in problem for problem in found)

    for i in range(3):
        write_clip(tmp_path / "others" / "archery" / f"other {i}.mp4", length=9)
    write_clip(tmp_path / "others" / "bowling" / "another.mp4", length=9)
    others = prepared(tmp_path / "others", tmp_path / "other records", num_shards=1)
    shutil.copy(others / "train-00000-of-00001", folder / SECOND)
    found = problems(folder)
    assert sum("is none of the videos that" in problem for problem in found) == 4
    assert f"{SECOND}: 4 records, but dataset_info.json says 3" in found


def test_a_doubled_record_is_found(folder: Path) -> None:
    first = examples_of(folder / FIRST)[0]
    name = change(folder / SECOND, 1, lambda example: example.CopyFrom(first))
    found = problems(folder)
    twice = f"{FIRST}, record 0, has the same video id"
    assert f"{SECOND}, record 1, video {name!r}: {twice}" in found


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda jpeg: jpeg[: len(jpeg) // 2], "does not decode as a JPEG"),
        (lambda jpeg: b"", "(0 bytes) does not decode as a JPEG"),
        (lambda jpeg: tf.io.encode_png(tf.io.decode_jpeg(jpeg)).numpy(), "does not decode"),
        (lambda jpeg: tf.io.encode_jpeg(tf.io.decode_jpeg(jpeg)[:, :50]).numpy(),
         "has 48x50 pixels, not 48x64"),
    ],
)  # fmt: skip
def test_a_broken_frame_under_a_right_checksum_is_found(
    folder: Path, damage: Callable[[bytes], bytes], what: str
) -> None:
    def edit(example: tf.train.SequenceExample) -> None:
        values = example.feature_lists.feature_list[schema.FRAMES].feature[4].bytes_list.value
        values[0] = damage(values[0])

    name = change(folder / FIRST, 1, edit)
    found = problems(folder)
    assert found[0].startswith(f"{FIRST}, record 1, video {name!r}: frame 4 ") and what in found[0]
    assert not any("frame 4" in problem for problem in problems(folder, sample=2))


def set_text(key: str, text: bytes) -> Callable[[tf.train.SequenceExample], None]:
    return lambda example: example.context.feature[key].bytes_list.value.__setitem__(0, text)


def set_number(key: str, number: int) -> Callable[[tf.train.SequenceExample], None]:
    return lambda example: example.context.feature[key].int64_list.value.__setitem__(0, number)


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (set_text(schema.LABEL_TEXT, b"chess"), "but the text is 'chess'"),
        (set_number(schema.LABEL_INDEX, 2), "label 2 is none of the 2"),
        (set_number(schema.NUM_FRAMES, 99), "frames, but clip/num_frames is 99"),
        (set_number(schema.HEIGHT, 50), "50x64 pixels, but the short side is 48"),
        (set_text(schema.FILENAME, b"x.mp4"), "'x.mp4' is none of the videos"),
        (lambda example: example.context.feature.pop(schema.WIDTH), "does not parse: "),
        (lambda example: example.context.feature.pop(schema.LABEL_TEXT), "but the text is ''"),
        (set_number(schema.RECORD_VERSION, 3), "record/version is 3, but 1 to 2 are known"),
        (lambda example: example.context.feature.pop(schema.TIMES), "image/timestamp has 0 values"),
        (lambda example: example.context.feature[schema.TIMES].int64_list.value.pop(),
         "frames, but image/timestamp has "),
        (lambda example: example.context.feature[schema.TIMES].int64_list.value.__setitem__(2, 1),
         "image/timestamp decreases from "),
    ],
)  # fmt: skip
def test_a_wrong_field_is_found(
    folder: Path, edit: Callable[[tf.train.SequenceExample], object], what: str
) -> None:
    change(folder / SECOND, 2, edit)
    found = problems(folder)
    assert found[0].startswith(f"{SECOND}, record 2") and what in found[0]


def test_another_label_is_found_by_the_manifest_and_the_totals(folder: Path) -> None:
    """The index and the text agree, so the record by itself is right."""

    def edit(example: tf.train.SequenceExample) -> None:
        other = 1 - example.context.feature[schema.LABEL_INDEX].int64_list.value[0]
        set_number(schema.LABEL_INDEX, other)(example)
        set_text(schema.LABEL_TEXT, [b"archery", b"bowling"][other])(example)

    change(folder / FIRST, 0, edit)
    found = problems(folder)
    assert "but train_manifest.jsonl says" in found[0]
    assert sum("dataset_info.json, train, class_counts: '" in problem for problem in found) == 2
    (folder / "train_manifest.jsonl").unlink()
    assert len(problems(folder)) == 2


@pytest.mark.parametrize("by", [0, 7])
def test_offsets_are_compared_until_one_is_wrong(folder: Path, by: int) -> None:
    path = folder / "train_manifest.jsonl"
    outcomes = manifest.read(epath.Path(path))
    offsets = sorted(o.offset for o in outcomes if o.shard == FIRST and o.offset is not None)
    sizes = [16 + example.ByteSize() for example in examples_of(folder / FIRST)]
    assert offsets == [0, *np.cumsum(sizes)[:-1]]
    moved = [dataclasses.replace(o, offset=o.offset + by) if o.offset else o for o in outcomes]
    manifest.write(epath.Path(path), moved)
    found = problems(folder)
    assert len(found) == (2 if by else 0)
    for shard, problem in zip((FIRST, SECOND), found, strict=False):
        assert problem.startswith(f"{shard}, record 1, ") and ": offset is " in problem


def test_records_of_version_1_pass(folder: Path) -> None:
    """They have neither version nor times, and the manifest has no offsets."""

    def without(example: tf.train.SequenceExample) -> None:
        for key in (schema.RECORD_VERSION, schema.TIMES):
            example.context.feature.pop(key)

    for shard in (FIRST, SECOND):
        for number in range(len(examples_of(folder / shard))):
            change(folder / shard, number, without)
    sizes = {
        example.context.feature[schema.FILENAME].bytes_list.value[0].decode(): example.ByteSize()
        for shard in (FIRST, SECOND)
        for example in examples_of(folder / shard)
    }
    path = folder / "train_manifest.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        del line["offset"]
        line["num_bytes"] = sizes.get(line["name"], 0)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    info = json.loads((folder / schema.INFO_FILE).read_text())
    del info["version"], info["name"]
    (folder / schema.INFO_FILE).write_text(json.dumps(info))
    assert not problems(folder)


def test_totals_are_compared(folder: Path) -> None:
    def edit(info: schema.DatasetInfo) -> None:
        split = info.splits["train"]
        split.num_frames += 1
        split.class_counts["archery"] = 5
        split.frame_rates["29.97"] = 1
        split.frame_rates["50"] = 1

    edit_info(folder, edit)
    assert problems(folder) == [
        "dataset_info.json, train, num_frames: 52, but the records have 51",
        "dataset_info.json, train, class_counts: 'archery': 5, but the records have 3",
        "dataset_info.json, train, frame_rates: '29.97': 1, but the records have 2",
        "dataset_info.json, train, frame_rates: '50': 1, but the records have 0",
    ]


def test_frame_rates_are_compared_as_they_were_rounded() -> None:
    """`dataset_info.json` has six digits of the double; the record has a float32."""
    double = 29.873349999
    assert f"{double:g}" != f"{np.float32(double):g}"
    assert (
        verification._rounded(float(np.float32(double)), {"25": 1, f"{double:g}": 1}) == "29.8733"
    )
    assert verification._rounded(29.88, {"25": 1, "29.8733": 1}) == "29.88"
    assert verification._rounded(29.88, {}) == "29.88"
    assert verification._rounded(0.0, {"0": 1, "25": 1}) == "0"


def test_a_manifest_that_cannot_be_read_is_found(folder: Path) -> None:
    path = folder / "train_manifest.jsonl"
    path.write_text(path.read_text()[:-20])
    (problem,) = problems(folder)
    last = len(path.read_text().splitlines())
    assert problem.startswith(f"train_manifest.jsonl: Line {last} of ")
    assert "can't be read: " in problem and "make the split again" in problem


def test_the_remedy_works(folder: Path, good: Path, videos: Path) -> None:
    """The command prints these steps."""
    (folder / FIRST).unlink()
    shutil.copy(folder / SECOND, folder / "train-00000-of-00003")
    change(folder / SECOND, 0, set_text(schema.LABEL_TEXT, b"chess"))
    prepared(videos, folder)  # does nothing: the split has an entry
    assert problems(folder)
    for path in folder.glob("train-?????-of-?????"):
        path.unlink()
    edit_info(folder, lambda info: info.splits.pop("train"))
    prepared(videos, folder)
    assert not problems(folder)
    ours, expected = (
        {path.relative_to(each): path.read_bytes() for path in each.rglob("*") if path.is_file()}
        for each in (folder, good)
    )
    assert ours == expected


def test_a_missing_or_damaged_index_is_found(folder: Path) -> None:
    path = shard_index.path_of(folder / SECOND)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    (problem,) = problems(folder)
    assert problem == f"{SECOND}: {str(path)!r} is damaged."
    path.unlink()
    (problem,) = problems(folder)
    assert problem == f"{SECOND}: has no index; see tools/index_tfrecords.py"


def test_errors_name_the_remedy(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"No split 'test'; .* has \['train'\]"):
        verification.check(folder, "test")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        verification.check(tmp_path / "nowhere")
    edit_info(folder, lambda info: info.splits.clear())
    with pytest.raises(ValueError, match="names no split: the preparation is not complete"):
        verification.check(folder)
    (folder / schema.INFO_FILE).write_text("{")
    with pytest.raises(ValueError, match=r"dataset_info.json' can't be read: .* Restore it"):
        verification.check(folder)
