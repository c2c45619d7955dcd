"""Photometric augmentations: formulas, distributions, consistency in time, authors' code."""

import itertools
from collections.abc import Callable

import hypothesis
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import scipy.stats
import tensorflow as tf
from hypothesis import strategies as st
from matplotlib import colors
from official.projects.video_ssl.ops import video_ssl_preprocess_ops as garden
from tensorflow.python.ops import random_ops

from cvrl_tf.augment.chain import Augmentation, Chain, ViewChains
from cvrl_tf.augment.photometric import ColorJitter, GaussianBlur, Grayscale, Solarize

OPERATIONS = ("brightness", "contrast", "saturation", "hue")
ORDERS = list(itertools.permutations(range(4)))
LEFT_OUT = 0.5221 / 255  # by the taps that the blur leaves out, and rounding
NO_JITTER = {"apply": True, "brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
ALL_ALWAYS = (
    ColorJitter(probability=1.0),
    Grayscale(probability=0.5),
    GaussianBlur(probability=1.0),
    Solarize(probability=0.5),
)


def clip_of(seed: int, shape: tuple[int, ...] = (3, 20, 24, 3)) -> np.ndarray:
    """Draw noise, float32, whose frames have different means."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(0.3, 1.0, (shape[0], 1, 1, shape[-1]))
    return (level * rng.uniform(size=shape)).astype(np.float32)


def seeds_of(count: int, seed: int = 0) -> tf.Tensor:
    return tf.random.stateless_uniform([count, 2], [seed, 1], None, None, tf.int32)


def tensors(params: dict) -> dict[str, tf.Tensor]:
    return {name: tf.constant(value) for name, value in params.items()}


def samples(augmentation: Augmentation, count: int) -> dict[str, np.ndarray]:
    """Draw the parameters of `count` clips, stacked."""
    seeds = seeds_of(count)
    spec = {
        name: tf.TensorSpec(value.shape, value.dtype)
        for name, value in augmentation.sample(seeds[0]).items()
    }
    draw = tf.function(lambda: tf.map_fn(augmentation.sample, seeds, fn_output_signature=spec))
    return {name: value.numpy() for name, value in draw().items()}


def numpy_jitter(frames: np.ndarray, params: dict) -> np.ndarray:
    """Compute the jitter of section 3.3 in NumPy, float64."""

    def in_hsv(x: np.ndarray, change: Callable[[np.ndarray], None]) -> np.ndarray:
        hsv = colors.rgb_to_hsv(x)
        change(hsv)
        return colors.hsv_to_rgb(hsv)

    def saturate(hsv: np.ndarray) -> None:
        hsv[..., 1] = np.clip(hsv[..., 1] * params["saturation"], 0, 1)

    def turn(hsv: np.ndarray) -> None:
        hsv[..., 0] = (hsv[..., 0] + params["hue"]) % 1

    def contrast(x: np.ndarray) -> np.ndarray:
        mean = x.mean(axis=(0, 1, 2))
        return params["contrast"] * x + (1 - params["contrast"]) * mean

    steps = (
        lambda x: params["brightness"] * x,
        contrast,
        lambda x: in_hsv(x, saturate),
        lambda x: in_hsv(x, turn),
    )
    x = frames.astype(np.float64)
    for number in params["order"]:
        x = np.clip(steps[number](x), 0, 1)
    return x


# Formulas


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_each_jitter_is_its_formula(operation: str, sign: int) -> None:
    frames = clip_of(0)
    change = 0.17 if operation == "hue" else 0.6
    params = {**NO_JITTER, "order": [0, 1, 2, 3]}
    params[operation] += sign * change
    changed = ColorJitter().apply(tf.constant(frames), tensors(params)).numpy()
    np.testing.assert_allclose(changed, numpy_jitter(frames, params), atol=5e-6)
    assert np.abs(changed - frames).max() > 0.1


def test_jitter_in_every_order() -> None:
    frames = clip_of(1)
    apply = tf.function(ColorJitter().apply)
    factors = {"apply": True, "brightness": 1.5, "contrast": 1.7, "saturation": 0.4, "hue": -0.1}
    results = []
    for order in ORDERS:
        params = {**factors, "order": order}
        results.append(apply(tf.constant(frames), tensors(params)).numpy())
        np.testing.assert_allclose(results[-1], numpy_jitter(frames, params), atol=1e-5)
    # Most orders differ because of the clipping.
    assert len({result.round(3).tobytes() for result in results}) > 12


def test_contrast_takes_the_mean_of_the_clip() -> None:
    values = np.array([0.2, 0.4], np.float32)
    frames = np.broadcast_to(values[:, None, None, None], (2, 8, 8, 3))
    params = {**NO_JITTER, "contrast": 0.5, "order": [0, 1, 2, 3]}
    changed = ColorJitter().apply(tf.constant(frames), tensors(params)).numpy()
    # With the mean of each frame, nothing would change.
    np.testing.assert_allclose(changed[:, 0, 0, 0], [0.25, 0.35], atol=1e-6)


def test_grayscale_is_the_luma() -> None:
    frames = clip_of(2)
    gray = Grayscale().apply(tf.constant(frames), tensors({"apply": True})).numpy()
    luma = frames @ np.array([0.2989, 0.5870, 0.1140])  # ITU-R BT.601
    np.testing.assert_allclose(gray, np.repeat(luma[..., None], 3, axis=-1), atol=1e-6)


@pytest.mark.parametrize(("height", "side"), [(224, 23), (112, 11)])
@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_a_gaussian(height: int, side: int, sigma: float) -> None:
    frames = clip_of(3, (2, height, height, 3))
    params = tensors({"apply": True, "sigma": sigma})
    blurred = GaussianBlur().apply(tf.constant(frames), params).numpy()
    offsets = np.arange(side) - side // 2
    taps = np.exp(-(offsets**2) / (2 * sigma**2))
    wanted = frames.astype(np.float64)
    for axis in (1, 2):
        wanted = scipy.ndimage.correlate1d(wanted, taps / taps.sum(), axis, mode="constant")
    # The outer 10 of 23 taps are left out, which matters for a large sigma.
    left_out = side > 13 and sigma > 1
    np.testing.assert_allclose(blurred, wanted, atol=LEFT_OUT if left_out else 2e-6)


@pytest.mark.parametrize("inside", [0.0, 1.0])
def test_the_taps_left_out_matter_most_for_an_edge_around_the_others(inside: float) -> None:
    """The bound is reached: 0.00205 of a Gaussian of sigma 2 is outside of 13x13 pixels."""
    frames = np.full((1, 224, 224, 3), 1 - inside, np.float32)
    frames[:, 106:119, 106:119] = inside
    blurred = GaussianBlur().apply(tf.constant(frames), tensors({"apply": True, "sigma": 2.0}))
    taps = scipy.signal.windows.gaussian(23, 2.0)
    wanted = frames.astype(np.float64)
    for axis in (1, 2):
        wanted = scipy.ndimage.correlate1d(wanted, taps / taps.sum(), axis, mode="constant")
    largest = np.abs(blurred.numpy() - wanted).max()
    assert 0.5219 / 255 < largest < LEFT_OUT


@pytest.mark.parametrize(("height", "side"), [(224, 13), (112, 11)])
def test_blur_reaches_as_far_as_its_kernel(height: int, side: int) -> None:
    frames = np.zeros((1, height, height, 3), np.float32)
    frames[0, height // 2, height // 2] = 1
    params = tensors({"apply": True, "sigma": 2.0})
    blurred = GaussianBlur().apply(tf.constant(frames), params).numpy()
    rows, columns = np.nonzero(blurred[0, ..., 0])
    for reached in (rows, columns):
        assert reached.max() - reached.min() + 1 == side
        assert reached.max() + reached.min() == 2 * (height // 2)


def test_solarize_inverts_what_is_bright() -> None:
    values = np.array([0, 0.25, 0.499, 0.5, 0.75, 1], np.float32)
    frames = tf.reshape(tf.repeat(values, 3), [1, 2, 3, 3])
    changed = Solarize().apply(frames, tensors({"apply": True})).numpy()
    wanted = [0, 0.25, 0.499, 0.5, 0.25, 0]
    np.testing.assert_allclose(changed[..., 0].ravel(), wanted, atol=1e-7)
    # 0.5 is its own inverse, so the threshold itself is tested with another one.
    higher = Solarize(threshold=0.75).apply(frames, tensors({"apply": True})).numpy()
    np.testing.assert_allclose(higher[..., 0].ravel(), [0, 0.25, 0.499, 0.5, 0.25, 0], atol=1e-7)


@pytest.mark.parametrize("augmentation", ALL_ALWAYS, ids=lambda a: type(a).__name__)
def test_not_applied_is_the_clip_itself(augmentation: Augmentation) -> None:
    frames = tf.constant(clip_of(4))
    params = {**augmentation.sample(seeds_of(1)[0]), "apply": tf.constant(False)}
    np.testing.assert_array_equal(augmentation.apply(frames, params), frames)


# The authors' code in the Model Garden


class Recorder:
    """Record what the Model Garden draws."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.uniform: list[float] = []
        self.order: list[int] = []
        draw, shuffle = tf.random.uniform, tf.random.shuffle

        def recorded_uniform(*args: object, **kwargs: object) -> tf.Tensor:
            value = draw(*args, **kwargs)
            self.uniform.append(float(tf.squeeze(value)))
            return value

        def recorded_shuffle(*args: object, **kwargs: object) -> tf.Tensor:
            value = shuffle(*args, **kwargs)
            self.order = value.numpy().tolist()
            return value

        monkeypatch.setattr(tf.random, "uniform", recorded_uniform)
        monkeypatch.setattr(tf.random, "shuffle", recorded_shuffle)
        # tf.image.random_contrast, random_saturation and random_hue call this one.
        monkeypatch.setattr(random_ops, "random_uniform", recorded_uniform)

    def restart(self, seed: int) -> None:
        self.uniform, self.order = [], []
        tf.random.set_seed(seed)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


def test_colors_as_the_authors(recorder: Recorder) -> None:
    branches = set()
    for seed in range(24):
        frames = tf.constant(clip_of(seed))
        recorder.restart(seed)
        theirs = garden.random_color_jitter_3d(frames)
        _, jitter_draw, *factors, gray_draw = recorder.uniform
        params = {"apply": jitter_draw < ColorJitter().probability, "order": recorder.order}
        if params["apply"]:
            drawn = zip(recorder.order, factors, strict=True)
            params |= {OPERATIONS[number]: factor for number, factor in drawn}
        else:
            params |= {**NO_JITTER, "apply": False, "order": ORDERS[0]}
        gray = gray_draw < Grayscale().probability
        ours = ColorJitter().apply(frames, tensors(params))
        ours = Grayscale().apply(ours, tensors({"apply": gray}))
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=str(params))
        branches.add((params["apply"], gray))
    assert len(branches) == 4


