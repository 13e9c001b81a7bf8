"""What people chose between two, as a bar, with the win rate and its interval below."""

from nsync_pipeline.metrics.preference import Preference
from nsync_pipeline.report.charts import SERIES_COLOURS, svg
from nsync_pipeline.report.numbers import percent

WIDTH, HEIGHT = 300, 54
BAR, GAP = 12, 2  # the bar's height, and what is left free between its parts
RATE_AT, LABELS_AT = 27, 50


def preference_chart(
    label: str, told: Preference, colour: int | None, other_colour: int | None
) -> str:
    """Won from the left, lost from the right, "cannot tell" between; the line is at a half.

    Colours are the numbers of the variants; None for what is no variant.
    """
    parts, start = [], 0.0
    shares = (("won", told.wins), ("tied", told.ties), ("lost", told.losses))
    css = {"won": _css(colour), "tied": "band", "lost": _css(other_colour)}
    for name, count in shares:
        width = WIDTH * count / told.choices
        if count:
            parts.append(
                f'<rect class="{css[name]} share" x="{start:.1f}" y="0" '
                f'width="{max(1.0, width - GAP):.1f}" height="{BAR}"/>'
            )
        start += width
    parts.append(f'<line class="zero" x1="{WIDTH / 2}" x2="{WIDTH / 2}" y1="-4" y2="38"/>')
    rate = told.win_rate
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


def _css(colour: int | None) -> str:
    return "plain" if colour is None else f"series-{colour % SERIES_COLOURS}"
