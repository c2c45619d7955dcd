"""Times of frames whose time stamps are missing or wrong."""

import pytest

from cvrl_tf.preparation.clock import Clock

NAN, INF = float("nan"), float("inf")
HOUR = 3600.0


def times(
    stamps: list[float | None], duration: float = 0.04, may_restart: bool = False
) -> tuple[list[float], int]:
    clock = Clock(0.0, duration, may_restart)
    return [round(clock.time(stamp, 0.0), 6) for stamp in stamps], clock.mended


@pytest.mark.parametrize(
    ("stamps", "expected", "mended"),
    [
        ([1.0, 1.5, 1.6, 4.0], [1.0, 1.5, 1.6, 4.0], 0),
        ([0.0, 600.0], [0.0, 600.0], 0),  # a screen on which nothing happens
        ([None, None, None], [0.0, 0.04, 0.08], 3),
        ([0.0, None, 0.08], [0.0, 0.04, 0.08], 1),
        ([0.0, 0.0, 0.0, 0.0], [0.0, 0.04, 0.08, 0.12], 3),
        ([2.0, 2.1, 0.0, 2.3], [2.0, 2.1, 2.14, 2.3], 1),
        ([0.0, 0.04, 0.08, 0.0, 0.04, 0.08], [0.0, 0.04, 0.08, 0.12, 0.16, 0.2], 1),
        ([0.0, NAN, 0.1, 0.2], [0.0, 0.04, 0.1, 0.2], 1),
        ([NAN, INF], [0.0, 0.04], 2),
        ([0.0, 1e18, 0.08], [0.0, 0.04, 0.08], 1),
    ],
)
def test_stamps_that_can_not_be_true_are_mended(
    stamps: list[float | None], expected: list[float], mended: int
) -> None:
    assert times(stamps) == (expected, mended)


def test_a_jump_is_mended_where_recordings_may_be_joined() -> None:
    stamps: list[float | None] = [0.0, 0.04, HOUR, HOUR + 0.04]
    assert times(stamps, may_restart=True) == ([0.0, 0.04, 0.08, 0.12], 1)
    assert times(stamps) == (stamps, 0)
    slow: list[float | None] = [0.0, 10.0, 20.0]  # 0.1 frames a second
    assert times(slow, duration=10.0, may_restart=True) == (slow, 0)


def test_a_frame_says_its_duration() -> None:
    clock = Clock(5.0, 0.0, False)
    assert [clock.time(5.0, 2.0), clock.time(None, 1.0), clock.time(None, 1.0)] == [0.0, 2.0, 3.0]
    assert clock.is_known


def test_times_are_unknown_without_any_duration() -> None:
    clock = Clock(0.0, 0.0, False)
    for _ in range(3):
        clock.time(0.0, 0.0)
    assert not clock.is_known
