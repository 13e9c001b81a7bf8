"""What people chose on blind pages, as the report shows it."""

from collections import Counter
from collections.abc import Sequence

from nsync_pipeline.blind.choices import Preferred, SetAside
from nsync_pipeline.blind.preference import Preference
from nsync_pipeline.report.charts import series_class, svg
from nsync_pipeline.report.figures import percent, shown
from nsync_pipeline.report.page import ChoiceCard, Choices, Side
from nsync_pipeline.report.words import number
from nsync_pipeline.workspace import BASE


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
    if not between:
        return _share(value)
    low, high = (shown(100.0 * end, 0) for end in sorted(between))
    return f"{_share(value)} ({low} to {high})"


def _share(value: float) -> str:
    return percent(value).replace(" ", "\N{NO-BREAK SPACE}")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


WIDTH, HEIGHT = 300, 54
BAR, GAP = 12, 2  # the bar's height, and what is left free between its parts
RATE_AT, LABELS_AT = 27, 50


def preference_chart(
    label: str, result: Preference, colour: int | None, other_colour: int | None
) -> str:
    """Won from the left, lost from the right, "cannot tell" between; the line is at a half.

    Colours are the numbers of the variants; None for what is no variant.
    """
    parts, start = [], 0.0
    shares = (("won", result.wins), ("tied", result.ties), ("lost", result.losses))
    css = {"won": series_class(colour), "tied": "band", "lost": series_class(other_colour)}
    for name, count in shares:
        width = WIDTH * count / result.choices
        if count:
            parts.append(
                f'<rect class="{css[name]} share" x="{start:.1f}" y="0" '
                f'width="{max(1.0, width - GAP):.1f}" height="{BAR}"/>'
            )
        start += width
    parts.append(f'<line class="zero" x1="{WIDTH / 2}" x2="{WIDTH / 2}" y1="-4" y2="38"/>')
    rate = result.win_rate
    if rate.low is not None and rate.high is not None:
        parts.append(
            f'<line class="{css["won"]} whisker" x1="{WIDTH * rate.low:.1f}" '
            f'x2="{WIDTH * rate.high:.1f}" y1="{RATE_AT}" y2="{RATE_AT}"/>'
        )
    at = WIDTH * rate.value
    parts.append(f'<circle class="{css["won"]}" cx="{at:.1f}" cy="{RATE_AT}" r="4.4"/>')
    parts += [
        f'<text x="{WIDTH * share:.0f}" y="{LABELS_AT}" text-anchor="{anchor}">'
        f"{percent(share)}</text>"
        for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end"))
    ]
    return svg(label, WIDTH, HEIGHT, parts)


def choices_section(
    style: str,
    variants: Sequence[str],
    preferred: Sequence[Preferred],
    set_aside: Sequence[SetAside],
    asks: bool,
) -> Choices:
    """A card for each two that people chose between, and how to ask them where ``asks``."""
    between = (variants[1], variants[0]) if len(variants) > 1 else (variants[0], BASE)
    command = f"nsync blind make {style} --between {','.join(between)}"
    return Choices(
        cards=tuple(_card(pair, variants) for pair in preferred),
        not_counted=not_counted(set_aside),
        how_to_ask=command if asks else "",
    )


def _card(pair: Preferred, variants: Sequence[str]) -> ChoiceCard:
    a, b, result = pair.a, pair.b, pair.preference
    winner = winner_of(a, b, result)
    colours = [None if name == BASE else variants.index(name) for name in (a, b)]
    return ChoiceCard(
        title=f"{a} against {b}",
        verdict={a: "better", b: "worse", None: "inconclusive"}[winner],
        said="inconclusive" if winner is None else f"{winner} preferred",
        sides=(Side(a, colours[0], result.wins), Side(b, colours[1], result.losses)),
        ties=result.ties,
        chart=preference_chart(
            f"{a} won {result.wins}, cannot tell {result.ties}, {b} won {result.losses}",
            result,
            *colours,
        ),
        reason=preference_explained(a, b, result),
        counted=choices_counted(result, pair.people),
    )