@pytest.mark.parametrize("size", [224, 112])
def test_blur_as_the_authors(recorder: Recorder, size: int) -> None:
    branches = set()
    frames = tf.constant(clip_of(5, (2, size, size, 3)))
    for seed in range(6):
        recorder.restart(seed)
        theirs = garden.random_blur_3d(frames, size, size)
        _, sigma, blur_draw = recorder.uniform
        apply = blur_draw < GaussianBlur().probability
        ours = GaussianBlur().apply(frames, tensors({"apply": apply, "sigma": sigma}))
        np.testing.assert_allclose(ours, theirs, atol=LEFT_OUT if size > 130 else 1e-5)
        branches.add(apply)
    assert branches == {True, False}


def test_solarize_as_the_authors(recorder: Recorder) -> None:
    branches = set()
    frames = tf.constant(clip_of(6))
    for seed in range(12):
        recorder.restart(seed)
        theirs = garden.random_solarization(frames)
        (draw,) = recorder.uniform
        apply = draw < Solarize().probability
        ours = Solarize().apply(frames, tensors({"apply": apply}))
        np.testing.assert_allclose(ours, theirs, atol=1e-7)
        branches.add(apply)
    assert branches == {True, False}


# Distributions. The seeds are fixed, so these tests are deterministic.


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    assert values.min() >= low and values.max() <= high
    assert scipy.stats.kstest(values, "uniform", (low, high - low)).pvalue > 0.01


