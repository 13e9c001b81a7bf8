"""What people chose who saw two checkpoints' pictures and did not know which were whose."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nsync_pipeline.metrics.bootstrap import (
    Interval,
    interval,
    mean_under,
    prompt_draws,
    prompt_means,
)

WON, TIED, LOST = 1.0, 0.5, 0.0


@dataclass(frozen=True)
class Preference:
    """How often a's picture was chosen over b's."""

    win_rate: Interval  # of a: wins count 1, "cannot tell" counts 1/2
    wins: int  # of a
    ties: int
    losses: int
    prompts: int  # that the choices are about

    @property
    def choices(self) -> int:
        return self.wins + self.ties + self.losses

    def turned(self) -> "Preference":
        """The same choices, for b."""
        rate = self.win_rate
        ends = (None if end is None else 1.0 - end for end in (rate.high, rate.low))
        win_rate = Interval(1.0 - rate.value, *ends)
        return Preference(win_rate, self.losses, self.ties, self.wins, self.prompts)

    @property
    def beyond_chance(self) -> bool:
        """The interval leaves out 1/2, which is where no preference is."""
        low, high = self.win_rate.low, self.win_rate.high
        return low is not None and high is not None and not low <= 0.5 <= high


def preference(
    prompts: Sequence[str], outcomes: Sequence[float], draws: int, rng: np.random.Generator
) -> Preference:
    """The win rate over choices; the k-th is about a picture of ``prompts[k]``.

    ``outcomes`` are ``WON``, ``TIED`` or ``LOST`` for a. The choices of one prompt (several
    pictures, several people) are averaged, and prompts are resampled: they are what is independent.
    One prompt that a won and one that it lost are resampled with them. Otherwise a few prompts that
    all went one way would leave nothing to resample and claim certainty: of 5 prompts at a true
    rate of 80 %, the bare interval holds the truth in 68 % of cases, this one in 98 %.

    Raises:
        ValueError: there is no choice, or the two do not pair up.
    """
    if not len(outcomes) or len(prompts) != len(outcomes):
        raise ValueError("a preference needs choices, each about one prompt")
    names = sorted(set(prompts))
    unit = np.array([names.index(prompt) for prompt in prompts])
    means = prompt_means(np.asarray(outcomes, dtype=np.float64), unit, len(names))
    guarded = np.append(means, [WON, LOST])
    resampled = mean_under(prompt_draws(len(guarded), draws, rng), guarded)
    return Preference(
        win_rate=interval(float(means.mean()), resampled),
        wins=sum(outcome == WON for outcome in outcomes),
        ties=sum(outcome == TIED for outcome in outcomes),
        losses=sum(outcome == LOST for outcome in outcomes),
        prompts=len(names),
    )
