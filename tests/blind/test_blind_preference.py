"""Win rates of blind choices."""

import numpy as np
import pytest

from nsync_pipeline.blind.preference import LOST, TIED, WON, preference


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_win_rate_counts_half_for_who_cannot_tell() -> None:
    """Won, won, tied, lost: (1 + 1 + 1/2 + 0) / 4."""
    told = preference(["p", "q", "r", "s"], [WON, WON, TIED, LOST], 500, rng())
    assert told.win_rate.value == 0.625
    assert (told.wins, told.ties, told.losses, told.choices) == (2, 1, 1, 4)


def test_several_choices_of_one_prompt_are_one_vote() -> None:
    """p was won by all of four people, q lost by one: each prompt counts once."""
    told = preference(["p", "p", "p", "p", "q"], [WON] * 4 + [LOST], 500, rng())
    assert told.win_rate.value == 0.5


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """A checkpoint chosen in 60 % of 40 prompts, a hundred times over."""
    covered = 0
    for seed in range(100):
        outcomes = (np.random.default_rng(seed).random(40) < 0.6).astype(float).tolist()
        told = preference([str(n) for n in range(40)], outcomes, 400, rng()).win_rate
        assert told.low is not None
        assert told.high is not None
        covered += told.low <= 0.6 <= told.high
    assert 88 <= covered <= 99


@pytest.mark.parametrize(("prompts", "rate"), [(5, 0.8), (8, 0.95), (20, 0.95)])
def test_few_choices_that_agree_claim_no_certainty(prompts: int, rate: float) -> None:
    """So lopsided a rate leaves many sets of choices without a single loss to resample."""
    covered = 0
    for seed in range(100):
        outcomes = (np.random.default_rng(seed).random(prompts) < rate).astype(float).tolist()
        told = preference([str(n) for n in range(prompts)], outcomes, 400, rng()).win_rate
        assert told.low is not None
        assert told.high is not None
        covered += told.low <= rate <= told.high
    assert covered >= 92


def test_one_choice_says_nothing() -> None:
    told = preference(["p"], [WON], 500, rng()).win_rate
    assert (told.value, told.low, told.high) == (1.0, 0.0, 1.0)


def test_no_choice_is_no_preference() -> None:
    with pytest.raises(ValueError, match="needs choices"):
        preference([], [], 10, rng())
