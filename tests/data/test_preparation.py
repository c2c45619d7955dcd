"""Preparation of records, on clips made here; frame i of a ramp clip has the grey value 7 * i."""

import os
import struct
import wave
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf

from cvrl_tf.data import annotations, encoding, preparation, records, schema

STEP = 7


def write_clip(
    path: Path, length: int = 12, size: tuple[int, int] = (64, 48), rate: float = 25.0
) -> Path:
    """A ramp clip of (width, height) pixels; the ending chooses the container."""
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, rate, size)
    assert writer.isOpened()
    for i in range(length):
        writer.write(np.full((size[1], size[0], 3), STEP * i, np.uint8))
    writer.release()
    return path


def cut(source: Path, path: Path, share: float) -> Path:
    """The first part of a file."""
    content = source.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def frame_indices(jpegs: list[bytes]) -> np.ndarray:
    """float [L]: which frames of a ramp clip these are."""
    return np.array([tf.io.decode_jpeg(jpeg).numpy().mean() / STEP for jpeg in jpegs])


def read_split(folder: Path, split: str = "train") -> dict[str, tf.train.SequenceExample]:
    """The records of a split by video id."""
    info = schema.DatasetInfo.load(folder)
    serialized = records.in_order(records.shard_paths(folder, info.split(split)))
    examples = [tf.train.SequenceExample.FromString(item.numpy()) for item in serialized]
    assert len(examples) == info.split(split).num_examples
    ids = [example.context.feature[schema.VIDEO_ID].bytes_list.value[0] for example in examples]
    return {key.decode(): example for key, example in zip(ids, examples, strict=True)}


@pytest.mark.parametrize(
    ("size", "short_side", "stored"),
    [((64, 48), 32, (32, 43)), ((48, 64), 32, (43, 32)), ((64, 48), 96, (96, 128))],
)
def test_frames_keep_order_number_and_aspect(
    tmp_path: Path, size: tuple[int, int], short_side: int, stored: tuple[int, int]
) -> None:
    path = write_clip(tmp_path / "clip.mp4", length=30, size=size, rate=29.97)
    encoded = encoding.encode_video(path, short_side, 95)
    assert (encoded.height, encoded.width) == stored
    assert tf.io.decode_jpeg(encoded.jpegs[-1]).shape == (*stored, 3)
    assert len(encoded.jpegs) == 30
    np.testing.assert_allclose(frame_indices(encoded.jpegs), np.arange(30), atol=0.45)
    assert encoded.frame_rate == pytest.approx(29.97, abs=0.005)


def test_a_part_is_cut_out_by_time(tmp_path: Path) -> None:
    """25 frames a second: from 0.2 s to 0.6 s are the frames 5 to 14."""
    clip = write_clip(tmp_path / "clip.mp4", 20)
    whole = encoding.encode_video(clip, 64, 95).jpegs
    assert encoding.encode_video(clip, 64, 95, 0.2, 0.6).jpegs == whole[5:15]
    assert encoding.encode_video(clip, 64, 95, 0.6).jpegs == whole[15:]
    assert encoding.encode_video(clip, 64, 95, None, 0.2).jpegs == whole[:5]
    with pytest.raises(encoding.UnusableVideo, match="no frame from 7 s to 9 s"):
        encoding.encode_video(clip, 64, 95, 7.0, 9.0)
    video = annotations.Video(clip, "clip", None, 0.2, 0.6)
    encoded = encoding.encode_video(clip, 64, 95, video.start, video.end)
    context = encoding.to_example(video, "clip", None, encoded).context.feature
    assert context[schema.START].int64_list.value[0] == 200_000
    assert context[schema.END].int64_list.value[0] == 600_000


