"""The scale goes by GradScaler's rules, and never below 1."""

from nsync_pipeline.training.optimizer import FLOOR, GROWTH_INTERVAL, LossScale


def test_it_doubles_after_so_many_steps_without_an_overflow() -> None:
    scale = LossScale(8.0)
    for _ in range(GROWTH_INTERVAL - 1):
        scale = scale.after_step()
    assert scale == LossScale(8.0, GROWTH_INTERVAL - 1)
    assert scale.after_step() == LossScale(16.0, 0)


def test_an_overflow_halves_it_and_starts_the_count_again() -> None:
    assert LossScale(8.0, 1999).after_overflow() == LossScale(4.0, 0)


def test_at_its_floor_there_is_nothing_left_to_try() -> None:
    assert LossScale(1.5).after_overflow() == LossScale(FLOOR)
    assert LossScale(FLOOR).after_overflow() is None


def test_from_its_start_it_reaches_the_floor_in_sixteen_overflows() -> None:
    """``2^16 / 2^16 = 1``."""
    scale: LossScale | None = LossScale()
    overflows = 0
    while scale is not None and (lower := scale.after_overflow()) is not None:
        scale, overflows = lower, overflows + 1
    assert overflows == 16
