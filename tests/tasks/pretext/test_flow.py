"""Optical flow: known translations, what stands still, what moves, and XLA."""

import authors_statistics
import numpy as np
import pytest
import tensorflow as tf

from cvrl_tf.tasks.pretext.flow import optical_flow


def translated(u: float, v: float, size: int, num_frames: int = 3) -> np.ndarray:
    """A texture of waves that moves by (u, v) pixels a frame: uint8 [1, T, S, S, 3]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    waves = rng.normal(scale=0.35, size=(12, 2))
    phases = rng.uniform(0, 2 * np.pi, (12, 3))
    frames = [
        sum(
            np.cos(((x - t * u) * a + (y - t * v) * b)[..., np.newaxis] + phase)
            for (a, b), phase in zip(waves, phases, strict=True)
        )
        for t in range(num_frames)
    ]
    return np.clip(128 + 25 * np.stack(frames), 0, 255).round().astype(np.uint8)[np.newaxis]


@pytest.mark.parametrize(("u", "v"), [(0.4, -0.7), (-1.0, 0.0), (2.3, 1.6), (-3.5, 2.0)])
def test_flow_of_a_translation(u: float, v: float) -> None:
    """To a tenth of a pixel, but for a border from where pixels leave the frame."""
    flow = optical_flow(tf.constant(translated(u, v, 40))).numpy()
    assert flow.shape == (2, 1, 2, 40, 40)
    inner = flow[:, 0, :, 6:-6, 6:-6]
    errors = np.hypot(inner[0] - u, inner[1] - v)
    assert errors.mean() < 0.1
    np.testing.assert_allclose(np.median(inner, axis=(1, 2, 3)), [u, v], atol=0.05)


def test_still_frames_do_not_flow() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1, 1, 40, 40, 3), np.uint8)
    np.testing.assert_array_equal(optical_flow(tf.constant(np.repeat(frame, 3, axis=1))), 0)


def test_only_what_moves_flows() -> None:
    rng = np.random.default_rng(0)
    still, square = (authors_statistics.texture(rng, 40, 40) for _ in range(2))
    frames = [still.copy() for _ in range(3)]
    for t, frame in enumerate(frames):
        frame[10:26, 6 + 2 * t : 22 + 2 * t] = square[:16, :16]
    flow = optical_flow(tf.constant(np.round(frames)[np.newaxis], tf.uint8)).numpy()[:, 0, 0]
    np.testing.assert_allclose(flow[:, 13:23, 9:19].mean(axis=(1, 2)), [2, 0], atol=0.15)
    outside = np.ones([40, 40], bool)
    outside[7:29, 3:27] = False
    assert np.abs(flow[:, outside]).mean() < 0.05


def test_odd_sides() -> None:
    flow = optical_flow(tf.constant(translated(1.0, 0.5, 45))).numpy()
    np.testing.assert_allclose(np.median(flow, axis=(1, 2, 3, 4)), [1.0, 0.5], atol=0.05)


def test_xla_changes_nothing() -> None:
    frames = tf.constant(translated(1.3, -0.6, 40))
    plain = tf.function(optical_flow.python_function, autograph=False)(frames)
    np.testing.assert_allclose(optical_flow(frames), plain, atol=1e-3)