def test_rotation_metadata_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48)
    )
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:, :16] = 200  # a bright left edge
    for _ in range(4):
        writer.write(frame)
    writer.release()
    content = bytearray(path.read_bytes())
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    quarter_turn = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    at = content.index(identity, content.index(b"tkhd"))
    content[at : at + len(identity)] = quarter_turn
    path.write_bytes(content)

    encoded = encoding.encode_video(path, 48, 95)
    upright = tf.io.decode_jpeg(encoded.jpegs[0]).numpy()
    assert upright.shape == (64, 48, 3)
    # Clockwise, which takes the left edge to the top.
    np.testing.assert_allclose(upright, np.rot90(frame, -1), atol=40)
    assert upright[:12].mean() > 180 and upright[20:].mean() < 20


class Announcing:
    """A capture of 100 frames, whose container says what a test wants it to say."""

    frame_count, frame_rate = 100.0, 25.0

    def __init__(self, *_: object) -> None:
        self.left = 100

    def isOpened(self) -> bool:
        return True

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        return self.left >= 0, np.zeros((8, 8, 3), np.uint8) if self.left >= 0 else None

    def get(self, key: int) -> float:
        return {
            cv2.CAP_PROP_FRAME_COUNT: self.frame_count,
            cv2.CAP_PROP_FPS: self.frame_rate,
        }[key]


@pytest.mark.parametrize(
    ("announced", "usable"), [(-9e18, True), (0, True), (90, True), (102, True), (105, False)]
)
def test_container_count_may_be_off_by_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, announced: float, usable: bool
) -> None:
    (tmp_path / "clip.mp4").touch()
    monkeypatch.setattr(Announcing, "frame_count", announced)
    monkeypatch.setattr(encoding.cv2, "VideoCapture", Announcing)
    if usable:
        assert len(encoding.encode_video(tmp_path / "clip.mp4", 8, 95).jpegs) == 100
    else:
        with pytest.raises(encoding.UnusableVideo, match="100 of 105 frames"):
            encoding.encode_video(tmp_path / "clip.mp4", 8, 95)


