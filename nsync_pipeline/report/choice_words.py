"""What people chose, in plain words. Every sentence follows from their choices."""

from nsync_pipeline.metrics.preference import Preference
from nsync_pipeline.report.numbers import percent, shown
from nsync_pipeline.report.words import number


def preferred(a: str, b: str, told: Preference) -> str | None:
    """Which of the two people prefer; None where chance could have chosen so."""
    if not told.beyond_chance:
        return None
    return a if told.win_rate.value > 0.5 else b


def preference_explained(a: str, b: str, told: Preference) -> str:
    """The win rate with its interval, of the one that is ahead."""
    first = a if told.win_rate.value >= 0.5 else b
    rate = _rate(told, of_a=first == a)
    if preferred(a, b, told) is not None:
        return f"People find {first} nearer to the style: they chose it in {rate} of cases."
    if told.win_rate.value == 0.5:
        return f"People chose either in {rate} of cases."
    return (
        f"People chose {first} in {rate} of cases. A half, which is no preference, is in that "
        "range."
    )


def choices_counted(told: Preference, people: int) -> str:
    """``80 choices by two people, about 40 captions``."""
    who = "one person" if people == 1 else f"{number(people)} people"
    return (
        f"{_counted(told.choices, 'choice')} by {who}, about {_counted(told.prompts, 'caption')}."
    )


def outdated_choices(files: int) -> str:
    """About files that are not counted; empty where there are none."""
    if not files:
        return ""
    told = "One file of choices is" if files == 1 else f"{files} files of choices are"
    return (
        f"{told} not counted here: the pictures were drawn again since, or their variant is gone."
    )


def _rate(told: Preference, of_a: bool) -> str:
    rate = told.win_rate
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
