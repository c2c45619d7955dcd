"""Views: right frames, right pixels, and one draw a clip."""

from collections.abc import Callable

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from conftest import noise_video, ramp_video
from hypothesis import strategies as st
from official.vision.ops import preprocess_ops_3d as garden
from scipy import stats

from cvrl_tf.data import views

pytestmark = pytest.mark.addons


def jpegs(video: np.ndarray) -> tf.Tensor:
    return tf.stack([tf.io.encode_jpeg(frame, quality=95) for frame in video])


def seeds(count: int, salt: int = 0) -> tf.Tensor:
    return tf.constant([[salt, i] for i in range(count)], tf.int32)


def test_ramp_tells_which_frames_were_taken() -> None:
    frames = jpegs(ramp_video(60, 48, 64))
    indices = tf.constant([[0, 2, 4, 59], [7, 30, 31, 5]])
    got = views.extract(tf.gather(frames, indices), views.RandomResizedCrop(24), seeds(2))
    assert got.shape == (2, 4, 24, 24, 3) and got.dtype == tf.uint8
    values = got.numpy().astype(int)
    assert np.ptp(values, axis=(2, 3, 4)).max() <= 1
    np.testing.assert_allclose(values.mean(axis=(2, 3, 4)) / 4, indices, atol=0.3)


@pytest.mark.parametrize(("resize", "atol"), [(views.by_tensorflow, 0.501), (views.by_opencv, 1)])
def test_window_of_the_crop_is_what_the_view_shows(
    resize: Callable[..., tf.Tensor], atol: float
) -> None:
    video = noise_video(3, 48, 64, seed=0)
    frames, crop = jpegs(video), views.RandomResizedCrop(24)
    for salt in range(6):
        chosen = tf.gather(frames, tf.constant([[0, 1, 2]]))
        (got,) = views.extract(chosen, crop, seeds(1, salt), resize)
        window, flip = crop(tf.constant([48, 64]), seeds(1, salt)[0])
        top, left, height, width = window[0].numpy()
        for index in range(3):
            whole = tf.io.decode_jpeg(frames[index])
            cut = whole[top : top + height, left : left + width]
            expected = tf.image.resize(cut, [24, 24]).numpy()
            if flip[0]:
                expected = expected[:, ::-1]
            # A decoder that starts at the window has no neighbor to interpolate color from at
            # its left and right edge, so those two columns differ a little.
            np.testing.assert_allclose(got[index, :, 1:-1], expected[:, 1:-1], atol=atol)
            np.testing.assert_allclose(got[index], expected, atol=25)


@pytest.mark.parametrize("per_frame", [False, True])
def test_opencv_resizes_as_tensorflow(per_frame: bool) -> None:
    """At most 1 of 255 apart, in few pixels, at the size of the records that we make."""
    frames = tf.reshape(jpegs(noise_video(8, 256, 340, seed=3)), [2, 4])
    crop = views.RandomResizedCrop(112, per_frame=per_frame)
    for salt in range(3):
        exact = views.extract(frames, crop, seeds(2, salt)).numpy().astype(int)
        fast = views.extract(frames, crop, seeds(2, salt), views.by_opencv).numpy()
        assert fast.dtype == np.uint8
        difference = np.abs(fast - exact)
        assert difference.max() <= 1 and difference.mean() < 0.25


