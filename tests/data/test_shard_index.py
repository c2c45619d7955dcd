"""The index of a shard tells where each frame is, whoever wrote the shard."""

import shutil
import subprocess
import sys
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, ramp_video, write_records

from cvrl_tf.data import clips, pipeline, reading, records, schema, shard_index, views
from cvrl_tf.data.shard_index import ShardIndex

V1 = ROOT / "tests" / "fixtures" / "v1" / "records"


def reading_of(folder: Path) -> pipeline.Pipeline:
    return pipeline.Pipeline(folder, clips.EvenClips(2, 1, 2), views.EvenCrops(16, 16, 1))


def index_tool(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/index_tfrecords.py", f"--data_dir={folder}", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def assert_reads_what_is_there(folder: Path) -> None:
    """Every frame and every fact, by the index, are those of the whole records."""
    paths = records.shard_paths(folder, schema.DatasetInfo.load(folder).split("train"))
    reader = reading.Reader(paths)
    whole = sorted(records.in_order(paths).as_numpy_iterator(), key=lambda r: video_id(r))
    assert reader.num_records == len(whole)
    for number, serialized in enumerate(whole):
        expected = records.parse(serialized)
        frames = expected.pop("frames").numpy()
        ours = reader.record(tf.constant(number, tf.int64))
        assert ours.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(ours[name], value, err_msg=name)
        chosen = np.random.default_rng(number).integers(0, len(frames), [2, 40])
        jpegs = reader.jpegs(tf.constant(number, tf.int64), tf.constant(chosen, tf.int32))
        assert (jpegs.numpy() == frames[chosen]).all()


def video_id(serialized: bytes) -> bytes:
    return records.parse(serialized)["video_id"].numpy()


def test_an_index_leads_to_each_frame(noise_records: Path) -> None:
    assert_reads_what_is_there(noise_records)


def test_an_index_says_where_and_with_which_checksum(tmp_path: Path) -> None:
    folder = write_records(tmp_path, [ramp_video(3, 32, 32), ramp_video(5, 32, 32)], num_shards=1)
    shard = folder / "train-00000-of-00001"
    index, content = ShardIndex.load(shard_index.path_of(shard)), shard.read_bytes()
    assert index == shard_index.scan(shard) and index.shard_size == len(content)
    assert index.ids == [b"video_0", b"video_1"]
    assert index.records["num_frames"].tolist() == [3, 5]
    assert index.records["first_frame"].tolist() == [0, 3]
    for row in index.frames:
        jpeg = content[row["offset"] : row["offset"] + row["length"]]
        assert jpeg[:2] == b"\xff\xd8" and jpeg[-2:] == b"\xff\xd9"
        assert google_crc32c.value(jpeg) == row["crc"]
    for row in index.records:
        example = tf.train.SequenceExample.FromString(
            content[row["offset"] : row["offset"] + row["length"]]
        )
        context = content[row["context"] : row["context"] + row["context_length"]]
        assert tf.train.SequenceExample.FromString(context).context == example.context


def test_records_of_before_are_refused_and_then_indexed(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    shutil.copytree(V1, folder)
    with pytest.raises(FileNotFoundError, match=r"no index .*python tools/index_tfrecords\.py"):
        reading_of(folder)
    run = index_tool(folder)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "train: 1 of 1 shards had no fitting index; now they have.\n"
    assert_reads_what_is_there(folder)


def test_a_foreign_writer_orders_its_fields_as_it_likes(tmp_path: Path) -> None:
    """Frames before the context, other lists beside them, and no id, as protobuf allows."""
    shard = tmp_path / "train-00000-of-00001"
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for number in range(2):
            lists, context = tf.train.SequenceExample(), tf.train.SequenceExample()
            for name, values in {
                "audio": [b"x" * 200],
                schema.FRAMES: [b"jpeg %d" % (number + i) * 99 for i in range(4)],
                "image/z": [b"y"],
            }.items():
                for value in values:
                    feature = lists.feature_lists.feature_list[name].feature.add()
                    feature.bytes_list.value.append(value)
            context.context.feature[schema.LABEL_INDEX].int64_list.value.append(number)
            writer.write(lists.SerializeToString() + context.SerializeToString())
    split = schema.SplitInfo({shard.name: 2}, 8, {}, {}, {})
    schema.DatasetInfo([], 32, {"train": split}).save(tmp_path)
    assert index_tool(tmp_path, "--split=train").returncode == 0
    assert_reads_what_is_there(tmp_path)


def test_a_stale_or_damaged_index_is_named_with_its_remedy(tmp_path: Path) -> None:
    folder = write_records(tmp_path / "r", [ramp_video(4, 32, 32)] * 2, num_shards=1)
    shard = folder / "train-00000-of-00001"
    path, before = shard_index.path_of(shard), shard.read_bytes()
    good = path.read_bytes()
    path.write_bytes(good[:70] + bytes([good[70] ^ 1]) + good[71:])
    with pytest.raises(ValueError, match=r"index/train.* is damaged.*index_tfrecords"):
        reading_of(folder)
    path.write_bytes(good[:-1])
    with pytest.raises(ValueError, match=r"index/train.* is damaged.*index_tfrecords"):
        reading_of(folder)
    path.write_bytes(good)
    shard.write_bytes(before + before)  # written anew, longer
    with pytest.raises(ValueError, match="is not of this shard.*index_tfrecords"):
        reading_of(folder)
    other = write_records(tmp_path / "other", [ramp_video(4, 32, 32)[::-1]] * 2, num_shards=1)
    anew = (other / shard.name).read_bytes()
    assert len(anew) == len(before)
    shard.write_bytes(anew)  # of the same length
    found = reading_of(folder).eval_damage()
    assert found is not None and "or the shard was written anew since its index was" in found


def test_what_is_no_record_is_named(tmp_path: Path) -> None:
    shard = tmp_path / "train"
    twice = tf.train.SequenceExample()
    twice.context.feature["a"].int64_list.value.append(1)
    for content, complaint in (
        (tf.train.Example(features=twice.context).SerializeToString(), None),
        (twice.SerializeToString() * 2, "it has 2 contexts"),
        (b"\x08\x01", "it is no SequenceExample: wire type 0"),
        (b"\x0a\x7f", "longer than what holds it"),
    ):
        with tf.io.TFRecordWriter(str(shard)) as writer:
            writer.write(content)
        if complaint:
            with pytest.raises(shard_index.Damaged, match=f"Record 0 of '{shard}': .*{complaint}"):
                shard_index.scan(shard)
        else:  # an Example is a SequenceExample without frames
            assert shard_index.scan(shard).records["num_frames"].tolist() == [0]
    shard.write_bytes(shard.read_bytes()[:-3])
    with pytest.raises(shard_index.Damaged, match=f"Record 0 of '{shard}'"):
        shard_index.scan(shard)