@pytest.mark.parametrize(
    ("rate", "stored"), [(12.5, 12.5), (0, 0), (float("nan"), 0), (90000, 0), (-1, 0)]
)
def test_impossible_frame_rate_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float, stored: float
) -> None:
    (tmp_path / "clip.mp4").touch()
    monkeypatch.setattr(Announcing, "frame_rate", rate)
    monkeypatch.setattr(encoding.cv2, "VideoCapture", Announcing)
    encoded = encoding.encode_video(tmp_path / "clip.mp4", 8, 95)
    assert encoded.frame_rate == stored
    video = annotations.Video(tmp_path / "clip.mp4", "clip.mp4", None)
    context = encoding.to_example(video, "clip", None, encoded).context.feature
    assert context[schema.END].int64_list.value[0] == (8_000_000 if stored else 0)
    assert schema.LABEL_INDEX not in context and schema.LABEL_TEXT not in context


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, schema.SplitInfo]:
    """Records of two classes, whose folder also holds all that can be wrong with a file."""
    folder = tmp_path_factory.mktemp("videos")
    for i in range(3):
        write_clip(folder / "Tai Chi" / f"übung {i}.mp4", length=10 + i)
    whole = write_clip(folder / "archery" / "whole.avi", length=30, rate=12.5)
    write_clip(folder / "archery" / "whole.mp4", length=20)
    cut(folder / "archery" / "whole.mp4", folder / "archery" / "without_index.mp4", 0.5)
    cut(whole, folder / "archery" / "cut.avi", 0.5)
    (folder / "archery" / "text.mp4").write_text("This is no video.\n" * 50)
    (folder / "archery" / "empty.mp4").touch()
    (folder / "archery" / "notes.txt").write_text("not even named like a video")
    with wave.open(str(folder / "archery" / "sound.mp4"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    output = tmp_path_factory.mktemp("out") / "records"
    videos = annotations.read(folder)
    return output, preparation.prepare(videos, output, short_side=32, num_shards=3, workers=2)


def test_unusable_videos_are_named_with_their_reasons(
    prepared: tuple[Path, schema.SplitInfo],
) -> None:
    split = prepared[1]
    assert split.num_examples == 5
    unopened = "not a video, or no video stream in it that can be decoded"
    cut_short = split.skipped.pop("archery/cut.avi")
    assert cut_short.startswith("cut short or damaged: ")
    assert cut_short.endswith(" of 30 frames decode")
    assert split.skipped == {
        f"archery/{name}.mp4": unopened for name in ("without_index", "text", "empty", "sound")
    }


def test_dataset_info_counts_what_was_written(prepared: tuple[Path, schema.SplitInfo]) -> None:
    output = prepared[0]
    info = schema.DatasetInfo.load(output)
    assert (info.labels, info.short_side) == (["Tai Chi", "archery"], 32)
    split = info.split("train")
    assert split.num_frames == 10 + 11 + 12 + 30 + 20
    assert split.class_counts == {"Tai Chi": 3, "archery": 2}
    assert split.frame_rates == {"12.5": 1, "25": 4}
    assert len(split.skipped) == 5
    assert sorted(path.name for path in output.iterdir()) == sorted(
        [schema.INFO_FILE, *split.shards]
    )


def test_context_of_a_record(prepared: tuple[Path, schema.SplitInfo]) -> None:
    context = read_split(prepared[0])["Tai Chi/übung 2"].context.feature
    ints = {
        schema.LABEL_INDEX: 0,
        schema.START: 0,
        schema.END: 480_000,
        schema.NUM_FRAMES: 12,
        schema.HEIGHT: 32,
        schema.WIDTH: 43,
    }
    assert {key: context[key].int64_list.value[0] for key in ints} == ints
    assert context[schema.LABEL_TEXT].bytes_list.value[0].decode() == "Tai Chi"
    assert context[schema.FILENAME].bytes_list.value[0].decode() == "Tai Chi/übung 2.mp4"
    assert context[schema.FRAME_RATE].float_list.value[0] == 25


def test_same_stem_keeps_its_ending(prepared: tuple[Path, schema.SplitInfo]) -> None:
    assert {"archery/whole.avi", "archery/whole.mp4"} < read_split(prepared[0]).keys()


def test_model_garden_reads_the_records(prepared: tuple[Path, schema.SplitInfo]) -> None:
    from official.vision.dataloaders import video_input

    decoder = video_input.Decoder()
    lengths = {}
    for example in read_split(prepared[0]).values():
        decoded = decoder.decode(tf.constant(example.SerializeToString()))
        jpegs = list(decoded[video_input.IMAGE_KEY].numpy())
        np.testing.assert_allclose(frame_indices(jpegs), np.arange(len(jpegs)), atol=0.45)
        lengths[len(jpegs)] = int(decoded[video_input.LABEL_KEY].numpy()[0])
    assert lengths == {10: 0, 11: 0, 12: 0, 30: 1, 20: 1}


class CrewOfOne:
    """Writes the shards in this process: what is no matter of processes is tested in less time."""

    def __init__(self, shards: dict[str, list[annotations.Video]], task: preparation._Task) -> None:
        self.shards, self.task = shards, task

    def run(self, workers: int) -> dict[str, list[preparation._Outcome]]:
        outcomes: dict[str, list[preparation._Outcome]] = {name: [] for name in self.shards}
        for name, videos in self.shards.items():
            preparation._write_shard(name, videos, self.task, outcomes[name].append)
        return outcomes


def test_bytes_depend_on_the_seed_and_not_on_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(6):
        write_clip(tmp_path / "videos" / f"{i}.mp4", length=5 + i)
    videos = annotations.read(tmp_path / "videos")

    def contents(name: str, workers: int, seed: int = 0) -> dict[str, bytes]:
        preparation.prepare(
            videos, tmp_path / name, num_shards=3, workers=workers, seed=seed, short_side=48
        )
        return {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

    two = contents("two", workers=2)
    monkeypatch.setattr(preparation, "_Crew", CrewOfOne)
    assert contents("one", workers=1) == two
    assert contents("seed", workers=1, seed=1) != two
    assert len(two) == 4
    assert read_split(tmp_path / "one").keys() == read_split(tmp_path / "seed").keys()


def _work_and_die_of_killer(connection: Connection, task: object) -> None:
    """A worker whose decoder takes the process down with one of the videos."""
    encode = encoding.encode_video

    def fatal(path: str | Path, short_side: int, jpeg_quality: int) -> encoding.EncodedVideo:
        if Path(path).stem == "killer":
            os._exit(9)
        return encode(path, short_side, jpeg_quality)

    preparation.encode_video = fatal
    real_work(connection, task)  # type: ignore[arg-type]


real_work = preparation._work


def test_video_that_kills_the_worker_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a", "b", "killer", "z"]  # with this seed it is the third
    for name in names:
        write_clip(tmp_path / "videos" / f"{name}.mp4")
    monkeypatch.setattr(preparation, "_work", _work_and_die_of_killer)
    videos = annotations.read(tmp_path / "videos")
    split = preparation.prepare(videos, tmp_path / "out", num_shards=1, short_side=48, seed=1)
    reason = "the process that read it for train-00000-of-00001 died, exit code 9"
    assert split.skipped == {"killer.mp4": reason}
    assert read_split(tmp_path / "out").keys() == {"a", "b", "z"}


def test_second_split_shares_the_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "_Crew", CrewOfOne)
    output = tmp_path / "records"
    known = schema.DatasetInfo(["archery", "bowling", "cricket"], 48, {})
    output.mkdir()
    known.save(output)
    write_clip(tmp_path / "test" / "cricket" / "a.mp4")
    videos = annotations.read(tmp_path / "test")
    with pytest.raises(ValueError, match="short_side is 64 .* have 48"):
        preparation.prepare(videos, output, "test", short_side=64)
    split = preparation.prepare(videos, output, "test", short_side=48)
    assert split.shards == {"test-00000-of-00001": 1}
    context = read_split(output, "test")["cricket/a"].context.feature
    assert context[schema.LABEL_INDEX].int64_list.value[0] == 2
    assert schema.DatasetInfo.load(output).labels == known.labels

    with pytest.raises(FileExistsError, match="test-00000-of-00001.*delete them, or choose"):
        preparation.prepare(videos, output, "test", short_side=48)
    write_clip(tmp_path / "test" / "diving" / "a.mp4")
    with pytest.raises(ValueError, match=r"\['diving'\] .*\['archery', 'bowling', 'cricket'\]"):
        preparation.prepare(annotations.read(tmp_path / "test"), output, short_side=48)


def test_nothing_usable_is_an_error_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "_Crew", CrewOfOne)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match="None of 1 videos.*text.mp4: not a video"):
        preparation.prepare(annotations.read(tmp_path), tmp_path / "out")
    assert os.listdir(tmp_path / "out") == [schema.INFO_FILE]
    assert schema.DatasetInfo.load(tmp_path / "out").splits == {}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"num_shards": 2}, "2 shards for 1 videos"),
        ({"split": "a/b"}, "'a/b' must be a word"),
        ({"output": "clip.mp4"}, "clip.mp4"),
        ({"output": "/proc/records"}, "/proc/records"),
    ],
)
def test_impossible_arguments(tmp_path: Path, change: dict[str, object], complaint: str) -> None:
    write_clip(tmp_path / "clip.mp4")
    arguments: dict[str, object] = {"output": "out"} | change
    arguments["output"] = tmp_path / str(arguments["output"])
    with pytest.raises((ValueError, OSError), match=complaint):
        preparation.prepare(annotations.read(tmp_path), **arguments)  # type: ignore[arg-type]
