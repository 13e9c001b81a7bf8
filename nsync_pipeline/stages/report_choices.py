"""What people chose on blind pages, as the report shows it."""

from collections.abc import Sequence

from nsync_pipeline.artifacts import BASE
from nsync_pipeline.report.choice_words import (
    choices_counted,
    outdated_choices,
    preference_explained,
    preferred,
)
from nsync_pipeline.report.page import ChoiceCard, Choices, Side
from nsync_pipeline.report.preference_chart import preference_chart
from nsync_pipeline.stages.blind_choices import Preferred


def choices_section(
    style: str, variants: Sequence[str], found: Sequence[Preferred], outdated: int, asks: bool
) -> Choices:
    """A card for each two that people chose between, and how to ask them where ``asks``."""
    between = (variants[1], variants[0]) if len(variants) > 1 else (variants[0], BASE)
    command = f"nsync blind make {style} --between {','.join(between)}"
    return Choices(
        cards=tuple(_card(one, variants) for one in found),
        outdated=outdated_choices(outdated),
        how_to_ask=command if asks else "",
    )


def _card(found: Preferred, variants: Sequence[str]) -> ChoiceCard:
    a, b, told = found.a, found.b, found.told
    winner = preferred(a, b, told)
    colours = [None if name == BASE else variants.index(name) for name in (a, b)]
    return ChoiceCard(
        title=f"{a} against {b}",
        verdict={a: "better", b: "worse", None: "inconclusive"}[winner],
        said="inconclusive" if winner is None else f"{winner} preferred",
        sides=(Side(a, colours[0], told.wins), Side(b, colours[1], told.losses)),
        ties=told.ties,
        chart=preference_chart(
            f"{a} won {told.wins}, cannot tell {told.ties}, {b} won {told.losses}", told, *colours
        ),
        reason=preference_explained(a, b, told),
        counted=choices_counted(told, found.people),
    )
