"""Frame indices of clips, and the distributions they are drawn from."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from official.projects.video_ssl.ops import video_ssl_preprocess_ops as garden
from scipy import stats

from cvrl_tf.data import clips, timeline


def placed(sampler: clips.UniformClips, length: int, seed: tf.Tensor) -> tf.Tensor:
    """Frames of the video, [V, T]."""
    counted = timeline.Timeline.of(tf.zeros([length]), tf.constant(0.0), None)
    return timeline.place(sampler, counted, seed).frames


def draw(sampler: clips.UniformClips, length: int, count: int) -> np.ndarray:
    """Frames of many seeds, [count, V, T]."""
    seeds = np.stack([np.arange(count), np.full(count, 7)], axis=1).astype(np.int32)
    data = tf.data.Dataset.from_tensor_slices(seeds)
    data = data.map(lambda seed: placed(sampler, length, seed)).batch(count)
    return next(data.as_numpy_iterator())


def draw_positions(sampler: clips.ClipSampler, length: int, count: int) -> np.ndarray:
    """Positions of many seeds, before looping, [count, V, T]."""
    seeds = np.stack([np.arange(count), np.full(count, 7)], axis=1).astype(np.int32)
    data = tf.data.Dataset.from_tensor_slices(seeds)
    data = data.map(lambda seed: sampler(tf.constant(length), seed)).batch(count)
    return next(data.as_numpy_iterator())


ALL = [
    clips.UniformClips(16, 2, 2),
    clips.DecreasingPair(16, 2),
    clips.SamePair(16, 2),
    clips.UniformClips(16, 2, 1),
    clips.EvenClips(16, 2, num_clips=10),
]


@pytest.mark.parametrize("sampler", ALL, ids=lambda s: f"{type(s).__name__}x{s.num_clips}")
@pytest.mark.parametrize("length", [31, 32, 250])
def test_frames_are_a_stride_apart_and_inside(sampler: clips.UniformClips, length: int) -> None:
    indices = draw(sampler, length, 50)
    assert indices.shape == (50, sampler.num_clips, 16)
    assert indices.min() >= 0 and indices.max() < length
    np.testing.assert_array_equal(np.diff(indices, axis=-1), 2)


SPANS = {
    clips.UniformClips(16, 2, 2): 31,
    clips.DecreasingPair(16, 2): 31,
    clips.SamePair(16, 2): 31,
    clips.EvenClips(16, 2, num_clips=10): 31,
    clips.ConsecutiveClips(16, 1, num_clips=3, gap=8): 64,
    clips.SegmentClips(16, 2, num_clips=4): 124,
    clips.PacedClips(16, 1, paces=(1, 2, 3, 4), drawn_clips=2): 61,
}


@pytest.mark.parametrize("sampler", SPANS, ids=lambda s: type(s).__name__)
def test_clips_loop_only_below_their_span(sampler: clips.ClipSampler) -> None:
    assert sampler.span == SPANS[sampler]
    assert draw_positions(sampler, sampler.span, 200).max() < sampler.span
    assert draw_positions(sampler, sampler.span - 1, 200).max() >= sampler.span - 1


def test_fastest_clips_fit_on_average_into_their_span() -> None:
    sampler = clips.SpedUpPair(16, 2, normal=(1.0, 1.2), fast=(1.7, 2.0))
    assert sampler.span == 61
    positions = draw_positions(dataclasses.replace(sampler, fast=(2.0, 2.0)), 1000, 400)[:, 1]
    assert 59 < (positions[:, -1] - positions[:, 0]).mean() + 1 < 63


@pytest.mark.parametrize("sampler", ALL, ids=lambda s: f"{type(s).__name__}x{s.num_clips}")
@pytest.mark.parametrize("length", [1, 5, 30])
def test_short_videos_loop(sampler: clips.UniformClips, length: int) -> None:
    indices = draw(sampler, length, 200)
    expected = (indices[..., :1] + 2 * np.arange(16)) % length
    np.testing.assert_array_equal(indices, expected)
    starts = np.unique(indices[..., 0])
    even = isinstance(sampler, clips.EvenClips)  # as the authors' test
    np.testing.assert_array_equal(starts, [0] if even else np.arange(length))


def test_independent_starts_are_uniform_and_independent() -> None:
    starts = draw(clips.UniformClips(16, 2, 2), 250, 20_000)[:, :, 0]
    assert starts.min() == 0 and starts.max() == 219  # L - (T - 1) * stride = 220 starts
    for view in range(2):
        counts = np.bincount(starts[:, view], minlength=220)
        assert stats.chisquare(counts).pvalue > 1e-3
    assert abs(np.corrcoef(starts.T)[0, 1]) < 0.03


@pytest.mark.slow
def test_decreasing_pair_has_the_stated_density() -> None:
    starts = draw(clips.DecreasingPair(16, 2), 250, 100_000)[:, :, 0]
    signed = starts[:, 1] - starts[:, 0]
    delta = np.abs(signed)
    # CDF of the floor of a variable with density 2 (M - x) / M^2 on [0, M), M = 220.
    edges = np.arange(221) / 220
    expected = np.diff(2 * edges - edges**2)
    counts = np.bincount(delta, minlength=220)
    assert stats.chisquare(counts, expected * 100_000).pvalue > 1e-3
    distance = np.abs(np.cumsum(counts / 100_000 - expected)).max()
    assert distance < 1.95 / np.sqrt(100_000)  # Kolmogorov-Smirnov, p = 1e-3
    np.testing.assert_allclose(delta.mean() + 0.5, 220 / 3, rtol=0.01)
    assert abs(np.mean(signed > 0) - np.mean(signed < 0)) < 0.02  # either clip may be first
    first = starts.min(axis=1)
    scaled = (first + 0.5) / (220 - delta)
    np.testing.assert_allclose([scaled.mean(), scaled.var()], [1 / 2, 1 / 12], rtol=0.02)


def test_decreasing_pair_as_the_authors() -> None:
    def starts(_: tf.Tensor) -> tf.Tensor:
        both = garden.sample_ssl_sequence(tf.range(250), 16, True, 2)
        return tf.stack([both[0], both[16]])

    tf.random.set_seed(0)
    data = tf.data.Dataset.range(10_000).map(starts)  # in turn, so their seed settles the draws
    theirs = next(data.batch(10_000).as_numpy_iterator())
    ours = draw(clips.DecreasingPair(16, 2), 250, 10_000)[:, :, 0]
    for view in range(2):
        assert stats.ks_2samp(ours[:, view], theirs[:, view]).pvalue > 1e-3
    assert stats.ks_2samp(ours.min(axis=1), theirs.min(axis=1)).pvalue > 1e-3
    signed = np.diff(ours)[:, 0], np.diff(theirs)[:, 0]
    assert stats.ks_2samp(*signed).pvalue > 1e-3
    assert stats.ks_2samp(*np.abs(signed)).pvalue > 1e-3


@pytest.mark.parametrize(
    "sampler",
    [clips.UniformClips(16, 2, 2), clips.DecreasingPair(16, 2), clips.PacedClips(16, 1, (2, 2))],
    ids=repr,
)
def test_starts_in_a_short_video_are_independent_and_uniform(sampler: clips.ClipSampler) -> None:
    length = 30  # a clip of 16 frames, 2 apart, has 31
    starts = draw_positions(sampler, length, 10_000)[:, :, 0]
    pairs = np.bincount(starts[:, 0] * length + starts[:, 1], minlength=length**2)
    assert len(pairs) == length**2
    assert stats.chisquare(pairs).pvalue > 1e-3
    distance = np.abs(np.subtract.outer(np.arange(length), np.arange(length))).mean()
    np.testing.assert_allclose(np.abs(np.diff(starts)).mean(), distance, rtol=0.03)
    np.testing.assert_allclose(distance, 10, rtol=0.01)


def test_a_pair_in_a_short_video_as_the_authors() -> None:
    def starts(_: tf.Tensor) -> tf.Tensor:
        both = garden.sample_ssl_sequence(tf.range(30), 16, True, 2)
        return tf.stack([both[0], both[16]])

    tf.random.set_seed(None)  # a global seed would make both of their draws, in branches, the same
    theirs = next(tf.data.Dataset.range(4000).map(starts).batch(4000).as_numpy_iterator())
    ours = draw(clips.DecreasingPair(16, 2), 30, 4000)[:, :, 0]
    for pairs in (ours, theirs):
        assert abs(np.abs(np.diff(pairs)).mean() - 10) < 0.6  # five standard errors
    assert stats.ks_2samp(np.diff(ours)[:, 0], np.diff(theirs)[:, 0]).pvalue > 1e-6
    for view in range(2):
        assert stats.ks_2samp(ours[:, view], theirs[:, view]).pvalue > 1e-6


@pytest.mark.parametrize("sampler", ALL, ids=lambda s: f"{type(s).__name__}x{s.num_clips}")
def test_same_indices_eagerly_and_mapped(sampler: clips.UniformClips) -> None:
    for mapped, seed in zip(draw(sampler, 250, 20), range(20), strict=True):
        eager = sampler(tf.constant(250), tf.constant([seed, 7]))
        np.testing.assert_array_equal(mapped, eager)


def test_same_pair_is_one_clip_twice() -> None:
    indices = draw(clips.SamePair(8, 4), 100, 100)
    np.testing.assert_array_equal(indices[:, 0], indices[:, 1])
    assert len(np.unique(indices[:, 0, 0])) > 20


def test_even_clips() -> None:
    indices = clips.EvenClips(32, 2, num_clips=10)(tf.constant(244), tf.zeros([2], tf.int32))
    np.testing.assert_array_equal(indices[:, 0], np.arange(10) * 20)  # over [0, L - 64]
    middle = clips.EvenClips(32, 2, num_clips=1)(tf.constant(164), tf.zeros([2], tf.int32))
    np.testing.assert_array_equal(middle[:, 0], [50])


def test_same_seed_same_clip() -> None:
    first, second = (draw(clips.DecreasingPair(16, 2), 250, 10) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("stride", "gap"), [(1, 8), (2, 0)])
def test_consecutive_clips_follow_each_other(stride: int, gap: int) -> None:
    sampler = clips.ConsecutiveClips(16, stride, num_clips=3, gap=gap)
    positions = draw_positions(sampler, 250, 20_000)
    assert positions.shape == (20_000, 3, 16)
    np.testing.assert_array_equal(np.diff(positions, axis=2), stride)
    starts = positions[:, :, 0]
    step = 16 * stride + gap
    np.testing.assert_array_equal(np.diff(starts, axis=1), step)
    # What leaves the last frame of the last clip inside.
    count = 250 - 2 * step - 15 * stride
    assert starts[:, 0].min() == 0 and positions.max() == 249
    assert stats.chisquare(np.bincount(starts[:, 0], minlength=count)).pvalue > 1e-3
    assert starts[:, 0].max() == count - 1


@pytest.mark.parametrize("length", [1, 30, 63])
def test_consecutive_clips_of_short_videos_begin_anywhere(length: int) -> None:
    sampler = clips.ConsecutiveClips(16, 1, num_clips=3, gap=8)  # which span 64 frames
    positions = draw_positions(sampler, length, 3000)
    starts = positions[:, 0, 0]
    expected = np.array([0, 24, 48])[:, None] + np.arange(16)
    np.testing.assert_array_equal(positions - starts[:, None, None], [expected] * 3000)
    assert starts.max() == length - 1
    assert length == 1 or stats.chisquare(np.bincount(starts)).pvalue > 1e-3


def test_consecutive_clips_that_just_fit_begin_at_the_start() -> None:
    sampler = clips.ConsecutiveClips(16, 1, num_clips=3, gap=8)
    assert set(draw_positions(sampler, 64, 20)[:, 0, 0]) == {0}


def test_paces_are_those_given_in_order() -> None:
    sampler = clips.PacedClips(16, 2, paces=(1, 4))
    assert sampler.num_clips == 2
    positions = draw_positions(sampler, 250, 20_000)
    for view, pace in enumerate((1, 4)):
        np.testing.assert_array_equal(np.diff(positions[:, view]), 2 * pace)
        count = 250 - 15 * 2 * pace
        starts = positions[:, view, 0]
        assert starts.max() == count - 1 and positions[:, view].max() == 249
        assert stats.chisquare(np.bincount(starts, minlength=count)).pvalue > 1e-3
    assert abs(np.corrcoef(positions[:, :, 0].T)[0, 1]) < 0.03


def test_drawn_paces_are_uniform_and_independent() -> None:
    sampler = clips.PacedClips(8, 1, paces=(1, 2, 3, 5), drawn_clips=2)
    assert sampler.num_clips == 2
    positions = draw_positions(sampler, 250, 20_000)
    paces = np.diff(positions)
    np.testing.assert_array_equal(paces, np.broadcast_to(paces[..., :1], paces.shape))
    both = np.searchsorted([1, 2, 3, 5], paces[..., 0])
    np.testing.assert_array_equal(np.array([1, 2, 3, 5])[both], paces[..., 0])
    counts = np.bincount(4 * both[:, 0] + both[:, 1], minlength=16)
    assert stats.chisquare(counts).pvalue > 1e-3
    starts = positions[..., 0]
    for place, pace in enumerate((1, 2, 3, 5)):
        mine = starts[both == place]
        count = 250 - 7 * pace
        assert stats.chisquare(np.bincount(mine, minlength=count)).pvalue > 1e-3


def test_paced_clips_of_short_videos_begin_anywhere() -> None:
    positions = draw_positions(clips.PacedClips(8, 1, paces=(1, 4)), 10, 1000)
    assert set(positions[:, 0, 0]) == {0, 1, 2}
    assert set(positions[:, 1, 0]) == set(range(10))
    np.testing.assert_array_equal(np.diff(positions[:, 1]), 4)


def placement(
    sampler: clips.ClipSampler, times: list[float] | np.ndarray, rate: float, fps: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, frames and loops, each [V, T]."""
    counted = timeline.Timeline.of(tf.constant(times, tf.float32), tf.constant(rate), fps)
    found = timeline.place(sampler, counted, tf.constant([0, 7]))
    return found.positions.numpy(), found.frames.numpy(), found.loops.numpy()


