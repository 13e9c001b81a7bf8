"""What makes a person look up from a training, on made-up histories."""

import math
import random
from dataclasses import fields
from typing import Any

import pytest

from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.history import StepRecord
from nsync_pipeline.training.watch import (
    TrainingWarning,
    Watcher,
    collapse,
    idle_projection,
    no_negative_gradient,
    overfitting,
)

SETTINGS = TrainingConfig(steps=1000)


def record(step: int = 1, **changes: Any) -> StepRecord:
    """A step like any other, but for ``changes``."""
    usual = {
        "step": step, "loss_positive": 0.3, "loss_negative": 0.2, "norm_positive": 1.0,
        "norm_negative": 8.0, "cosine_negative": 0.3, "share_removed": 0.3, "norm_refined": 0.95,
        "learning_rate": 1e-3,
    }  # fmt: skip
    empty: dict[str, Any] = dict.fromkeys(field.name for field in fields(StepRecord))
    return StepRecord(**(empty | usual | changes))


def cosines(count: int, mean: float, deviation: float, seed: int) -> list[StepRecord]:
    """Steps whose cosine scatters; the share removed is its size."""
    draws = random.Random(seed)
    found = [draws.gauss(mean, deviation) for _ in range(count)]
    return [record(i + 1, cosine_negative=c, share_removed=abs(c)) for i, c in enumerate(found)]


def watched(history: list[StepRecord], settings: TrainingConfig) -> tuple[TrainingWarning, ...]:
    watcher = Watcher(settings)
    for step in history:
        watcher.on_step(step)
    return watcher.found


def test_a_collapse_is_found_once_it_lasts() -> None:
    """Nine steps at 0.95 after nine at 0.3: a mean over ten of 0.885; with a tenth, 0.95."""
    history = [record(share_removed=0.3)] * 9 + [record(share_removed=0.95)] * 9
    assert collapse(history) is None
    found = collapse([*history, record(share_removed=0.95)])
    assert found is not None
    assert found.startswith("95% of the positive gradient was removed, the mean over 10 steps")


def test_a_single_step_is_no_collapse() -> None:
    assert (
        watched([record(1, share_removed=1.0), *(record(i) for i in range(2, 40))], SETTINGS) == ()
    )


def test_negatives_without_a_gradient_are_found() -> None:
    absent = record(norm_negative=1e-9, cosine_negative=None, share_removed=0.0)
    assert no_negative_gradient([record(), *[absent] * 10])
    assert no_negative_gradient([*[absent] * 9, record()]) is None
    # Where nothing at all has a gradient, the negatives are not to blame.
    assert no_negative_gradient([record(norm_positive=0.0, norm_negative=0.0)] * 10) is None


def test_a_projection_on_chance_is_found_though_it_removes_a_quarter() -> None:
    """Cosines of mean 0 and deviation 0.3: a mean share of 0.3 sqrt(2 / pi) = 0.24 is removed."""
    found = [idle_projection(cosines(150, 0.0, 0.3, seed), SETTINGS) for seed in range(100)]
    there = [text for text in found if text is not None]
    assert len(there) >= 85
    assert all("shared_noise" in text for text in there)
    assert any("the 24% removed at each step are chance" in text for text in there)


def test_a_projection_on_what_is_shared_is_not_called_idle() -> None:
    """The same scatter around 0.25, as with shared noise."""
    for seed in range(100):
        assert idle_projection(cosines(150, 0.25, 0.3, seed), SETTINGS) is None


def test_next_to_nothing_removed_is_found_however_steady_its_sign() -> None:
    found = idle_projection(cosines(60, 0.05, 0.01, seed=0), SETTINGS)
    assert found is not None
    assert "% of the positive gradient was removed on average" in found


def test_who_shares_the_noise_already_is_told_of_the_running_estimate() -> None:
    shared = SETTINGS.model_copy(update={"shared_noise": True})
    found = idle_projection(cosines(60, 0.05, 0.01, seed=0), shared)
    assert found is not None
    assert "negative_estimate" in found
    assert "shared_noise" not in found


def test_only_what_one_step_projects_out_is_judged_by_that_steps_cosine() -> None:
    """A quarter removed of a running estimate is no chance of a single step's cosine."""
    chance = cosines(150, 0.0, 0.3, seed=1)
    assert idle_projection(chance, SETTINGS) is not None
    for contrast in ({"negative_estimate": "running_mean"}, {"scope": "tensor"}):
        settings = TrainingConfig.model_validate({"steps": 1000, "contrast": contrast})
        assert idle_projection(chance, settings) is None


