"""Learning rates worked out by hand: peak 1.0, 12 steps of which 2 are warm-up."""

import math

import pytest

from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.optimizer import learning_rates, schedule_share


def rates(schedule: str, warmup: int = 2, **changes: float) -> list[float]:
    settings = TrainingConfig.model_validate(
        {"steps": 12, "warmup_steps": warmup, "schedule": schedule} | changes
    )
    return [schedule_share(settings, step) for step in range(12)]


def test_the_warm_up_rises_to_the_peak() -> None:
    """Thirds of the way: 1/3, 2/3, then the peak."""
    assert rates("constant")[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])


def test_constant_stays() -> None:
    assert set(rates("constant", warmup=0)) == {1.0}


def test_linear_falls_by_a_tenth_a_step() -> None:
    assert rates("linear")[2:] == pytest.approx([1.0 - k / 10 for k in range(10)])


def test_cosine_is_at_half_in_the_middle_and_near_zero_at_the_end() -> None:
    """At step 7 half of the ten is done: ``(1 + cos(pi / 2)) / 2 = 0.5``; at step 11,
    ``(1 + cos(0.9 pi)) / 2 = 0.0245``."""
    cosine = rates("cosine")
    assert cosine[2] == 1.0
    assert cosine[7] == pytest.approx(0.5)
    assert cosine[11] == pytest.approx(0.02447, abs=1e-5)


def test_a_warm_up_longer_than_the_training_never_reaches_the_peak() -> None:
    assert max(rates("cosine", warmup=20)) == pytest.approx(12 / 21)


def test_restarts_begin_at_the_peak_again() -> None:
    """Two cycles of five steps: ``(1 + cos(pi k / 5)) / 2`` at step ``k`` of each."""
    cosine = rates("cosine_with_restarts", schedule_cycles=2)
    assert cosine[2] == cosine[7] == 1.0
    assert cosine[3] == pytest.approx(cosine[8]) == pytest.approx((1 + math.cos(math.pi / 5)) / 2)


def test_polynomial_is_a_power_of_what_is_left() -> None:
    """At step 7 half is left: ``0.5^2``."""
    assert rates("polynomial", schedule_power=2.0)[7] == pytest.approx(0.25)
    assert rates("polynomial") == pytest.approx(rates("linear"))


def test_each_group_has_its_own_peak_and_one_course() -> None:
    settings = TrainingConfig.model_validate(
        {"steps": 10, "schedule": "linear", "learning_rate": 0.01, "embedding_learning_rate": 0.5}
    )
    assert learning_rates(settings, 5) == pytest.approx(
        {"denoiser": 0.005, "text_encoder": 0.005, "embedding": 0.25}
    )