def assert_share(events: np.ndarray, probability: float) -> None:
    assert scipy.stats.binomtest(int(events.sum()), events.size, probability).pvalue > 0.01


def test_distribution_of_jitter() -> None:
    drawn = samples(ColorJitter(), 10_000)
    for name in ("brightness", "contrast", "saturation"):
        assert_uniform(drawn[name], 0.2, 1.8)
    assert_uniform(drawn["hue"], -0.2, 0.2)
    assert_share(drawn["apply"], 0.8)
    _, counts = np.unique(drawn["order"], axis=0, return_counts=True)
    assert len(counts) == 24
    assert scipy.stats.chisquare(counts).pvalue > 0.01
    columns = [drawn[name] for name in (*OPERATIONS, "apply")] + list(drawn["order"].T[:3])
    correlations = np.corrcoef(np.stack(columns).astype(np.float64))
    # Positions in a permutation of 4 correlate by -1/3. Everything else is independent.
    wanted = np.eye(8)
    wanted[5:, 5:] = np.where(np.eye(3), 1, -1 / 3)
    np.testing.assert_allclose(correlations, wanted, atol=0.05)


def test_distribution_of_other_strengths() -> None:
    jitter = ColorJitter(brightness=1.5, contrast=0.4, saturation=0.1, hue=0.05, probability=0.3)
    drawn = samples(jitter, 2000)
    assert_uniform(drawn["brightness"], 0.0, 2.5)  # a factor is never negative
    assert_uniform(drawn["contrast"], 0.6, 1.4)
    assert_uniform(drawn["saturation"], 0.9, 1.1)
    assert_uniform(drawn["hue"], -0.05, 0.05)
    assert_share(drawn["apply"], 0.3)