@pytest.mark.parametrize("rule", ["mean", "released"])
def test_a_rule_that_does_not_project_on_the_negatives_is_not_called_idle(rule: str) -> None:
    settings = TrainingConfig.model_validate({"steps": 1000, "update_rule": rule})
    assert idle_projection(cosines(150, 0.0, 0.01, seed=0), settings) is None


def test_fifty_steps_are_needed_to_call_a_projection_idle() -> None:
    assert idle_projection(cosines(49, 0.0, 0.01, seed=0), SETTINGS) is None


def held_out_history(
    steps: int, every: int, seed: int, rises: float, falls: float, alike: float = 0.0
) -> tuple[list[StepRecord], dict[int, float]]:
    """Training losses that fall by ``falls`` over all, held-out ones that rise by ``rises`` from
    two fifths on; they scatter by 20 % and 3 %, neighbouring held-out losses ``alike``."""
    draws = random.Random(seed)
    history = [
        record(i + 1, loss_positive=1 + draws.gauss(0, 0.2) - falls * i / steps)
        for i in range(steps)
    ]
    held_out, deviation = {0: 2.0}, 0.0
    for done in range(every, steps + 1, every):
        deviation = alike * deviation + math.sqrt(1 - alike**2) * draws.gauss(0, 0.03)
        held_out[done] = 1 + deviation + rises * max(0.0, done / steps - 0.4) / 0.6
    return history, held_out


def overfits(history: list[StepRecord], held_out: dict[int, float]) -> bool:
    """Whether it is found at any look."""
    looks = sorted(held_out)
    return any(
        overfitting(history[:done], {look: held_out[look] for look in looks if look <= done})
        for done in looks
    )


@pytest.mark.parametrize("steps", [400, 1000])
@pytest.mark.parametrize(("alike", "most"), [(0.0, 1), (0.5, 4)])
def test_a_flat_noisy_held_out_loss_is_hardly_ever_called_overfitting(
    steps: int, alike: float, most: int
) -> None:
    """Asked at each of 20 or 50 looks, in 100 trainings: 3 % of scatter and no trend."""
    alarms = sum(overfits(*held_out_history(steps, 20, s, 0.0, 0.0, alike)) for s in range(100))
    assert alarms <= most


def test_a_held_out_loss_that_rises_by_a_fifth_while_training_falls_is_found() -> None:
    found = sum(overfits(*held_out_history(1000, 20, seed, 0.2, 0.3)) for seed in range(50))
    assert found >= 45


def test_a_held_out_loss_that_rises_with_the_training_loss_is_not_overfitting() -> None:
    """A learning rate too high, for one: learning by heart it is not."""
    assert not any(overfits(*held_out_history(1000, 20, seed, 0.2, -0.3)) for seed in range(50))


def test_a_falling_held_out_loss_is_not_overfitting() -> None:
    assert not any(overfits(*held_out_history(1000, 20, seed, -0.2, 0.3)) for seed in range(50))


def test_each_warning_is_said_once_and_found_at_the_same_step_when_told_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A resumed training tells all its steps again, then the held-out losses."""
    history, held_out = held_out_history(1000, 20, 0, 0.3, 0.5)
    for_chance = cosines(1000, 0.0, 0.3, seed=0)
    history = [
        record(i + 1, loss_positive=h.loss_positive, cosine_negative=c.cosine_negative)
        for i, (h, c) in enumerate(zip(history, for_chance, strict=True))
    ]
    live, told_again = Watcher(SETTINGS), Watcher(SETTINGS)
    for step in history:
        live.on_step(step)
        if step.step in held_out:
            live.on_held_out(step.step, held_out[step.step])
    said = list(caplog.messages)
    for step in history:
        told_again.on_step(step)
    for done, loss in held_out.items():
        told_again.on_held_out(done, loss)
    assert [warning.kind for warning in live.found] == ["idle_projection", "overfitting"]
    assert said == [f"step {warning.step}: {warning.text}" for warning in live.found]
    assert live.found == told_again.found


def test_a_rule_without_negatives_is_not_warned_of_them() -> None:
    plain = [
        record(i, norm_negative=None, cosine_negative=None, share_removed=0.0)
        for i in range(1, 121)
    ]
    assert watched(plain, SETTINGS) == ()


def test_a_short_training_is_judged_at_its_end() -> None:
    settings = SETTINGS.model_copy(update={"steps": 3})
    found = watched([record(i, share_removed=0.99) for i in (1, 2, 3)], settings)
    assert [(warning.kind, warning.step) for warning in found] == [("collapse", 3)]
