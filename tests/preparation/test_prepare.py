"""Preparation of records, on clips made here; frame i of a ramp clip has the gray value 7 * i."""

import functools
import json
import struct
import wave
from pathlib import Path
from typing import Any

import broken_decoder
import cv2
import numpy as np
import pytest
import tensorflow as tf
from conftest import jpegs_of
from etils import epath

from cvrl_tf import files
from cvrl_tf.data import records, schema, shard_index
from cvrl_tf.preparation import (
    annotations,
    decoding,
    manifest,
    pictures,
    prepare,
    shards,
    tfrecord_writer,
)
from cvrl_tf.preparation.decoding import FrameOptions
from cvrl_tf.preparation.workers import WorkerPool

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


def encode(path: Path, options: FrameOptions, *times: float | None) -> list[bytes]:
    """The JPEGs of a video."""
    return jpegs_of(decoding.encode_video(path, options, *times))


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
    encoded = decoding.encode_video(path, FrameOptions(short_side))
    assert (encoded.height, encoded.width) == stored
    jpegs = jpegs_of(encoded)
    assert tf.io.decode_jpeg(jpegs[-1]).shape == (*stored, 3)
    assert len(jpegs) == encoded.jpegs.num_frames == 30
    np.testing.assert_allclose(frame_indices(jpegs), np.arange(30), atol=0.45)
    assert encoded.frame_rate == pytest.approx(29.97, abs=0.005)


