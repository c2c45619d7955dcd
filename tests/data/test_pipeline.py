"""Batches as a function of (seed, epoch, position), whoever prepares them."""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from conftest import noise_video, ramp_video, write_records

from cvrl_tf.data import clips, pipeline, reading, schema, shard_index, views

pytestmark = pytest.mark.addons

Contexts = Callable[[int], tf.distribute.InputContext]


def training(folder: Path, **kwargs: int) -> pipeline.Pipeline:
    return pipeline.Pipeline(
        folder, clips.UniformClips(4, 2, 2), views.RandomResizedCrop(16), **kwargs
    )


def take(data: tf.data.Dataset, count: int) -> list[dict[str, np.ndarray]]:
    return list(data.take(count).as_numpy_iterator())


def assert_same(ours: list[dict], theirs: list[dict]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_shapes(noise_records: Path, one_worker: Contexts) -> None:
    (batch,) = take(training(noise_records).train_batches(5, 0, 0, one_worker(1)), 1)
    assert batch["frames"].shape == (5, 2, 4, 16, 16, 3) and batch["frames"].dtype == np.uint8
    assert batch["seeds"].shape == (5, 2, 2) and batch["seeds"].dtype == np.int32
    assert batch["label"].shape == (5,) and set(batch["label"]) <= {0, 1}
    np.testing.assert_array_equal(batch["weight"], np.ones(5))


def test_stream_is_a_function_of_seed_and_step(noise_records: Path, one_worker: Contexts) -> None:
    data = training(noise_records)
    whole = take(data.train_batches(5, 3, 0, one_worker(1)), 8)  # 3 steps an epoch
    assert_same(take(data.train_batches(5, 3, 0, one_worker(1)), 8), whole)
    assert_same(take(data.train_batches(5, 3, 4, one_worker(1)), 4), whole[4:])  # resumed mid-epoch
    assert_same(take(data.train_batches(5, 3, 6, one_worker(1)), 2), whole[6:])
    (other,) = take(data.train_batches(5, 4, 0, one_worker(1)), 1)
    assert np.any(other["frames"] != whole[0]["frames"])
    assert np.any(whole[0]["seeds"] != whole[3]["seeds"])  # another epoch, other draws


def test_replicas_and_workers_share_the_same_global_batch(noise_records: Path) -> None:
    data = training(noise_records)
    whole = take(data.train_batches(8, 0, 0, tf.distribute.InputContext(num_replicas_in_sync=1)), 3)

    def merged(contexts: list[tf.distribute.InputContext], per_worker: int) -> list[dict]:
        """Global batches from what each worker hands to its replicas, in order."""
        streams = [
            take(data.train_batches(8, 0, 0, context), 3 * per_worker) for context in contexts
        ]
        batches = []
        for step in range(3):
            parts = [s[step * per_worker + r] for s in streams for r in range(per_worker)]
            batches.append({name: np.concatenate([p[name] for p in parts]) for name in parts[0]})
        return batches

    two_replicas = [tf.distribute.InputContext(num_replicas_in_sync=2)]
    assert_same(merged(two_replicas, per_worker=2), whole)
    two_by_two = [tf.distribute.InputContext(2, worker, 4) for worker in range(2)]
    assert_same(merged(two_by_two, per_worker=2), whole)


def test_same_bytes_on_one_thread_and_on_eight(noise_records: Path, one_worker: Contexts) -> None:
    def on_threads(count: int) -> list[dict]:
        options = tf.data.Options()
        options.threading.private_threadpool_size = count
        stream = training(noise_records).train_batches(4, 0, 0, one_worker(1))
        return take(stream.with_options(options), 6)

    assert_same(on_threads(8), on_threads(1))


@pytest.fixture(scope="module")
def three_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """17 videos in three shards; video i has the gray value 15 * i."""
    videos = [np.full((8, 32, 32, 3), 15 * i, np.uint8) for i in range(17)]
    return write_records(tmp_path_factory.mktemp("three"), videos, num_shards=3)


def numbers(batch: dict[str, np.ndarray]) -> list[int]:
    """Which videos of `three_shards` a batch holds."""
    return np.round(batch["frames"].mean(axis=(1, 2, 3, 4, 5)) / 15).astype(int).tolist()


def by_workers(
    make: Callable[[tf.distribute.InputContext], tf.data.Dataset], count: int, steps: int
) -> list[dict]:
    """Global batches, put together from workers with a replica each."""
    contexts = [tf.distribute.InputContext(count, worker, count) for worker in range(count)]
    parts = zip(*[take(make(context), steps) for context in contexts], strict=True)
    return [{name: np.concatenate([p[name] for p in each]) for name in each[0]} for each in parts]


@pytest.mark.parametrize(
    "workers",
    [1, 2, pytest.param(3, marks=pytest.mark.slow), pytest.param(6, marks=pytest.mark.slow)],
)
def test_neither_workers_nor_shards_change_a_batch(
    workers: int, three_shards: Path, tmp_path: Path, one_worker: Contexts
) -> None:
    """Two steps an epoch, five examples left over."""
    videos = [np.full((8, 32, 32, 3), 15 * i, np.uint8) for i in range(17)]
    one_shard = training(write_records(tmp_path, videos, num_shards=1))
    expected = take(one_shard.train_batches(6, 0, 0, one_worker(1)), 5)
    data = training(three_shards)
    batches = by_workers(lambda context: data.train_batches(6, 0, 0, context), workers, 5)
    assert_same(batches, expected)
    for epoch in (batches[:2], batches[2:4]):
        seen = [number for batch in epoch for number in numbers(batch)]
        assert len(set(seen)) == len(seen) == 12


@pytest.mark.slow
def test_a_stream_resumes_anywhere(noise_records: Path, one_worker: Contexts) -> None:
    data = training(noise_records)
    whole = take(data.train_batches(5, 3, 0, one_worker(1)), 60)  # 3 steps an epoch
    for step in np.random.default_rng(0).integers(0, 58, 20):
        resumed = data.train_batches(5, 3, int(step), one_worker(1))
        assert_same(take(resumed, 2), whole[step : step + 2])


def test_two_workers_meet_each_example_once(three_shards: Path, one_worker: Contexts) -> None:
    data = training(three_shards)
    batches = by_workers(lambda context: data.eval_batches(2, context), 2, 9)
    assert_same(batches, take(data.eval_batches(2, one_worker(1)), 16))
    assert len(batches) == 9
    seen = np.concatenate([numbers(batch) for batch in batches])
    weights = np.concatenate([batch["weight"] for batch in batches])
    assert sorted(seen[weights == 1]) == list(range(17))
    assert weights.sum() == 17


def test_each_order_of_an_epoch_is_as_likely() -> None:
    """Chi-square over the 24 orders of four examples; one in a thousand seeds exceeds it."""

    @tf.function
    def orders(seeds: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(lambda seed: reading.order(4, seed, epoch), seeds)

    seeds = tf.range(10_000, dtype=tf.int64)
    for epoch in (0, 7):
        drawn = orders(seeds, tf.constant(epoch, tf.int64)).numpy()
        assert (np.sort(drawn, axis=1) == np.arange(4)).all()
        _, counts = np.unique(drawn, axis=0, return_counts=True)
        assert len(counts) == 24
        expected = len(drawn) / 24
        assert ((counts - expected) ** 2 / expected).sum() < scipy.stats.chi2.ppf(0.999, df=23)


def test_once_has_every_example_in_order_and_fills_up(tmp_path: Path, one_worker: Contexts) -> None:
    videos = [np.full((6, 32, 32, 3), 10 * i, np.uint8) for i in range(7)]
    folder = write_records(tmp_path / "gray", videos, "test")
    data = pipeline.Pipeline(
        folder, clips.EvenClips(2, 1, 2), views.EvenCrops(32, 32, 1), split="test"
    )
    once = data.eval_batches(3, one_worker(1))
    assert once.options().autotune.enabled is False  # see `records.ending_promptly`
    batches = take(once, 100)
    assert len(batches) == 3
    values = np.concatenate([b["frames"].mean(axis=(1, 2, 3, 4, 5)) for b in batches])
    np.testing.assert_allclose(values[:7], 10 * np.arange(7), atol=1)  # of ids, not of shards
    weights = np.concatenate([b["weight"] for b in batches])
    np.testing.assert_array_equal(weights, [1] * 7 + [0] * 2)


def test_two_views_of_a_video_come_from_it(tmp_path: Path, one_worker: Contexts) -> None:
    """Frames' gray values say where the clips start, and that both are of one video."""
    folder = write_records(tmp_path / "ramps", [ramp_video(40, 32, 32) for _ in range(4)])
    (batch,) = take(training(folder).train_batches(4, 0, 0, one_worker(1)), 1)
    times = np.round(batch["frames"].astype(float).mean(axis=(3, 4, 5)) / 4)
    np.testing.assert_array_equal(np.diff(times, axis=2), 2)
    assert len(np.unique(times[:, :, 0])) > 3


def with_rate(folder: Path, rate: float, times: Sequence[int] = ()) -> Path:
    """Writes a frame rate, and times in microseconds, into all records of a folder."""
    for shard in folder.glob("train-*"):
        examples = [
            tf.train.SequenceExample.FromString(record.numpy())
            for record in tf.data.TFRecordDataset(str(shard))
        ]
        with tf.io.TFRecordWriter(str(shard)) as writer:
            for example in examples:
                example.context.feature[schema.FRAME_RATE].float_list.value.append(rate)
                if times:
                    example.context.feature[schema.TIMES].int64_list.value.extend(times)
                writer.write(example.SerializeToString())
        shard_index.scan(shard).save(shard_index.path_of(shard))
    return folder


@pytest.fixture(scope="module")
def short_ramps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos of 10 frames at 5 a second; frame i has the gray value 4 * i."""
    folder = tmp_path_factory.mktemp("short_ramps")
    return with_rate(write_records(folder, [ramp_video(10, 32, 32)] * 6), 5.0)


@pytest.mark.parametrize(
    "sampler",
    [
        clips.ConsecutiveClips(4, 1, num_clips=2, gap=1),  # 9 frames
        clips.ConsecutiveClips(4, 2, num_clips=3, gap=3),  # 29 frames: loops twice
        clips.PacedClips(4, 1, paces=(1, 3)),  # just fits
    ],
    ids=repr,
)
def test_positions_and_seconds_tell_the_frames(
    sampler: clips.ClipSampler, short_ramps: Path, one_worker: Contexts
) -> None:
    data = pipeline.Pipeline(short_ramps, sampler, views.RandomResizedCrop(16))
    (batch,) = take(data.train_batches(6, 0, 0, one_worker(1)), 1)
    positions, seconds = batch["positions"], batch["seconds"]
    assert positions.shape == seconds.shape == batch["frames"].shape[:3]
    assert positions.dtype == np.int32 and seconds.dtype == np.float32
    gray = np.round(batch["frames"].astype(float).mean(axis=(3, 4, 5)) / 4)
    np.testing.assert_array_equal(positions % 10, gray)
    # They go on where a video begins anew.
    strides = np.diff(positions, axis=2)
    assert strides.min() > 0
    np.testing.assert_array_equal(strides, np.broadcast_to(strides[:1, :, :1], strides.shape))
    assert (positions.max() >= 20) == (sampler.stride == 2)
    np.testing.assert_allclose(seconds, positions / 5, rtol=1e-5)


def test_positions_count_in_the_rate_of_the_sampler(
    short_ramps: Path, one_worker: Contexts
) -> None:
    sampler = clips.ConsecutiveClips(4, 1, num_clips=2)  # 8 frames; the video has 5 of this rate
    data = pipeline.Pipeline(short_ramps, sampler, views.RandomResizedCrop(16), fps=2.5)
    (batch,) = take(data.train_batches(6, 0, 0, one_worker(1)), 1)
    starts = batch["positions"][:, :1, :1]
    assert len(np.unique(starts)) > 1 and starts.max() < 5
    expected = np.tile([[0, 1, 2, 3], [4, 5, 6, 7]], (6, 1, 1))
    np.testing.assert_array_equal(batch["positions"] - starts, expected)
    gray = np.round(batch["frames"].astype(float).mean(axis=(3, 4, 5)) / 4)
    np.testing.assert_array_equal(gray, 2 * (batch["positions"] % 5))
    np.testing.assert_allclose(batch["seconds"], batch["positions"] / 2.5, rtol=1e-5)


def test_a_stride_is_a_time_where_the_frame_rate_varies(
    tmp_path: Path, one_worker: Contexts
) -> None:
    """30 frames in the first second, 3 in each of the next four; the rate is the mean one."""
    shown = np.concatenate([np.arange(30) / 30, 1 + np.arange(12) / 3])
    folder = write_records(tmp_path, [ramp_video(42, 32, 32)] * 8)
    with_rate(folder, 42 / 5, [round(1e6 * (7 + each)) for each in shown])
    crop = views.RandomResizedCrop(16)
    data = pipeline.Pipeline(folder, clips.UniformClips(4, 2, 2), crop, fps=5.0)
    (batch,) = take(data.train_batches(8, 0, 0, one_worker(1)), 1)
    frames = np.round(batch["frames"].astype(float).mean(axis=(3, 4, 5)) / 4).astype(int)
    np.testing.assert_allclose(batch["seconds"], shown[frames], atol=1e-5)
    wanted = batch["positions"] / 5
    np.testing.assert_allclose(np.diff(wanted), 0.4)
    np.testing.assert_array_equal(frames, np.searchsorted(shown, wanted + 1e-3, "right") - 1)
    assert wanted.min() < 0.5 and wanted.max() > 3.5


def test_a_video_of_one_frame_goes_on_for_its_duration(
    tmp_path: Path, one_worker: Contexts
) -> None:
    folder = with_rate(write_records(tmp_path, [ramp_video(1, 32, 32)] * 2), 5.0)
    data = pipeline.Pipeline(folder, clips.EvenClips(4, 1, 1), views.EvenCrops(16, 32, 1))
    (batch,) = take(data.eval_batches(2, one_worker(1)), 1)
    np.testing.assert_allclose(batch["seconds"], np.tile(np.arange(4) / 5, (2, 1, 1)))


def test_crops_of_a_clip_have_its_positions(short_ramps: Path, one_worker: Contexts) -> None:
    data = pipeline.Pipeline(short_ramps, clips.EvenClips(4, 1, 2), views.EvenCrops(16, 32, 3))
    (batch, *_) = take(data.eval_batches(6, one_worker(1)), 1)
    assert batch["frames"].shape[1] == 6
    starts = batch["positions"][:, :, 0]
    np.testing.assert_array_equal(starts, np.tile([0, 0, 0, 6, 6, 6], (6, 1)))
    np.testing.assert_allclose(batch["seconds"], batch["positions"] / 5, rtol=1e-5)


def test_missing_things_are_named(noise_records: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        training(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"'validation'.*\['test', 'train'\]"):
        training(noise_records, split="validation")
    folder = write_records(tmp_path / "some", [ramp_video(4, 32, 32)] * 2)
    (folder / "train-00001-of-00002").unlink()
    with pytest.raises(FileNotFoundError, match="train-00001-of-00002"):
        training(folder)
    info = schema.DatasetInfo([], 32, {"train": schema.SplitInfo({}, 0, {}, {}, {"a.mp4": "cut"})})
    info.save(tmp_path)
    with pytest.raises(ValueError, match="empty: 1 videos were skipped"):
        training(tmp_path)
    with pytest.raises(ValueError, match="unlabeled"):
        pipeline.num_classes(tmp_path)


@pytest.fixture
def damaged_records(three_shards: Path, tmp_path: Path) -> Path:
    """`three_shards` with a broken JPEG in video 4, and the last shard cut in video 11.

    The last shard holds videos 2, 5, 8, 11, 14, so 11 and 14 are lost.
    """
    folder = tmp_path / "damaged"
    shutil.copytree(three_shards, folder)
    middle, last = sorted(folder.glob("train-*"))[1:]
    examples = [r.numpy() for r in tf.data.TFRecordDataset(str(middle))]
    with tf.io.TFRecordWriter(str(middle)) as writer:
        for number, example in enumerate(examples):
            broken = example.replace(b"\xff\xd8\xff", b"\xff\xd8\x00") if number == 1 else example
            writer.write(broken)
    shard_index.scan(middle).save(shard_index.path_of(middle))
    sizes = [len(r.numpy()) + 16 for r in tf.data.TFRecordDataset(str(last))]
    last.write_bytes(last.read_bytes()[: sum(sizes[:3]) + 20])
    return folder


def test_damage_ends_the_stream_and_is_found(
    damaged_records: Path, three_shards: Path, one_worker: Contexts
) -> None:
    data = training(damaged_records)
    delivered = data.train_batches(2, 0, 0, one_worker(1)).as_numpy_iterator()
    step = 0
    with pytest.raises(tf.errors.InvalidArgumentError):
        for step, _ in enumerate(delivered, start=1):
            assert data.train_damage(2, 0, step - 1) is None
    assert step < 8
    found = data.train_damage(2, 0, step)
    assert found is not None
    assert re.search(r"record \d of .*train-0000[12]-of-00003: ", found), found
    whole = training(damaged_records).eval_damage()
    assert whole is not None and "record 3 of" in whole and "train-00002-of-00003: its" in whole
    shutil.copy(three_shards / "train-00002-of-00003", damaged_records)
    whole = training(damaged_records).eval_damage()
    assert whole is not None and "record 1 of" in whole and "train-00001-of-00003" in whole
    assert "JPEG" in whole


def test_a_flipped_byte_is_named_where_the_frame_is_used(
    three_shards: Path, tmp_path: Path, one_worker: Contexts
) -> None:
    folder = tmp_path / "flipped"
    shutil.copytree(three_shards, folder)
    shard = folder / "train-00001-of-00003"
    index = shard_index.ShardIndex.load(shard_index.path_of(shard))
    first = int(index.records["first_frame"][2])
    content = bytearray(shard.read_bytes())
    content[int(index.frames["offset"][first + 5]) + 99] ^= 1
    shard.write_bytes(content)

    def middle(num_frames: int) -> pipeline.Pipeline:
        """Of 8 frames: 3 and 4, or 2 to 5."""
        return pipeline.Pipeline(
            folder, clips.EvenClips(num_frames, 1, 1), views.EvenCrops(16, 16, 1)
        )

    assert middle(2).eval_damage() is None
    assert len(take(middle(2).eval_batches(17, one_worker(1)), 1)) == 1
    found = middle(4).eval_damage()
    assert found is not None and found.startswith(f"record 2 of {shard}: frame 5 is damaged")
    assert "\n" not in found
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"record 2 of {shard}: frame 5"):
        take(middle(4).eval_batches(17, one_worker(1)), 1)


def test_damaged_records_can_be_passed_over_and_are_counted(
    damaged_records: Path, three_shards: Path, one_worker: Contexts
) -> None:
    whole = take(training(three_shards).train_batches(2, 0, 0, one_worker(1)), 16)
    data = training(damaged_records, skip_damaged=True)
    batches = take(data.train_batches(2, 0, 0, one_worker(1)), 10)
    seen = [number for batch in batches for number in numbers(batch)]
    planned = [number for batch in whole for number in numbers(batch)]
    assert seen == [number for number in planned if number not in (4, 11, 14)][:20]
    gaps = np.concatenate([batch["skipped"] for batch in batches])
    passed = planned[: 20 + gaps.sum()]
    assert passed[-1] == seen[-1] and gaps.sum() == sum(n in (4, 11, 14) for n in passed) > 2
    once = take(data.eval_batches(3, one_worker(1)), 10)
    assert len(once) == 6
    weights = np.concatenate([batch["weight"] for batch in once])
    seen = [n for batch in once for n in numbers(batch)]
    weighted = [n for n, weight in zip(seen, weights, strict=True) if weight]
    assert sorted(weighted) == [n for n in range(17) if n not in (4, 11, 14)]


def test_video_ids_of_a_step(three_shards: Path, one_worker: Contexts) -> None:
    data = training(three_shards)
    for step, batch in enumerate(take(data.train_batches(3, 1, 0, one_worker(1)), 7)):
        expected = [f"video_{number}" for number in numbers(batch)]
        assert data.video_ids(3, 1, step) == expected


def test_short_videos_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lengths = [3, 8, 6, 7, 20, 5]
    folder = write_records(tmp_path, [noise_video(n, 32, 40, n) for n in lengths])
    data = training(folder, leave_out_short=True)  # clips of 4 frames, each a second one
    assert data.num_examples == 3 and data.summary["left_out"] == 3
    assert "3 of 6 videos, which are shorter than the 7 frames of all clips" in caplog.text
    batches = take(data.train_batches(3), 4)
    assert all(batch["positions"].max() < 20 for batch in batches)
    ids = {name for step in range(4) for name in data.video_ids(3, 0, step)}
    assert len(ids) == 3
    data.check_labels()  # which all have, also those that are left out
    assert training(folder).num_examples == 6
    with pytest.raises(ValueError, match=r"6 of 6 videos.* 97 frames.* Take shorter clips"):
        pipeline.Pipeline(
            folder, clips.UniformClips(4, 32, 2), views.RandomResizedCrop(16), leave_out_short=True
        )
    with pytest.raises(ValueError, match="counts frames: leave fps at None, it is 25"):
        training(folder, leave_out_short=True, fps=25)