def test_distribution_of_blur() -> None:
    drawn = samples(GaussianBlur(), 10_000)
    assert_uniform(drawn["sigma"], 0.1, 2.0)
    assert_share(drawn["apply"], 0.5)
    assert abs(np.corrcoef(drawn["sigma"], drawn["apply"])[0, 1]) < 0.05
    assert_uniform(samples(GaussianBlur(sigma=(1.0, 1.5)), 1000)["sigma"], 1.0, 1.5)


@pytest.mark.parametrize("augmentation", [Grayscale, Solarize, GaussianBlur, ColorJitter])
@pytest.mark.parametrize("probability", [0.0, 0.1, 0.2, 1.0])
def test_probability(augmentation: type, probability: float) -> None:
    assert_share(samples(augmentation(probability=probability), 2000)["apply"], probability)


def test_augmentations_of_a_chain_draw_independently() -> None:
    chain = Chain([Grayscale(probability=0.5), Solarize(probability=0.5, threshold=0.0)])
    frames = np.broadcast_to(np.array([200, 20, 20], np.uint8), (2000, 1, 1, 1, 3))
    color = tf.function(chain)(tf.constant(frames), seeds_of(2000)).numpy().reshape(-1, 3)
    gray = np.ptp(color, axis=1) < 1e-6
    inverted = np.where(gray, color[:, 0] > 0.5, color[:, 1] > 0.5)
    table = np.histogram2d(gray, inverted, bins=2)[0]
    assert scipy.stats.chisquare(table.ravel()).pvalue > 0.01


# Chains


def still_clips(count: int) -> np.ndarray:
    """Draw clips uint8 [N, 4, 20, 24, 3], each of one repeated frame."""
    frames = np.random.default_rng(0).integers(0, 256, (count, 1, 20, 24, 3), np.uint8)
    return np.repeat(frames, 4, axis=1)


def test_a_still_clip_stays_still() -> None:
    augmented = tf.function(Chain(ALL_ALWAYS))(still_clips(32), seeds_of(32)).numpy()
    np.testing.assert_allclose(augmented, np.repeat(augmented[:, :1], 4, axis=1), atol=1e-6)
    assert np.all(np.abs(augmented[:, 0] - still_clips(32)[:, 0] / 255).max(axis=(1, 2, 3)) > 0.05)


def test_per_frame_a_still_clip_moves() -> None:
    chain = Chain(ALL_ALWAYS, per_frame=True)
    frames = still_clips(8)
    augmented = tf.function(chain)(frames, seeds_of(8)).numpy()
    assert augmented.shape == frames.shape
    for one, other in itertools.combinations(range(4), 2):
        difference = np.abs(augmented[:, one] - augmented[:, other])
        assert np.all(difference.max(axis=(1, 2, 3)) > 0.02)
    # Frames keep their place and their clip.
    places = Chain([Solarize(probability=0.0)], per_frame=True)
    noise = np.random.default_rng(1).integers(0, 256, (3, 4, 5, 6, 3), np.uint8)
    np.testing.assert_allclose(places(noise, seeds_of(3)), noise / 255, atol=1e-6)


@hypothesis.settings(max_examples=15, deadline=None, derandomize=True)
@hypothesis.given(
    content=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(2, 20, 24), (3, 20, 20)]),  # few shapes, since each is compiled
    seed=st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1)),
)
def test_any_still_clip_stays_still(
    content: int, shape: tuple[int, int, int], seed: tuple[int, int]
) -> None:
    every = (
        ColorJitter(probability=1.0),
        Grayscale(probability=1.0),
        GaussianBlur(probability=1.0),
        Solarize(probability=1.0),
    )
    num_frames, *size = shape
    frame = np.random.default_rng(content).integers(0, 256, (1, 1, *size, 3), np.uint8)
    frames = tf.constant(np.repeat(frame, num_frames, axis=1))
    for per_frame in (False, True):
        (clip,) = Chain(every, per_frame)(frames, tf.constant([seed])).numpy()
        assert (np.abs(clip - clip[0]).max() > 1e-5) == per_frame


