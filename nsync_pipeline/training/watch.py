"""What to warn of while a training goes on."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev

from nsync_pipeline.contrast.rules import ABSENT
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.history import StepRecord

logger = logging.getLogger(__name__)

COLLAPSED, COLLAPSED_STEPS = 0.9, 10
"""Mean share of ``|g+|`` removed over the last steps. At 0.9, ``|g'|`` is 0.44 ``|g+|``: less than
half of what the pictures ask for is left. A single step can be there by chance."""

ABSENT_STEPS = 10
"""So many steps in a row without ``g-`` are not a chance dropped caption."""

PROJECTING = ("orthogonal", "orthogonal_anchor")
"""The rules that take a projection on the negatives away; the others are there to compare with."""

BY_MARGIN = ("safeguarded", "preference")
"""The rules whose setting says how much of the positives' descent may be removed."""

IDLE_STEPS = 50
"""The fewest steps a mean cosine is judged over; it is judged over the later half of all."""

IDLE_SHARE = 0.1
"""Mean share removed below which less than 1 % of the gradient's energy (0.1^2) is removed."""

IDLE_COSINE, IDLE_ERRORS = 0.1, 2.0
"""A mean cosine this small, even with one standard error more, and within so many standard errors
of 0. By chance, two vectors of ``d`` effective dimensions have a cosine of mean 0 and deviation
``1/sqrt(d)``, which may well be 0.3: the *share* removed is then 0.24 on average. What they have in
common shows in the *mean* of the signed cosine, as chance has no sign."""

RISING_LOOKS = 10
"""The fewest held-out losses that a trend is judged over; it is judged over the later half."""

RISING_ERRORS = 6.0
"""How many of its standard errors the slope of the held-out loss must be above 0. It is asked again
at every look, and losses of neighbouring looks are alike: at 4, one flat history in eight of 200
looks with a correlation of 0.5 gave a false alarm; at 6, three in a hundred."""

RISING_LEAST = 0.01
"""What the held-out loss must rise by over these looks, as a share of itself."""


@dataclass(frozen=True)
class TrainingWarning:
    kind: str  # collapse, no_negative_gradient, idle_projection, overfitting
    step: int  # steps done when it was found
    text: str  # what is seen, what it means, what to do


def collapse(history: Sequence[StepRecord]) -> str | None:
    """Whether hardly anything of the positive gradient was left over the last steps."""
    share = fmean(record.share_removed for record in history[-COLLAPSED_STEPS:])
    if share <= COLLAPSED:
        return None
    return (
        f"{share:.0%} of the positive gradient was removed, the mean over "
        f"{min(len(history), COLLAPSED_STEPS)} steps: to this model, positives and negatives ask "
        "for almost the same change (or its opposite), and little is left to learn from. Look "
        "whether the negatives lack the style; more of what is trained (training.lora), a larger "
        "batch or update_rule none helps."
    )


def no_negative_gradient(history: Sequence[StepRecord]) -> str | None:
    """Whether the negatives had no gradient in any of the last steps."""
    last = history[-ABSENT_STEPS:]
    if not all(
        record.norm_negative is not None
        and record.norm_positive > 0
        and record.norm_negative <= ABSENT * record.norm_positive
        for record in last
    ):
        return None
    return (
        f"the negatives gave no gradient in {len(last)} steps: nothing is removed, and this is "
        "plain fine-tuning. Look whether the negative set's pictures are whole, and whether what "
        "is trained takes part in their prompts."
    )