def test_crop_and_flip_as_the_authors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their ops on whole frames, given the window and the flip that ours drew."""
    frames, crop = jpegs(noise_video(2, 48, 64, seed=2)), views.RandomResizedCrop(24)
    flips = set()
    for salt in range(8):
        ours = views.extract(tf.gather(frames, tf.constant([[0, 1]])), crop, seeds(1, salt))[0]
        windows, flip = crop(tf.constant([48, 64]), seeds(1, salt)[0])
        begin, extent = (tf.concat([part, [0]], axis=0) for part in tf.split(windows[0], 2))
        drawn = begin, extent, None
        monkeypatch.setattr(
            tf.image, "sample_distorted_bounding_box", lambda *_, drawn=drawn, **__: drawn
        )
        monkeypatch.setattr(
            tf.random, "uniform", lambda *_, flip=flip, **__: tf.cast(flip[0], tf.int32)
        )
        whole = garden.decode_jpeg(frames, 3)
        theirs = garden.random_crop_resize(whole, 24, 24, 2, 3, crop.aspect, crop.area)
        theirs = garden.random_flip_left_right(theirs)
        assert theirs.dtype == ours.dtype == tf.uint8
        # They cut off fractions where ours rounds. About the outer columns, see above.
        difference = np.abs(ours.numpy().astype(int) - theirs.numpy())
        assert difference[:, :, 1:-1].max() <= 1
        flips.add(bool(flip[0]))
    assert flips == {False, True}


@pytest.mark.parametrize("per_frame", [False, True])
def test_temporal_consistency(per_frame: bool) -> None:
    """One frame repeated stays one frame repeated, unless crops are drawn for every frame."""
    frames = jpegs(noise_video(1, 48, 64, seed=1))
    crop = views.RandomResizedCrop(24, per_frame=per_frame)
    got = views.extract(tf.gather(frames, tf.zeros([2, 6], tf.int32)), crop, seeds(2)).numpy()
    alike = np.all(got == got[:, :1], axis=(2, 3, 4))
    assert alike.all() != per_frame
    assert np.any(got[0, 0] != got[1, 0])  # the two views are drawn on their own
    if per_frame:
        assert not alike[:, 1:].any()


@pytest.mark.parametrize("per_frame", [False, True])
def test_one_crop_for_all_clips_of_a_video(per_frame: bool) -> None:
    """That of the first clip; frame by frame where each frame has its own."""
    frames = tf.gather(jpegs(noise_video(1, 48, 64, seed=1)), tf.zeros([3, 4], tf.int32))
    crop = views.RandomResizedCrop(24, per_frame=per_frame, per_video=True)
    got = views.extract(frames, crop, seeds(3)).numpy()
    np.testing.assert_array_equal(got, np.broadcast_to(got[:1], got.shape))
    apart = views.extract(frames, views.RandomResizedCrop(24, per_frame=per_frame), seeds(3))
    np.testing.assert_array_equal(got[0], apart[0])
    assert np.any(got[1] != apart[1])


@hypothesis.settings(max_examples=30, deadline=None, derandomize=True)
@hypothesis.given(
    content=st.integers(0, 2**32 - 1),
    height=st.integers(24, 60),
    width=st.integers(24, 60),
    num_frames=st.integers(4, 8),
    seed=st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1)),
)
def test_any_still_clip_stays_still(
    content: int, height: int, width: int, num_frames: int, seed: tuple[int, int]
) -> None:
    rng = np.random.default_rng(content)
    frames = jpegs(rng.integers(0, 256, (1, height, width, 3), np.uint8))
    indices = tf.zeros([1, num_frames], tf.int32)
    for per_frame in (False, True):
        crop = views.RandomResizedCrop(16, per_frame=per_frame)
        (clip,) = views.extract(tf.gather(frames, indices), crop, tf.constant([seed])).numpy()
        assert np.any(clip != clip[0]) == per_frame


def crops() -> list[views.Crop]:
    return [
        views.RandomResizedCrop(24),
        views.RandomResizedCrop(24, per_frame=True),
        views.EvenCrops(24, 32, 3),
    ]


@pytest.mark.parametrize("crop", crops(), ids=["random", "random_per_frame", "even"])
def test_same_bytes_eagerly_and_mapped(crop: views.Crop) -> None:
    frames, indices = jpegs(noise_video(4, 48, 64, seed=3)), tf.constant([[0, 2], [3, 1]])
    several = tf.stack([seeds(2, salt) for salt in range(6)])
    data = tf.data.Dataset.from_tensor_slices(several)
    mapped = data.map(
        lambda s: views.extract(tf.gather(frames, indices), crop, s), num_parallel_calls=4
    )
    for ours, each in zip(mapped, several, strict=True):
        np.testing.assert_array_equal(ours, views.extract(tf.gather(frames, indices), crop, each))


def test_windows_have_the_distribution_of_the_authors() -> None:
    crop, count, size = views.RandomResizedCrop(24), 10_000, (256, 340)
    ours = tf.data.Dataset.from_tensor_slices(seeds(count)).map(lambda s: crop(size, s)[0][0, 2:])
    # Pixels that tell where they are. Of their two rows, the first is taken from a quarter of the
    # window and the second from three quarters, so they are half its height apart; columns alike.
    places = tf.cast(tf.stack(tf.meshgrid(*map(tf.range, size), indexing="ij"), -1), tf.float32)

    def window(_: tf.Tensor) -> tf.Tensor:
        pixels = garden.random_crop_resize(
            places[tf.newaxis], 2, 2, 1, 2, aspect_ratio=(0.5, 2), area_range=(0.3, 1)
        )[0]
        return 2 * (pixels[1, 1] - pixels[0, 0])

    tf.random.set_seed(0)
    theirs = tf.data.Dataset.range(count).map(window)  # in turn, so their seed settles the draws
    drawn = [next(data.batch(count).as_numpy_iterator()).T for data in (ours, theirs)]
    area, aspect = zip(*[(height * width, width / height) for height, width in drawn], strict=True)
    assert stats.ks_2samp(*area).pvalue > 1e-3
    assert stats.ks_2samp(*aspect).pvalue > 1e-3


def test_crops_have_the_stated_area_aspect_and_flips() -> None:
    crop = views.RandomResizedCrop(24, area=(0.3, 1.0), aspect=(0.5, 2.0))
    size = tf.constant([256, 340])
    data = tf.data.Dataset.from_tensor_slices(seeds(2000)).map(lambda seed: crop(size, seed))
    windows, flips = next(iter(data.batch(2000)))
    top, left, height, width = windows[:, 0].numpy().T
    assert (top >= 0).all() and (top + height <= 256).all()
    assert (left >= 0).all() and (left + width <= 340).all()
    area, aspect = height * width / (256 * 340), width / height
    assert 0.29 < area.min() < 0.32 and 0.9 < area.max() <= 1.0
    assert 0.49 < aspect.min() < 0.6 and 1.7 < aspect.max() < 2.02
    assert abs(flips.numpy().mean() - 0.5) < 0.05


@pytest.mark.parametrize("transpose", [False, True])
def test_three_crops_cover_the_long_side(transpose: bool) -> None:
    size = tf.constant([340, 256] if transpose else [256, 340])
    windows, flips = views.EvenCrops(256, 256, num_crops=3)(size, seeds(1)[0])
    expected = np.array([[0, 0, 256, 256], [0, 42, 256, 256], [0, 84, 256, 256]])
    np.testing.assert_array_equal(windows, expected[:, [1, 0, 2, 3]] if transpose else expected)
    assert not flips.numpy().any()


def test_center_crop_of_a_scaled_frame() -> None:
    windows, _ = views.EvenCrops(224, 256, num_crops=1)(tf.constant([256, 340]), seeds(1)[0])
    np.testing.assert_array_equal(windows, [[16, 58, 224, 224]])


def test_crops_of_a_clip_stand_side_by_side() -> None:
    frames = jpegs(ramp_video(40, 48, 64))
    indices = tf.constant([[0, 10], [20, 30]])
    got = views.extract(tf.gather(frames, indices), views.EvenCrops(48, 48, 3), seeds(2)).numpy()
    assert got.shape == (6, 2, 48, 48, 3)
    times = np.round(got.mean(axis=(2, 3, 4)) / 4)
    np.testing.assert_array_equal(times, [[0, 10]] * 3 + [[20, 30]] * 3)