def test_a_seed_is_a_draw() -> None:
    frames = np.repeat(still_clips(1), 3, axis=0)
    one, other = tf.unstack(seeds_of(2))
    augmented = Chain(ALL_ALWAYS)(frames, tf.stack([one, other, one])).numpy()
    np.testing.assert_array_equal(augmented[0], augmented[2])
    assert np.abs(augmented[0] - augmented[1]).max() > 0.05


@pytest.mark.parametrize("per_frame", [False, True])
def test_the_same_pixels_everywhere(per_frame: bool) -> None:
    """Pixels are equal eagerly, in a graph, in a data set, and compiled by XLA."""
    chain = Chain(ALL_ALWAYS, per_frame)
    frames = tf.random.stateless_uniform([6, 3, 20, 24, 3], [0, 0], 0, 256, tf.int32)
    frames, seeds = tf.cast(frames, tf.uint8), seeds_of(6)
    eager = chain(frames, seeds).numpy()
    np.testing.assert_allclose(tf.function(chain)(frames, seeds), eager, atol=1e-6)
    clips = tf.data.Dataset.from_tensor_slices((frames, seeds)).batch(2, drop_remainder=True)
    mapped = np.concatenate(list(clips.map(chain).as_numpy_iterator()))
    np.testing.assert_allclose(mapped, eager, atol=1e-6)
    compiled = tf.function(chain, jit_compile=True)(frames, seeds)
    np.testing.assert_allclose(compiled, eager, atol=1e-5)


@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("augmentations", [(), ALL_ALWAYS])
def test_range(augmentations: tuple, per_frame: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 2, 20, 24, 3), np.uint8)
    white, black = np.full_like(noise, 255), np.zeros_like(noise)
    for frames in (noise, white, black):
        augmented = tf.function(Chain(augmentations, per_frame))(frames, seeds_of(16)).numpy()
        assert augmented.dtype == np.float32 and augmented.shape == frames.shape
        assert augmented.min() >= 0 and augmented.max() <= 1


def test_no_augmentation_only_scales() -> None:
    frames = np.arange(256, dtype=np.uint8)[:192].reshape(1, 1, 8, 8, 3)
    np.testing.assert_allclose(Chain()(frames, seeds_of(1)), frames / 255, atol=1e-7)


def views_of_known_values() -> tuple[np.ndarray, tf.Tensor]:
    """Return views uint8 [3, 2, 2, 4, 4, 3] of 40 b + 10 v in view v of example b, and seeds."""
    values = 40 * np.arange(3)[:, None] + 10 * np.arange(2)
    frames = np.broadcast_to(values[:, :, None, None, None, None], (3, 2, 2, 4, 4, 3))
    return frames.astype(np.uint8), tf.reshape(seeds_of(6), [3, 2, 2])


def test_views_of_an_example_stand_side_by_side() -> None:
    frames, seeds = views_of_known_values()
    augmented = ViewChains([Chain()])(frames, seeds).numpy()
    assert augmented.shape == (6, 2, 4, 4, 3)
    wanted = np.array([0, 10, 40, 50, 80, 90]) / 255
    np.testing.assert_allclose(augmented[:, 0, 0, 0, 0], wanted, atol=1e-7)


def test_each_view_has_its_chain_and_its_seed() -> None:
    frames, seeds = views_of_known_values()
    invert = Chain([Solarize(probability=1.0, threshold=0.0)])
    augmented = ViewChains([Chain(), invert])(frames, seeds).numpy()
    wanted = np.array([0, 245, 40, 205, 80, 165]) / 255
    np.testing.assert_allclose(augmented[:, 0, 0, 0, 0], wanted, atol=1e-7)

    jitter = Chain(ALL_ALWAYS)
    noise = np.random.default_rng(0).integers(0, 256, (3, 2, 2, 20, 24, 3), np.uint8)
    noise[:, 1] = noise[:, 0]
    augmented = ViewChains([jitter])(noise, seeds).numpy().reshape(noise.shape)
    assert np.all(np.abs(augmented[:, 0] - augmented[:, 1]).max(axis=(1, 2, 3, 4)) > 0.02)
    for view in range(2):
        alone = jitter(noise[:, view], seeds[:, view])  # without XLA
        np.testing.assert_allclose(augmented[:, view], alone, atol=2e-6)


@pytest.mark.parametrize("count", [0, 3])
def test_a_wrong_number_of_chains_is_refused(count: int) -> None:
    frames, seeds = views_of_known_values()
    with pytest.raises(ValueError, match=f"{count} augmentation chains for 2 views"):
        ViewChains([Chain()] * count)(frames, seeds)
