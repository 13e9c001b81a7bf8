"""The verdict in plain words. Every sentence follows from the figures; none is chosen by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

from nsync_pipeline.metrics.bootstrap import Interval
from nsync_pipeline.metrics.trainings import ENOUGH_TRAININGS
from nsync_pipeline.metrics.verdict import SEEN, SIGNIFICANCE, Comparison, alike
from nsync_pipeline.report.figures import digits_for, shown

GUARDRAILS = {
    "prompt_fidelity": "shows less of what the captions ask for",
    "content_recognised": "shows less of what the captions ask for",
    "copy_rate": "repeats training pictures more often",
    "diversity": "is further from the variety of real pictures",
}
CHECKPOINTS_NOT_METHODS = (
    "This compares checkpoints, not methods: each was trained once, from one seed, and another "
    "seed can turn a close order round."
)
FEW_TRAININGS = (
    "Each was trained {count} times, from as many seeds, and the figures are means over them. So "
    "few say little of other seeds: this compares these checkpoints, not methods."
)
METHODS = (
    "Each was trained {count} times, from as many seeds. The figures are means over them, and the "
    "intervals allow for other seeds as well as for other captions: this compares methods."
)
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TOOK_ON = 0.5
"""The share of the way to real pictures from which a style counts as taken on."""
MOVED = SEEN
"""Below this share a variant stands where the base does, however surely it is told apart."""


RULES: dict[str, str] = {
    "none": "plain fine-tuning",
    "orthogonal": "less the negatives' direction",
    "orthogonal_anchor": "the same, plus an anchor",
    "mean": "mean with the negatives' gradient",
    "released": "as the released code computes it",
    "safeguarded": "less the negatives' gradient, as far as is safe",
    "preference": "Diffusion-DPO: the positives preferred to the negatives",
    "prior_preservation": "plus the negatives at their own prompt",
    "class_preservation": "plus what keeps the base's own prompt as it was",
    "contrastive_target": "away from the negative's target",
    "slider": "plus the negatives at mirrored weights",
    "negative_aware": "plus the negatives by mirrored predictions",
    "differential": "on top of a LoRA of the negatives",
}
"""What an update rule does, in a few words."""


def way_of_training(settings: Mapping[str, Any]) -> str:
    """The update rule in a few words, and the options of the contrast that are on."""
    contrast = settings["contrast"]
    on = {
        f"negatives in one of {contrast['negative_every']} steps": contrast["negative_every"] > 1,
        "shared noise": settings["shared_noise"],
        "positive part": contrast["positive_part"],
        "content dropout": settings["content_dropout"] > 0,
    }
    return ", ".join(
        [RULES[settings["update_rule"]], *(name for name, is_on in on.items() if is_on)]
    )


def what_is_compared(trainings: int) -> str:
    """Checkpoints or methods, where each variant has so many trainings."""
    if trainings == 1:
        return CHECKPOINTS_NOT_METHODS
    few = trainings < ENOUGH_TRAININGS
    return (FEW_TRAININGS if few else METHODS).format(count=number(trainings))


def headline(
    against_base: Sequence[Comparison],
    comparisons: Sequence[Comparison],
    shares: Mapping[str, float],
) -> str:
    """What came out, in a few sentences.

    ``shares`` say how far each variant is on the way from the base to real pictures, 1 is there.
    """
    nearer = {c.a: shares.get(c.a, 0.0) for c in against_base if nearer_to_style(c)}
    there = [name for name, share in nearer.items() if share >= TOOK_ON]
    started = [name for name, share in nearer.items() if MOVED <= share < TOOK_ON]
    compared = _compared(against_base[0].trainings) if against_base else "checkpoint"
    sentences = _learned(there, started, len(against_base), compared)
    # Who is ahead among those that learned nothing is not worth a headline.
    if comparisons and (there or started):
        sentences.append(_between(comparisons))
    return " ".join(sentences)


def cannot_be_judged(by_the_base: bool) -> str:
    """What stands in the headline's place of real pictures on embedded models."""
    if by_the_base:
        return (
            "This base model cannot show it: the embedded one has never seen a real picture. For "
            "your own pictures name a Stable Diffusion model as base_model."
        )
    return (
        "These features cannot judge it: they know a drawn world only. For real pictures name a "
        "full CLIP as evaluation.extractor."
    )


def leader(variants: Sequence[str], comparisons: Sequence[Comparison]) -> str:
    """The variant that beats most others; of several, the first."""
    wins = dict.fromkeys(variants, 0)
    for c in comparisons:
        if c.verdict in ("better", "worse"):
            wins[c.a if c.verdict == "better" else c.b] += 1
    return max(wins, key=lambda name: wins[name])


def nearer_to_style(against_base: Comparison) -> bool:
    """By both primary measures ``a`` is nearer to the style than the untrained base."""
    return against_base.verdict == "better" or (
        against_base.verdict == "trade-off" and bool(against_base.a_breaks)
    )


