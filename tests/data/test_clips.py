"""Frame indices of clips, and the distributions they are drawn from."""

import numpy as np
import pytest
import tensorflow as tf
from official.projects.video_ssl.ops import video_ssl_preprocess_ops as garden
from scipy import stats

from cvrl_tf.data import clips


def placed(sampler: clips.UniformClips, length: int, seed: tf.Tensor) -> tf.Tensor:
    """Frames of the video, [V, T]."""
    return clips.place(sampler, tf.constant(length), seed, tf.constant(0.0), None).frames


def draw(sampler: clips.UniformClips, length: int, count: int) -> np.ndarray:
    """Frames of many seeds, [count, V, T]."""
    seeds = np.stack([np.arange(count), np.full(count, 7)], axis=1).astype(np.int32)
    data = tf.data.Dataset.from_tensor_slices(seeds)
    data = data.map(lambda seed: placed(sampler, length, seed)).batch(count)
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


@pytest.mark.parametrize("sampler", ALL, ids=lambda s: f"{type(s).__name__}x{s.num_clips}")
@pytest.mark.parametrize("length", [1, 5, 30])
def test_short_videos_loop(sampler: clips.UniformClips, length: int) -> None:
    indices = draw(sampler, length, 5)
    expected = (2 * np.arange(16)) % length
    np.testing.assert_array_equal(indices, np.broadcast_to(expected, indices.shape))


def test_independent_starts_are_uniform_and_independent() -> None:
    starts = draw(clips.UniformClips(16, 2, 2), 250, 20_000)[:, :, 0]
    assert starts.min() == 0 and starts.max() == 219  # L - (T - 1) * stride = 220 starts
    for view in range(2):
        counts = np.bincount(starts[:, view], minlength=220)
        assert stats.chisquare(counts).pvalue > 1e-3
    assert abs(np.corrcoef(starts.T)[0, 1]) < 0.03


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
