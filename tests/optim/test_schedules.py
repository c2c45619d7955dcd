"""The schedule, against a transcription, and that LARS takes it."""

import math

import numpy as np
import pytest
import tf_keras as keras
from official.modeling.optimization import lars

from cvrl_tf.optim.schedules import constant, warmup_cosine

Schedule = keras.optimizers.schedules.LearningRateSchedule

STEPS_PER_EPOCH, EPOCHS = 10, 40
TOTAL = STEPS_PER_EPOCH * EPOCHS


def schedule(warmup_epochs: int, global_batch: int = 1024) -> Schedule:
    return warmup_cosine(
        STEPS_PER_EPOCH, EPOCHS, global_batch, 0.32, base_batch=1024, warmup_epochs=warmup_epochs
    )


def transcription(step: int, warmup_epochs: int, base: float) -> float:
    """Cosine over all steps; the warm-up climbs linearly to where the cosine is at its end."""

    def cosine(at: int) -> float:
        return base * 0.5 * (1 + math.cos(math.pi * min(at, TOTAL) / TOTAL))

    warmup = warmup_epochs * STEPS_PER_EPOCH
    return cosine(warmup) * step / warmup if step < warmup else cosine(step)


@pytest.mark.parametrize("warmup_epochs", [0, 1, 5])
@pytest.mark.parametrize("global_batch", [1024, 256, 8])
def test_values(warmup_epochs: int, global_batch: int) -> None:
    rate = schedule(warmup_epochs, global_batch)
    base = 0.32 * global_batch / 1024
    for step in (0, 1, 5, 9, 10, 25, 49, 50, 51, 200, 399, 400, 450):
        wanted = transcription(step, warmup_epochs, base)
        np.testing.assert_allclose(float(rate(step)), wanted, rtol=1e-5, atol=1e-7 * base)


def test_landmarks() -> None:
    rate = schedule(warmup_epochs=5)
    assert float(rate(0)) == 0
    # At the end of the warm-up the cosine has gone 50 of 400 steps.
    assert float(rate(50)) == pytest.approx(0.32 * 0.9619398, rel=1e-6)
    assert float(rate(25)) == pytest.approx(float(rate(50)) / 2)
    assert float(rate(200)) == pytest.approx(0.16)
    assert float(rate(TOTAL)) == pytest.approx(0, abs=1e-7)
    assert max(float(rate(step)) for step in range(TOTAL)) == float(rate(50))
    without = schedule(warmup_epochs=0)
    assert float(without(0)) == pytest.approx(0.32)
    assert float(without(200)) == pytest.approx(0.16)


def test_lars_takes_the_schedule() -> None:
    optimizer = lars.LARS(schedule(warmup_epochs=5), momentum=0.9)
    kernel = keras.backend.variable([[3.0, 4.0]], name="kernel")
    gradient = keras.backend.constant([[0.6, 0.8]])
    optimizer.apply_gradients([(gradient, kernel)])
    np.testing.assert_array_equal(kernel, [[3, 4]])  # the warm-up begins at 0
    optimizer.apply_gradients([(gradient, kernel)])
    # Local rate eeta |w| / |g| = 0.001 * 5 / 1, and the first step left no momentum.
    moved = float(optimizer.learning_rate(1)) * 0.005 * np.array([[0.6, 0.8]])
    assert moved.max() > 0
    np.testing.assert_allclose(kernel, [[3, 4]] - moved, rtol=1e-6)
    assert int(optimizer.iterations) == 2


def test_a_constant_rate_is_scaled_to_the_batch() -> None:
    assert constant(10, 40, global_batch=32, learning_rate=1e-3, base_batch=8) == 4e-3
