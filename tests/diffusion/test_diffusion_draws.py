"""Timesteps and noise depend on what they are for, and on nothing else."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from nsync_pipeline.diffusion.config import ObjectiveConfig
from nsync_pipeline.diffusion.draws import SHARED, Draws, draw

SHAPE = (2, 4, 4)


def drawn(branch: str, step: int, positions: list[int], seed: int = 0) -> Draws:
    return draw(seed, branch, step, positions, SHAPE, 1000)


def test_a_sample_draws_the_same_in_any_micro_batch() -> None:
    whole = drawn("positive", 3, [0, 1, 2, 3])
    part = drawn("positive", 3, [2])
    assert torch.equal(part.noise[0], whole.noise[2])
    assert part.entries[0] == whole.entries[2]


def test_branches_steps_positions_and_seeds_draw_apart() -> None:
    reference = drawn("positive", 3, [0]).noise
    others = [
        drawn("negative", 3, [0]),
        drawn(SHARED, 3, [0]),
        drawn("positive", 4, [0]),
        drawn("positive", 3, [1]),
        drawn("positive", 3, [0], seed=1),
    ]
    assert all(not torch.equal(reference, other.noise) for other in others)


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = drawn("anchor", 0, [0])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(drawn("anchor", 0, [0]).noise, first.noise)


def test_timesteps_are_uniform_over_the_schedule() -> None:
    """Of 4,000 draws over four quarters, each has 1,000 give or take 5 deviations (27 each)."""
    timesteps = draw(0, "positive", 0, range(4000), (1,), 1000).entries
    counts = torch.histc(timesteps.double(), bins=4, min=0, max=1000)
    assert timesteps.min() >= 0
    assert timesteps.max() < 1000
    assert (counts - 1000).abs().max() < 140


def test_noise_is_standard_normal() -> None:
    """Of 51,200 numbers: the mean is within 5 / sqrt(n) = 0.022, the variance within 0.032."""
    noise = draw(0, "positive", 0, range(800), (4, 4, 4), 1000).noise
    assert abs(float(noise.mean())) < 0.022
    assert abs(float(noise.var()) - 1.0) < 0.032


@pytest.mark.parametrize("sampling", ["uniform", "logit_normal", "shift"])
def test_a_range_of_timesteps_is_all_that_is_drawn_from(sampling: Any) -> None:
    """A fifth to a half of 1000 entries: 200 to 499, and nearly to both ends."""
    objective = ObjectiveConfig(timestep_sampling=sampling, timestep_min=0.2, timestep_max=0.5)
    drawn = draw(0, "positive", 0, range(600), (1,), 1000, objective).entries
    assert 200 <= int(drawn.min()) < 230
    assert 470 < int(drawn.max()) <= 499
    whole = ObjectiveConfig(timestep_sampling=sampling)
    at_default = draw(0, "positive", 0, range(20), (1,), 1000, whole).entries
    assert int(at_default.max()) > 500


def test_a_range_that_is_empty_is_refused() -> None:
    with pytest.raises(ValidationError, match="no timestep is left"):
        ObjectiveConfig(timestep_min=0.5, timestep_max=0.5)