@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080), (560, 320), (340, 256), (160, 120)])
def test_resizing_is_close_to_averaging(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (size[1] // 24, size[0] // 24, 3), np.uint8)
    frame = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    small = (round(size[0] * 256 / size[1]), 256)
    resized = pictures.resize(frame, small)
    assert resized.shape == (256, small[0], 3)
    method = cv2.INTER_AREA if size[1] > 256 else cv2.INTER_LINEAR
    averaged = cv2.resize(frame, small, interpolation=method)
    assert np.abs(resized.astype(int) - averaged).mean() < 1


def test_a_part_is_cut_out_by_time(tmp_path: Path) -> None:
    """25 frames a second: from 0.2 s to 0.6 s are the frames 5 to 14."""
    clip = write_clip(tmp_path / "clip.mp4", 20)
    whole = encode(clip, FrameOptions(64))
    assert encode(clip, FrameOptions(64), 0.2, 0.6) == whole[5:15]
    assert encode(clip, FrameOptions(64), 0.6) == whole[15:]
    assert encode(clip, FrameOptions(64), None, 0.2) == whole[:5]
    with pytest.raises(decoding.UnusableVideo, match="no frame from 7 s on"):
        decoding.encode_video(clip, FrameOptions(64), 7.0, 9.0)
    video = annotations.Video(epath.Path(clip), "clip", None, 0.2, 0.6, id="clip")
    encoded = decoding.encode_video(clip, FrameOptions(64), video.start, video.end)
    context = shards._context(video, [], encoded)
    assert (context[schema.START], context[schema.END]) == (200_000, 600_000)


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

    encoded = decoding.encode_video(path, FrameOptions(48))
    upright = tf.io.decode_jpeg(jpegs_of(encoded)[0]).numpy()
    assert upright.shape == (64, 48, 3)
    # Clockwise, which takes the left edge to the top.
    np.testing.assert_allclose(upright, np.rot90(frame, -1), atol=40)
    assert upright[:12].mean() > 180 and upright[20:].mean() < 20


def test_an_unknown_frame_rate_leaves_the_end_open() -> None:
    encoded = decoding.EncodedVideo(tfrecord_writer.Jpegs(), [], 0.0, 8, 8, "", False)
    video = annotations.Video(epath.Path("clip.mp4"), "clip.mp4", None)
    context = shards._context(video, [], encoded)
    assert context[schema.END] == 0 and schema.TIMES not in context
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
    return output, prepare.prepare(
        videos,
        output,
        "train",
        FrameOptions(32),
        num_shards=3,
        write=functools.partial(shards.write_shards, workers=2),
    )


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
    assert info.name == "records"
    split = info.split("train")
    assert split.num_frames == 10 + 11 + 12 + 30 + 20
    assert split.class_counts == {"Tai Chi": 3, "archery": 2}
    assert split.frame_rates == {"12.5": 1, "25": 4}
    assert len(split.skipped) == 5
    beside = ["train_manifest.jsonl", "train_options.json", schema.INFO_FILE]
    assert sorted(path.name for path in output.iterdir()) == sorted(
        [*beside, "index", *split.shards]
    )
    assert {path.name for path in (output / "index").iterdir()} == set(split.shards)


def test_manifest_has_every_input_once(prepared: tuple[Path, schema.SplitInfo]) -> None:
    output, split = prepared
    outcomes = {o.name: o for o in manifest.read(output / "train_manifest.jsonl")}
    assert len(outcomes) == 11
    notes = outcomes.pop("archery/notes.txt")
    assert (notes.shard, notes.reason) == ("", "ignored: '.txt' is no video's ending")
    info = schema.DatasetInfo.load(output).split("train")
    assert {o.name: o.reason for o in outcomes.values() if o.reason} == info.skipped
    for video_id, example in read_split(output).items():
        name = example.context.feature[schema.FILENAME].bytes_list.value[0].decode()
        outcome = outcomes[name]
        assert outcome.num_frames == len(example.feature_lists.feature_list[schema.FRAMES].feature)
        assert outcome.num_bytes == len(example.SerializeToString()), video_id
        assert (outcome.height, outcome.width) == (32, 43) and outcome.shard in split.shards
        shard = (output / outcome.shard).read_bytes()
        assert outcome.offset is not None
        (length,) = struct.unpack_from("<Q", shard, outcome.offset)
        record = shard[outcome.offset + 12 :][:length]
        assert length == outcome.num_bytes
        assert tf.train.SequenceExample.FromString(record) == example
    assert all(o.offset is None for o in outcomes.values() if o.reason)


def test_a_manifest_says_what_it_does_not_know(tmp_path: Path) -> None:
    path = epath.Path(tmp_path / "train_manifest.jsonl")
    path.write_text('{"name": "a.mp4", "label": null, "shard": "s", "num_bytes": 7}\n')
    assert manifest.read(path) == [manifest.Outcome("a.mp4", None, "s", num_bytes=7)]
    path.write_text('{"name": "a.mp4", "label": null, "shard": "s", "color": "red"}\n')
    with pytest.raises(ValueError, match=r"Line 1 of .*unknown fields \['color'\].*update cvrl_tf"):
        manifest.read(path)
    path.write_text('{"name": "a.mp4"}\n')
    with pytest.raises(ValueError, match=r"missing fields \['label', 'shard'\]"):
        manifest.read(path)


@pytest.mark.parametrize(
    ("fps", "expected"), [(12.5, range(0, 20, 2)), (50, [i // 2 for i in range(40)])]
)
def test_frame_rate_is_changed_by_time(tmp_path: Path, fps: float, expected: list[int]) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 20)
    whole = encode(clip, FrameOptions(48))
    encoded = decoding.encode_video(clip, FrameOptions(48, fps=fps))
    assert encoded.frame_rate == fps
    assert jpegs_of(encoded) == [whole[i] for i in expected]


def test_length_is_limited(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 20)
    assert len(encode(clip, FrameOptions(48, max_seconds=0.4))) == 10
    assert len(encode(clip, FrameOptions(48, max_seconds=9.0))) == 20


def test_context_of_a_record(prepared: tuple[Path, schema.SplitInfo]) -> None:
    context = read_split(prepared[0])["Tai Chi/übung 2"].context.feature
    ints = {
        schema.RECORD_VERSION: 2,
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


def test_dmvr_reads_the_records(prepared: tuple[Path, schema.SplitInfo]) -> None:
    """With the keys and the types of its `modalities.add_image` and `add_label`."""
    for video_id, example in read_split(prepared[0]).items():
        context, sequence = tf.io.parse_single_sequence_example(
            example.SerializeToString(),
            context_features={
                "clip/label/index": tf.io.VarLenFeature(tf.int64),
                "clip/label/text": tf.io.VarLenFeature(tf.string),
                "video/filename": tf.io.FixedLenFeature((), tf.string),
                "clip/start/timestamp": tf.io.FixedLenFeature((), tf.int64),
                "clip/end/timestamp": tf.io.FixedLenFeature((), tf.int64),
            },
            sequence_features={"image/encoded": tf.io.FixedLenSequenceFeature((), tf.string)},
        )
        label = ["Tai Chi", "archery"][int(context["clip/label/index"].values[0])]
        assert context["clip/label/text"].values.numpy().tolist() == [label.encode()]
        assert context["video/filename"].numpy().decode().startswith(video_id)
        jpegs = list(sequence["image/encoded"].numpy())
        np.testing.assert_allclose(frame_indices(jpegs), np.arange(len(jpegs)), atol=0.45)
        seconds = len(jpegs) / example.context.feature[schema.FRAME_RATE].float_list.value[0]
        times = context["clip/start/timestamp"].numpy(), context["clip/end/timestamp"].numpy()
        assert times == (0, round(1e6 * seconds))


def write_here(todo: dict[str, list[annotations.Video]], job: shards.Job) -> None:
    """Writes the shards in this process: what is no matter of processes is tested in less time."""
    for name, videos in todo.items():
        shards._write_shard(name, videos, [], job, lambda outcome: None)


def files_in(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_bytes_depend_on_the_seed_and_not_on_who_writes(tmp_path: Path) -> None:
    from cvrl_tf.preparation import beam

    for i in range(6):
        write_clip(tmp_path / "videos" / f"{i}.mp4", length=5 + i)
    write_clip(tmp_path / "whole.avi", length=30)
    cut(tmp_path / "whole.avi", tmp_path / "videos" / "cut.avi", 0.5)
    videos = annotations.read(tmp_path / "videos")

    def contents(name: str, **arguments: Any) -> dict[str, bytes]:
        arguments |= {"frames": FrameOptions(48), "num_shards": 3, "name": "mine"}
        prepare.prepare(videos, tmp_path / name, **arguments)
        return files_in(tmp_path / name)

    one = contents("one", write=write_here)
    assert contents("two", write=functools.partial(shards.write_shards, workers=2)) == one
    with_beam = functools.partial(beam.write_shards, runner="DirectRunner")
    assert contents("beam", write=with_beam) == one
    for task in (2, 0):
        assert "dataset_info.json" in contents("tasks", write=write_here, part=(task, 3))
        assert schema.DatasetInfo.load(tmp_path / "tasks").splits == {}
    assert contents("tasks", write=write_here, part=(1, 3)) == one
    assert contents("seed", write=write_here, seed=1) != one
    assert len(one) == 3 + 3 + 3  # shards and their indexes; info, manifest and options
    for name in schema.DatasetInfo.load(tmp_path / "one").split("train").shards:
        index = shard_index.ShardIndex.load(tmp_path / "one" / "index" / name)
        assert index == shard_index.scan(tmp_path / "one" / name)
    assert read_split(tmp_path / "one").keys() == read_split(tmp_path / "seed").keys()


@pytest.mark.slow
def test_videos_that_kill_or_hang_the_worker_cost_only_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ["a", "b", "killer", "endless", "hungry", "victim", "z"]:
        write_clip(tmp_path / "videos" / f"{name}.mp4")
    monkeypatch.setattr(shards, "_write_shard", broken_decoder.write_shard)
    videos = annotations.read(tmp_path / "videos")
    split = prepare.prepare(
        videos,
        tmp_path / "out",
        frames=FrameOptions(48),
        num_shards=1,
        seed=1,
        write=functools.partial(shards.write_shards, timeout=4),
    )
    assert split.skipped == {
        "killer.mp4": "the process that read it died, exit code 9",
        "endless.mp4": "not decoded within 4 s",
        "hungry.mp4": "needs more than 1 GiB of memory",
    }
    assert read_split(tmp_path / "out").keys() == {"a", "b", "victim", "z"}
    assert int((tmp_path / "videos" / "hungry.peak").read_text()) * 1024 < 2**30
    outcomes = manifest.read(tmp_path / "out" / "train_manifest.jsonl")
    assert {o.name: o.reason for o in outcomes if o.reason} == split.skipped
    assert len(outcomes) == 7


def test_a_worker_killed_between_videos_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ["a", "b"]:
        write_clip(tmp_path / "videos" / f"{name}.mp4")
    monkeypatch.setattr(shards, "_write_shard", broken_decoder.write_shard_killed_late)
    videos = annotations.read(tmp_path / "videos")
    split = prepare.prepare(videos, tmp_path / "out", frames=FrameOptions(48), num_shards=1)
    assert (split.num_examples, split.skipped) == (2, {})
    assert (tmp_path / "out" / "killed").exists()


def test_a_video_that_the_disk_does_not_give_is_not_skipped(tmp_path: Path) -> None:
    """The kernel answers EIO to whoever reads the beginning of /proc/self/mem."""
    write_clip(tmp_path / "videos" / "a.mp4")
    failing = tmp_path / "videos" / "failing.mp4"
    failing.symlink_to("/proc/self/mem")

    def prepare_it() -> schema.SplitInfo:
        videos = annotations.read(tmp_path / "videos")
        return prepare.prepare(videos, tmp_path / "out", frames=FrameOptions(48), num_shards=2)

    for _ in range(2):
        with pytest.raises(RuntimeError, match="1 videos can't be read.*failing.mp4: OSError.*rer"):
            prepare_it()
        assert len(list((tmp_path / "out").glob("train-*"))) == 1
    failing.unlink()
    write_clip(failing)
    assert (prepare_it().num_examples, prepare_it().skipped) == (2, {})


def test_a_process_without_descriptors_skips_nothing(tmp_path: Path) -> None:
    video = annotations.Video(epath.Path(write_clip(tmp_path / "a.mp4")), "a.mp4", None, id="a")
    job = shards.Job(epath.Path(tmp_path), [], FrameOptions(48))
    with WorkerPool(1, broken_decoder.open_no_more_files) as pool:
        written = pool.submit(shards._write_video, video, "shard", job, None)
        with pytest.raises(shards.UnreadableVideo, match="Too many open files"):
            written.result()


def test_second_split_shares_the_labels(tmp_path: Path) -> None:
    prepare_here = functools.partial(prepare.prepare, write=write_here)
    output = tmp_path / "records"
    known = schema.DatasetInfo(["archery", "bowling", "cricket"], 48, {})
    output.mkdir()
    known.save(output)
    write_clip(tmp_path / "test" / "cricket" / "a.mp4")
    videos = annotations.read(tmp_path / "test")
    with pytest.raises(ValueError, match="short_side is 64 .* have 48"):
        prepare_here(videos, output, "test", FrameOptions(64))
    split = prepare_here(videos, output, "test", FrameOptions(48))
    assert split.shards == {"test-00000-of-00001": 1}
    context = read_split(output, "test")["cricket/a"].context.feature
    assert context[schema.LABEL_INDEX].int64_list.value[0] == 2
    assert schema.DatasetInfo.load(output).labels == known.labels

    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    assert prepare_here(videos, output, "test", FrameOptions(48)) == split  # done already
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before
    with pytest.raises(ValueError, match="other options: jpeg_quality was 95, is 50"):
        prepare_here(videos, output, "test", FrameOptions(48, jpeg_quality=50))
    write_clip(tmp_path / "test" / "diving" / "a.mp4")
    with pytest.raises(ValueError, match=r"\['diving'\] .*\['archery', 'bowling', 'cricket'\]"):
        prepare_here(annotations.read(tmp_path / "test"), output, frames=FrameOptions(48))


def test_a_folder_is_compared_again_before_a_split_is_entered(tmp_path: Path) -> None:
    """A disk without locks: another command has begun the folder at the same moment."""
    output = tmp_path / "records"
    for name in ("archery", "bowling"):
        write_clip(tmp_path / "videos" / name / "a.mp4")

    def write(todo: dict[str, list[annotations.Video]], job: shards.Job) -> None:
        write_here(todo, job)
        schema.DatasetInfo(["archery", "biking", "bowling"], 48, {}, "records").save(output)

    videos = annotations.read(tmp_path / "videos")
    with pytest.raises(ValueError, match=r"were \['archery', 'bowling'\] at the beginning and are"):
        prepare.prepare(videos, output, frames=FrameOptions(48), write=write)
    assert not schema.DatasetInfo.load(output).splits


def test_what_another_process_writes_is_left_alone(tmp_path: Path) -> None:
    write_clip(tmp_path / "videos" / "a.mp4")
    output = epath.Path(tmp_path / "records")
    shard = "train-00000-of-00001"
    output.mkdir()
    left = files.aside_of(output / shard)  # of a process that was killed
    left.touch()
    videos = annotations.read(tmp_path / "videos")
    with files.aside(output / shard) as place:
        prepare.prepare(videos, output, frames=FrameOptions(48), write=write_here)
        assert place.exists() and not left.exists()


def test_the_same_work_at_a_time_is_refused(tmp_path: Path) -> None:
    write_clip(tmp_path / "videos" / "a.mp4")
    videos = annotations.read(tmp_path / "videos")
    prepare_here = functools.partial(
        prepare.prepare, videos, tmp_path / "out", frames=FrameOptions(48)
    )

    def write(todo: dict[str, list[annotations.Video]], job: shards.Job) -> None:
        with pytest.raises(files.InUse, match=r"in use by process \d+ on .*does the same work"):
            prepare_here(write=write_here)
        write_here(todo, job)

    assert prepare_here(write=write).num_examples == 1
    assert not list((tmp_path / "out").glob(".*"))


def test_splits_share_the_name_of_the_data_set(tmp_path: Path) -> None:
    prepare_here = functools.partial(
        prepare.prepare, frames=FrameOptions(48), write=write_here, num_shards=1
    )
    write_clip(tmp_path / "videos" / "a.mp4")
    videos = annotations.read(tmp_path / "videos")

    prepare_here(videos, tmp_path / "mine" / ".")
    assert schema.DatasetInfo.load(tmp_path / "mine").name == "mine"
    prepare_here(videos, tmp_path / "mine", "test", name="mine")
    prepare_here(videos, tmp_path / "on a disk", name="k400")
    assert schema.DatasetInfo.load(tmp_path / "on a disk").name == "k400"
    prepare_here(videos, tmp_path / "on a disk", "test")
    with pytest.raises(ValueError, match="name is 'k600', but .* has 'k400': leave the name out"):
        prepare_here(videos, tmp_path / "on a disk", "validation", name="k600")
    info = schema.DatasetInfo.load(tmp_path / "on a disk")
    assert (info.name, set(info.splits)) == ("k400", {"train", "test"})


def test_a_split_is_of_one_version(tmp_path: Path) -> None:
    """What an older version has begun is not continued; what it has finished stays."""
    write_clip(tmp_path / "a.mp4")
    videos = annotations.read(tmp_path)
    output = tmp_path / "out"
    split = prepare.prepare(videos, output, frames=FrameOptions(48), write=write_here)
    options = output / "train_options.json"
    fields = json.loads(options.read_text())
    assert fields.pop("version") == 2
    options.write_text(json.dumps(fields))
    assert prepare.prepare(videos, output, frames=FrameOptions(48), write=write_here) == split
    info = schema.DatasetInfo.load(output)
    info.splits.clear()
    info.save(output)
    with pytest.raises(ValueError, match="other options: version was 1, is 2"):
        prepare.prepare(videos, output, frames=FrameOptions(48), write=write_here)


def test_nothing_usable_is_an_error_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match="None of 1 videos.*text.mp4: not a video"):
        prepare.prepare(annotations.read(tmp_path), tmp_path / "out", write=write_here)
    assert not list((tmp_path / "out").glob("train-*"))
    assert schema.DatasetInfo.load(tmp_path / "out").splits == {}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"num_shards": 2}, "2 shards for 1 videos"),
        ({"split": "a/b"}, "'a/b' must be a word"),
        ({"part": (1, 1)}, "Task 1 of 1 for 1 shards"),
        ({"part": (0, 2)}, "Task 0 of 2 for 1 shards"),
        ({"output": "clip.mp4"}, "clip.mp4"),
        ({"output": "/proc/records"}, "/proc/records"),
    ],
)
def test_impossible_arguments(tmp_path: Path, change: dict[str, object], complaint: str) -> None:
    write_clip(tmp_path / "clip.mp4")
    arguments: dict[str, object] = {"output": "out"} | change
    arguments["output"] = tmp_path / str(arguments["output"])
    with pytest.raises((ValueError, OSError), match=complaint):
        prepare.prepare(annotations.read(tmp_path), **arguments)  # type: ignore[arg-type]