def idle_projection(history: Sequence[StepRecord], settings: TrainingConfig) -> str | None:
    """Whether what the projection removed over the later half of the steps is mere chance."""
    later = history[-max(IDLE_STEPS, len(history) // 2) :]
    cosines = [record.cosine_negative for record in later if record.cosine_negative is not None]
    if len(cosines) < IDLE_STEPS or settings.update_rule not in PROJECTING:
        return None
    share = fmean(record.share_removed for record in later)
    mean, error = fmean(cosines), _standard_error(cosines)
    contrast = settings.contrast
    by_one_step = (contrast.negative_estimate, contrast.scope, contrast.metric) == (
        "step", "global", "euclidean"
    )  # fmt: skip
    # Elsewhere the cosine of the whole vectors does not say what is removed.
    chance = by_one_step and abs(mean) <= min(IDLE_COSINE - error, IDLE_ERRORS * error)
    if share >= IDLE_SHARE and not chance:
        return None
    seen = f"the projection does next to nothing: over {len(cosines)} steps "
    if share < IDLE_SHARE:
        seen += f"{share:.1%} of the positive gradient was removed on average"
    else:
        seen += (
            f"the cosine of the positive and the negative gradient is {mean:+.3f} on average "
            f"(standard error {error:.3f}), so the {share:.0%} removed at each step are chance, "
            "one way or the other"
        )
    if not settings.shared_noise:
        return f"{seen}. training.shared_noise lets a triplet's gradients have more in common."
    return f"{seen}. A running training.contrast.negative_estimate is less noisy than one step's."


def overfitting(history: Sequence[StepRecord], held_out: Mapping[int, float]) -> str | None:
    """Whether the held-out loss rises over the later half of its values, the training loss falls.

    ``held_out`` is by steps done; its values are at the same noise and timesteps, so they differ by
    the weights alone. The value before the first step is left out.
    """
    done = [step for step in sorted(held_out) if 0 < step <= len(history)]
    done = done[-max(RISING_LOOKS, len(done) // 2) :]
    if len(done) < RISING_LOOKS:
        return None
    losses = [held_out[step] for step in done]
    slope, error = _slope(done, losses)
    rise = slope * (done[-1] - done[0]) / fmean(losses)
    if slope <= RISING_ERRORS * error or rise < RISING_LEAST:
        return None
    trained = [record.loss_positive for record in history[done[0] : done[-1]]]
    half = len(trained) // 2
    if half < 2 or fmean(trained[half:]) >= fmean(trained[:half]):
        return None
    return (
        f"the held-out loss rose by {rise:.1%} from step {done[0]} to step {done[-1]} while the "
        "training loss fell: it learns its pictures by heart. Fewer steps, a lower learning rate "
        "or rank, or more pictures help."
    )


class Watcher:
    """Looks for warnings as a training goes on; each is found once, at the same step every time."""

    def __init__(self, settings: TrainingConfig) -> None:
        self._settings = settings
        self._history: list[StepRecord] = []
        self._held_out: dict[int, float] = {}
        self._found: dict[str, TrainingWarning] = {}
        self._next_idle = IDLE_STEPS

    @property
    def found(self) -> tuple[TrainingWarning, ...]:
        """In the order of their steps."""
        return tuple(sorted(self._found.values(), key=lambda one: (one.step, one.kind)))

    def on_step(self, record: StepRecord) -> None:
        history = self._history
        history.append(record)
        at_end = record.step == self._settings.steps
        if record.norm_negative is None:
            return
        by_margin = self._settings.update_rule in BY_MARGIN
        if not by_margin and (len(history) >= COLLAPSED_STEPS or at_end):
            self._add("collapse", record.step, collapse(history))
        if len(history) >= ABSENT_STEPS or at_end:
            self._add("no_negative_gradient", record.step, no_negative_gradient(history))
        if record.step >= self._next_idle or at_end:
            # Over half of the history each time: so not at every step.
            self._next_idle = record.step + max(1, record.step // 10)
            self._add("idle_projection", record.step, idle_projection(history, self._settings))

    def on_held_out(self, done: int, loss: float) -> None:
        """The held-out loss was taken after ``done`` steps, which are all known."""
        self._held_out[done] = loss
        self._add("overfitting", done, overfitting(self._history[:done], self._held_out))

    def _add(self, kind: str, step: int, text: str | None) -> None:
        if text is not None and kind not in self._found:
            self._found[kind] = TrainingWarning(kind, step, text)
            logger.warning("step %d: %s", step, text)


def _standard_error(values: Sequence[float]) -> float:
    """Of the mean of ``values`` (two or more) in time."""
    mean = fmean(values)
    return stdev(values) / math.sqrt(len(values)) * _alike([value - mean for value in values])


def _slope(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """The least-squares slope of three or more points in time, and its standard error."""
    mean_x, mean_y = fmean(x), fmean(y)
    spread = math.fsum((a - mean_x) ** 2 for a in x)
    slope = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
    left = [b - mean_y - slope * (a - mean_x) for a, b in zip(x, y, strict=True)]
    variance = math.fsum(value * value for value in left) / (len(x) - 2)
    return slope, math.sqrt(variance / spread) * _alike(left)


def _alike(deviations: Sequence[float]) -> float:
    """What a standard error grows by where neighbours in time are alike, 1 where they are not.

    ``sqrt((1 + r) / (1 - r))`` (of a process of first order), ``r`` in [0, 0.9] the correlation of
    neighbours, with ``(1 + 4 r) / n`` added: that is what short series show too little of it.
    """
    squares = math.fsum(value * value for value in deviations)
    if squares == 0.0:
        return 1.0
    seen = math.fsum(a * b for a, b in pairwise(deviations)) / squares
    r = min(max(seen + (1 + 4 * seen) / len(deviations), 0.0), 0.9)
    return math.sqrt((1 + r) / (1 - r))