class AllTwice:
    """Every position that there is, in the video and once more."""

    num_frames = stride = num_clips = 1

    def __call__(self, length: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return tf.range(2 * length)[tf.newaxis]


def test_a_short_video_loops() -> None:
    class Third:
        num_frames, stride, num_clips = 8, 1, 1

        def __call__(self, length: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
            return 2 + tf.range(15)[tf.newaxis]

    positions, frames, loops = placement(Third(), np.arange(7), 0.0, None)
    np.testing.assert_array_equal(positions, [np.arange(2, 17)])
    np.testing.assert_array_equal(frames, [[2, 3, 4, 5, 6, *range(7), 0, 1, 2]])
    np.testing.assert_array_equal(loops, [5 * [0] + 7 * [1] + 3 * [2]])


def test_a_rate_is_counted_in_time() -> None:
    sampler = clips.EvenClips(4, 2, num_clips=1)
    # 40 frames at 20 a second are 20 at 10: the clip of 8 is in their middle.
    positions, frames, loops = placement(sampler, np.arange(40) / 20, 20.0, 10.0)
    np.testing.assert_array_equal(positions, [[6, 8, 10, 12]])
    np.testing.assert_array_equal(frames, 2 * positions)
    np.testing.assert_array_equal(loops, np.zeros((1, 4)))
    # An unknown rate is that of the times; without those, the video is taken as it is.
    _, frames, _ = placement(sampler, np.arange(40) / 20, 0.0, 10.0)
    np.testing.assert_array_equal(frames, [[12, 16, 20, 24]])
    positions, frames, _ = placement(sampler, np.full(40, np.nan), 0.0, 10.0)
    np.testing.assert_array_equal(positions, [[16, 18, 20, 22]])
    np.testing.assert_array_equal(frames, positions)
    # 10 frames at 30 a second are 5 at 15, counted from 0 again where the video begins anew.
    positions, frames, loops = placement(sampler, np.arange(10) / 30, 30.0, 15.0)
    np.testing.assert_array_equal(positions, [[0, 2, 4, 6]])
    np.testing.assert_array_equal(frames, [[0, 4, 8, 2]])
    np.testing.assert_array_equal(loops, [[0, 0, 0, 1]])


@pytest.mark.parametrize("rate", [7.3, 24000 / 1001, 25.0, 29.97, 30.0, 60000 / 1001])
@pytest.mark.parametrize("unit", [1e-3, 1e-6])
def test_a_constant_rate_needs_no_time_stamps(rate: float, unit: float) -> None:
    """The nearest frame by its number, in float32, however time stamps are rounded."""
    for fps in (5.0, 12.5, 20.0, 25.0, 60.0):
        for length in (1, 30, 299, 300):
            step = np.float32(rate) / np.float32(fps)
            ticks = max(int(np.float32(length) / step), 1)
            nearest = np.arange(ticks, dtype=np.float32) * step + np.float32(0.5)
            expected = np.minimum(nearest.astype(int), length - 1)
            times = np.round(np.arange(length) / rate / unit) * unit
            positions, frames, loops = placement(AllTwice(), times, rate, fps)
            np.testing.assert_array_equal(positions, [np.arange(2 * ticks)])
            np.testing.assert_array_equal(frames, [np.tile(expected, 2)])
            np.testing.assert_array_equal(loops, [np.repeat([0, 1], ticks)])


@pytest.mark.parametrize("rate", [0.0, 42 / 5])  # the record's is the mean one, if it knows any
def test_ticks_have_the_frames_that_are_shown_then(rate: float) -> None:
    """30 frames of the first second, then 3 a second, as a phone records in the dark."""
    times = np.concatenate([np.arange(30) / 30, 1 + np.arange(12) / 3])
    positions, frames, _ = placement(AllTwice(), times, rate, 10.0)
    ticks = positions.shape[1] // 2
    assert ticks in (47, 48)  # the last frame, at 4.667 s, stays for 0.119 s, the mean
    shown = np.array([np.searchsorted(times, t / 10 + 1e-6, "right") - 1 for t in range(ticks)])
    np.testing.assert_array_equal(frames[0, :11], 3 * np.arange(11))
    # What begins within half a mean duration, 0.06 s, is shown already.
    soon = np.array([np.min(np.append(times[times > t / 10], 9)) - t / 10 for t in range(ticks)])
    np.testing.assert_array_equal(frames[0, 11:ticks], (shown + (soon < 0.0595))[11:])
    np.testing.assert_array_equal(frames[0, ticks:], frames[0, :ticks])
    # A second of a clip is a second of the video, wherever it is.
    late = times[frames[0, 10:ticks]] - positions[0, 10:ticks] / 10
    assert late.min() > -0.34 and late.max() < 0.06


def test_a_frame_that_stays_is_shown_until_the_next_one() -> None:
    """A slide for 5 s, then 10 frames a second."""
    times = [0.0, *(5 + np.arange(11) / 10)]
    _, frames, _ = placement(AllTwice(), times, 10.0, 10.0)
    expected = 50 * [0] + list(range(1, 12))
    np.testing.assert_array_equal(frames, [2 * expected])
