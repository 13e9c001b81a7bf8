"""What people chose: in words, and as a bar."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from nsync_pipeline.blind.choices import DRAWN_AGAIN, GONE, SetAside
from nsync_pipeline.blind.preference import Preference
from nsync_pipeline.metrics.bootstrap import Interval
from nsync_pipeline.report.choices import (
    GAP,
    WIDTH,
    choices_counted,
    not_counted,
    preference_chart,
    preference_explained,
    winner_of,
)

CLEAR = Preference(Interval(0.75, 0.6, 0.9), wins=28, ties=4, losses=8, prompts=20)
OPEN = Preference(Interval(0.55, 0.4, 0.7), wins=20, ties=4, losses=16, prompts=20)


def turned(told: Preference) -> Preference:
    """The same choices, of the other one."""
    rate = told.win_rate
    assert rate.low is not None
    assert rate.high is not None
    turned_rate = Interval(1 - rate.value, 1 - rate.high, 1 - rate.low)
    return Preference(turned_rate, told.losses, told.ties, told.wins, told.prompts)


def said(a: str, b: str, told: Preference) -> str:
    return preference_explained(a, b, told).replace("\N{NO-BREAK SPACE}", " ")


def test_who_is_preferred_is_the_same_whoever_is_named_first() -> None:
    assert winner_of("nsync", "lora", CLEAR) == "nsync"
    assert winner_of("lora", "nsync", turned(CLEAR)) == "nsync"
    told = "People find nsync nearer to the style: they chose it in 75 % (60 to 90) of cases."
    assert said("nsync", "lora", CLEAR) == told
    assert said("lora", "nsync", turned(CLEAR)) == told


def test_what_chance_could_have_chosen_is_no_preference() -> None:
    assert winner_of("nsync", "lora", OPEN) is None
    told = (
        "People chose nsync in 55 % (40 to 70) of cases. A half, which is no preference, is in "
        "that range."
    )
    assert said("nsync", "lora", OPEN) == told
    assert said("lora", "nsync", turned(OPEN)) == told


def test_a_range_that_ends_at_a_half_decides_nothing() -> None:
    assert winner_of("nsync", "lora", Preference(Interval(0.6, 0.5, 0.7), 6, 0, 4, 10)) is None


def test_both_chosen_equally_often_have_nobody_ahead() -> None:
    even = Preference(Interval(0.5, 0.3, 0.7), 2, 0, 2, 4)
    assert said("nsync", "lora", even) == "People chose either in 50 % (30 to 70) of cases."


@pytest.mark.parametrize(
    ("told", "people", "counted"),
    [
        (CLEAR, 2, "40 choices by two people, about 20 captions."),
        (Preference(Interval(1.0, 0.0, 1.0), 1, 0, 0, 1), 1,
         "1 choice by one person, about 1 caption."),
    ],
)  # fmt: skip
def test_choices_and_people_are_counted(told: Preference, people: int, counted: str) -> None:
    assert choices_counted(told, people) == counted


def test_files_that_are_set_aside_are_told_by_reason() -> None:
    redrawn, gone = (SetAside(Path("a.json"), 4, reason) for reason in (DRAWN_AGAIN, GONE))
    assert not_counted(()) == ""
    assert not_counted([redrawn]) == (
        "One file of choices is not counted here: the pictures were drawn again since."
    )
    assert not_counted([gone, redrawn, gone]) == (
        "2 files of choices are not counted here: a variant or training seed they are about is no "
        "longer in params.yaml. "
    ) + not_counted([redrawn])


def test_the_bar_is_shared_out_as_the_choices_were() -> None:
    """28, 4 and 8 of 40: 70 %, 10 % and 20 % of the width, each less the gap after it."""
    root = ET.fromstring(preference_chart("a <b>", CLEAR, 1, None))
    assert root.attrib["aria-label"] == "a <b>"
    bars = [(bar.attrib["class"], float(bar.attrib["x"]), float(bar.attrib["width"]))
            for bar in root.iter("rect")]  # fmt: skip
    assert bars == [
        ("series-1 share", 0.0, 0.7 * WIDTH - GAP),
        ("band share", 0.7 * WIDTH, 0.1 * WIDTH - GAP),
        ("plain share", 0.8 * WIDTH, 0.2 * WIDTH - GAP),
    ]
    (rate,) = root.iter("circle")
    assert float(rate.attrib["cx"]) == 0.75 * WIDTH
    half, interval = root.iter("line")
    assert float(half.attrib["x1"]) == WIDTH / 2
    assert [float(interval.attrib[end]) for end in ("x1", "x2")] == [0.6 * WIDTH, 0.9 * WIDTH]


def test_who_was_never_chosen_has_no_part_of_the_bar() -> None:
    chart = preference_chart("x", Preference(Interval(1.0, 0.6, 1.0), 5, 0, 0, 5), 0, 1)
    assert re.findall(r'<rect class="([^"]*)"', chart) == ["series-0 share"]
