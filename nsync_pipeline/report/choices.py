"""What people chose on blind pages, as the report shows it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from nsync_pipeline.blind.choices import Preferred, SetAside
from nsync_pipeline.blind.preference import Preference
from nsync_pipeline.report.figures import percent, shown
from nsync_pipeline.report.page import draw
from nsync_pipeline.report.words import number
from nsync_pipeline.workspace import BASE

WIDTH, GAP = 300, 2  # the bar's width, and what is left free between its parts


@dataclass(frozen=True)
class ChoiceCard:
    pair: Preferred
    colours: tuple[int | None, int | None]
    verdict: str  # as a verdict's, of the first
    said: str  # the same in a few words
    chart: str
    reason: str
    counted: str


@dataclass(frozen=True)
class ChoicesSection:
    """All that people chose; without any, how to ask them."""

    cards: tuple[ChoiceCard, ...]
    not_counted: str  # about choices that are set aside; empty where there are none
    how_to_ask: str  # the command; empty where there is none


def winner_of(a: str, b: str, result: Preference) -> str | None:
    """Which of the two people prefer; None where chance could have chosen so."""
    if not result.beyond_chance:
        return None
    return a if result.win_rate.value > 0.5 else b


def preference_explained(a: str, b: str, result: Preference) -> str:
    """The win rate with its interval, of the one that is ahead."""
    first = a if result.win_rate.value >= 0.5 else b
    rate = _rate(result, of_a=first == a)
    if winner_of(a, b, result) is not None:
        return f"People find {first} nearer to the style: they chose it in {rate} of cases."
    if result.win_rate.value == 0.5:
        return f"People chose either in {rate} of cases."
    return (
        f"People chose {first} in {rate} of cases. A half, which is no preference, is in that "
        "range."
    )


def choices_counted(result: Preference, people: int) -> str:
    """``80 choices by two people, about 40 captions``."""
    who = "one person" if people == 1 else f"{number(people)} people"
    choices, captions = _counted(result.choices, "choice"), _counted(result.prompts, "caption")
    return f"{choices} by {who}, about {captions}."


def not_counted(set_aside: Sequence[SetAside]) -> str:
    """About files that are kept and do not count, by reason; empty where there are none."""
    files = Counter(one.reason for one in set_aside)
    return " ".join(
        f"{'One file of choices is' if count == 1 else f'{count} files of choices are'} "
        f"not counted here: {reason}."
        for reason, count in sorted(files.items())
    )


def _rate(result: Preference, of_a: bool) -> str:
    rate = result.win_rate
    ends = [rate.value, rate.low, rate.high]
    value, *between = [end if of_a else 1.0 - end for end in ends if end is not None]
    text = percent(value).replace(" ", "\N{NO-BREAK SPACE}")
    if not between:
        return text
    low, high = (shown(100.0 * end, 0) for end in sorted(between))
    return f"{text} ({low} to {high})"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def preference_chart(
    label: str, result: Preference, colour: int | None, other_colour: int | None
) -> str:
    """Won from the left, lost from the right, "cannot tell" between; the line is at a half.

    Colours are the numbers of the variants; None for what is no variant.
    """
    return draw(
        "preference_chart", label=label, result=result, colour=colour, other_colour=other_colour,
        width=WIDTH, gap=GAP,
    )  # fmt: skip


def choices_section(
    style: str,
    variants: Sequence[str],
    preferred: Sequence[Preferred],
    set_aside: Sequence[SetAside],
    asks: bool,
) -> ChoicesSection:
    """A card for each two that people chose between, and how to ask them where ``asks``."""
    between = (variants[1], variants[0]) if len(variants) > 1 else (variants[0], BASE)
    command = f"nsync blind make {style} --between {','.join(between)}"
    return ChoicesSection(
        cards=tuple(_card(pair, variants) for pair in preferred),
        not_counted=not_counted(set_aside),
        how_to_ask=command if asks else "",
    )


def _card(pair: Preferred, variants: Sequence[str]) -> ChoiceCard:
    a, b, result = pair.a, pair.b, pair.preference
    winner = winner_of(a, b, result)
    first, second = (None if name == BASE else variants.index(name) for name in (a, b))
    label = f"{a} won {result.wins}, cannot tell {result.ties}, {b} won {result.losses}"
    return ChoiceCard(
        pair=pair,
        colours=(first, second),
        verdict={a: "better", b: "worse", None: "inconclusive"}[winner],
        said="inconclusive" if winner is None else f"{winner} preferred",
        chart=preference_chart(label, result, first, second),
        reason=preference_explained(a, b, result),
        counted=choices_counted(result, pair.people),
    )