def explained(comparison: Comparison) -> str:
    """Why the verdict on ``comparison`` is what it is."""
    a, b = comparison.a, comparison.b
    if alike(comparison):
        return _alike(comparison)
    if comparison.verdict in ("better", "worse"):
        first = a if comparison.verdict == "better" else b
        return (
            f"{first} is nearer to the style by both measures, and gives up no more in content, "
            "originality or variety than is allowed."
        )
    if comparison.verdict == "trade-off":
        return _trade_off(comparison)
    for name, p in (("style margin", comparison.p_style_margin), ("CMMD", comparison.p_cmmd)):
        if p <= SIGNIFICANCE:
            return f"Only one of the two measures, the {name}, tells them apart beyond chance."
    others = "captions or training seeds" if comparison.of_methods else "captions"
    return f"Neither measure tells them apart: other {others} could turn the order round."


def _alike(comparison: Comparison) -> str:
    text = "By both measures they differ by less than anyone could see"
    for name, broken in (
        (comparison.a, comparison.a_breaks), (comparison.b, comparison.b_breaks)
    ):  # fmt: skip
        if broken:
            text += f", but {name} {listed([GUARDRAILS[one] for one in broken])}"
    return f"{text}."


def difference(value: Interval) -> str:
    """A difference with its interval: ``+0.021 (+0.012 to +0.030)``."""
    ends = [end for end in (value.low, value.high) if end is not None]
    digits = digits_for([value.value, *ends])
    text = shown(value.value, digits, signed=True)
    if len(ends) < 2:
        return text
    low, high = (shown(end, digits, signed=True) for end in ends)
    return f"{text} ({low} to {high})"


def way_to_real(value: float, base: float, real: float) -> float | None:
    """The share of the way from the base's figure to that of real pictures, 1 is all of it.

    None where the base's is as good as theirs.
    """
    if real - base <= 1e-9:
        return None
    return (value - base) / (real - base)


def _compared(trainings: int) -> str:
    if trainings >= ENOUGH_TRAININGS:
        return "method"
    return "checkpoint" if trainings == 1 else "variant"


def _learned(there: Sequence[str], started: Sequence[str], total: int, compared: str) -> list[str]:
    if not total:
        return [f"The {compared}s cannot be compared with the base: too few captions were drawn."]
    if not there and not started:
        which = f"The {compared} did not" if total == 1 else f"None of the {compared}s"
        return [f"{which} measurably {'take' if total == 1 else 'took'} on the style."]
    sentences = []
    if there:
        sentences.append(f"{_those(there, total, compared)} took on the style.")
    if started:
        who = listed(started) if there else _those(started, total, compared)
        sentences.append(
            f"{who} moved towards {'it' if there else 'the style'}, but not half of the way."
        )
    return sentences


def _those(names: Sequence[str], total: int, compared: str) -> str:
    """``names`` of ``total`` that are compared, as the subject of a sentence."""
    if total == 1:
        return f"The {compared}"
    if len(names) < total:
        return f"Of {total} {compared}s, {listed(names)}"
    return f"Both {compared}s" if total == 2 else f"All {number(total)} {compared}s"


def _between(comparisons: Sequence[Comparison]) -> str:
    beats = [(c.a, c.b) for c in comparisons if c.verdict == "better"]
    beats += [(c.b, c.a) for c in comparisons if c.verdict == "worse"]
    order = _order(comparisons, beats)
    if len(order) > 2:
        return f"Of them, {order[0]} is best, then {', then '.join(order[1:])}."
    torn = [c for c in comparisons if c.verdict == "trade-off"]
    verdicts = [f"{first} beats {second}" for first, second in sorted(beats)]
    verdicts += [f"{c.a} against {c.b} is a trade-off" for c in torn]
    same = [c for c in comparisons if c.verdict == "as good"]
    if same and len(same) == len(comparisons):
        return "They are as good as each other: nobody could see a difference."
    verdicts += [f"{c.a} is as good as {c.b}" for c in same]
    if not verdicts:
        return "Which of them is best cannot be told."
    rest = "; the rest cannot be told apart" if len(verdicts) < len(comparisons) else ""
    return f"Between them, {listed(verdicts)}{rest}."


def _order(comparisons: Sequence[Comparison], beats: Sequence[tuple[str, str]]) -> list[str]:
    """Their names from best to worst where every pair is decided, and no circle; else empty."""
    names = {name for c in comparisons for name in (c.a, c.b)}
    wins = {name: sum(first == name for first, _ in beats) for name in names}
    order = sorted(names, key=lambda name: -wins[name])
    decided = [wins[name] for name in order] == list(range(len(names) - 1, -1, -1))
    return order if decided else []


def _trade_off(comparison: Comparison) -> str:
    for first, second, broken in (
        (comparison.a, comparison.b, comparison.a_breaks),
        (comparison.b, comparison.a, comparison.b_breaks),
    ):
        sign = 1 if first == comparison.a else -1
        ahead = sign * comparison.style_margin.value > 0 > sign * comparison.cmmd.value
        if broken and ahead:
            price = listed([GUARDRAILS[name] for name in broken])
            return f"{first} is nearer to the style than {second}, but it {price}."
    return f"The two measures point to different {_compared(comparison.trainings)}s."


def listed(items: Sequence[str]) -> str:
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def number(count: int) -> str:
    """A count in words, as far as there are words for it."""
    return NUMBERS[count] if count < len(NUMBERS) else str(count)
