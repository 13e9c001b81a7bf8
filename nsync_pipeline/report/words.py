"""The verdict in plain words. Every sentence follows from the figures; none is chosen by hand."""

from collections.abc import Sequence

from nsync_pipeline.metrics.bootstrap import Interval
from nsync_pipeline.metrics.verdict import SIGNIFICANCE, Comparison
from nsync_pipeline.report.numbers import digits_for, percent, shown

GUARDRAILS = {
    "prompt_fidelity": "shows less of what the captions ask for",
    "copy_rate": "repeats training pictures more often",
    "diversity": "is further from the variety of real pictures",
}
CHECKPOINTS_NOT_METHODS = (
    "This compares checkpoints, not methods: each was trained once, from one seed, and another "
    "seed can turn a close order round."
)
EMBEDDED_BASE_AND_REAL_PICTURES = (
    "The base model here is the small embedded one. It draws {side} pixels a side and was "
    "pretrained on nothing but a drawn world of houses, trees, boats and the like: it has never "
    "seen a real picture, nor most of what these captions name. Expect the style's colours and "
    "touch at best, and hardly any of its content. The features the figures are measured on come "
    "from the same small world, so take them with care. With a Stable Diffusion model as "
    "base_model, and a full CLIP as evaluation.extractor, the same pipeline gives pictures worth "
    "looking at."
)
NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")


def headline(against_base: Sequence[Comparison], comparisons: Sequence[Comparison]) -> str:
    """What came out, in one or two sentences."""
    learned = [c.a for c in against_base if took_on_style(c)]
    return " ".join([_learned(learned, len(against_base)), *_between(comparisons)])


def took_on_style(against_base: Comparison) -> bool:
    """By both primary measures the checkpoint is nearer to the style than the untrained base."""
    return against_base.verdict == "better" or (
        against_base.verdict == "trade-off" and bool(against_base.a_breaks)
    )


def explained(comparison: Comparison) -> str:
    """Why the verdict on ``comparison`` is what it is."""
    a, b = comparison.a, comparison.b
    if comparison.verdict in ("better", "worse"):
        first, second = (a, b) if comparison.verdict == "better" else (b, a)
        return (
            f"{first} is nearer to the style than {second} by both measures, and gives up no more "
            "in content, originality or variety than is allowed."
        )
    if comparison.verdict == "trade-off":
        return _trade_off(comparison)
    significant = [
        name
        for name, p in (
            ("style margin", comparison.p_style_margin),
            ("CMMD", comparison.p_cmmd),
        )
        if p <= SIGNIFICANCE
    ]
    if significant:
        return (
            f"Only one of the two measures, the {significant[0]}, tells them apart beyond chance."
        )
    return "Neither measure tells them apart: other captions could turn the order round."


def difference(value: Interval) -> str:
    """A difference with its interval: ``+0.021 (+0.012 to +0.030)``."""
    ends = [end for end in (value.low, value.high) if end is not None]
    digits = digits_for([value.value, *ends])
    text = shown(value.value, digits, signed=True)
    if len(ends) < 2:
        return text
    low, high = (shown(end, digits, signed=True) for end in ends)
    return f"{text} ({low} to {high})"


def way_to_real(value: float, base: float, real: float) -> str | None:
    """How far ``value`` is from the base's to that of real pictures; None where these are alike."""
    if real - base <= 1e-9:
        return None
    return percent((value - base) / (real - base))


def _learned(learned: Sequence[str], total: int) -> str:
    if not total:
        return "The checkpoints cannot be compared with the base: too few captions were drawn."
    if total == 1:
        (verdict,) = ["took on the style"] if learned else ["did not measurably take on the style"]
        return f"The checkpoint {verdict}."
    if len(learned) == total:
        count = "Both" if total == 2 else f"All {_number(total).lower()}"
        return f"{count} checkpoints took on the style."
    if not learned:
        return "None of the checkpoints measurably took on the style."
    return f"{_number(len(learned))} of {total} checkpoints took on the style: {_listed(learned)}."


def _between(comparisons: Sequence[Comparison]) -> list[str]:
    told = []
    for found in comparisons:
        if found.verdict == "better":
            told.append(f"{found.a} beats {found.b}")
        elif found.verdict == "worse":
            told.append(f"{found.b} beats {found.a}")
        elif found.verdict == "trade-off":
            told.append(f"{found.a} against {found.b} is a trade-off")
    if not comparisons:
        return []
    if not told:
        return ["Which of them is best cannot be told."]
    rest = len(comparisons) - len(told)
    tail = "; the rest cannot be told apart" if rest else ""
    return [f"Between them, {_listed(told)}{tail}."]


def _trade_off(comparison: Comparison) -> str:
    for first, second, broken in (
        (comparison.a, comparison.b, comparison.a_breaks),
        (comparison.b, comparison.a, comparison.b_breaks),
    ):
        sign = 1 if first == comparison.a else -1
        ahead = sign * comparison.style_margin.value > 0 > sign * comparison.cmmd.value
        if broken and ahead:
            price = _listed([GUARDRAILS[name] for name in broken])
            return f"{first} is nearer to the style than {second}, but it {price}."
    return "The two measures point to different checkpoints."


def _listed(items: Sequence[str]) -> str:
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def _number(count: int) -> str:
    return NUMBERS[count] if count < len(NUMBERS) else str(count)
