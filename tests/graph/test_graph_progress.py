"""Speed and time left, as told to a terminal's log or to Dagster's."""

from collections.abc import Iterator

import pytest

from nsync_pipeline.graph.progress import _Lines
from nsync_pipeline.pace import Pace, shown_speed, shown_time


def test_the_speed_is_the_mean_over_the_last_items() -> None:
    """Two seconds an item: half an item a second, so 7 more items take 14 seconds."""
    pace = Pace()
    pace.tell(1, 100.0)
    assert pace.speed is None
    assert pace.left(10) is None
    for done in (2, 3):
        pace.tell(done, 100.0 + 2.0 * (done - 1))
    assert pace.speed == pytest.approx(0.5)
    assert pace.left(10) == pytest.approx(14.0)


def test_old_items_are_forgotten() -> None:
    """A slow start of 10 s an item is gone after 50 items of 1 s each."""
    pace, now = Pace(), 0.0
    for done in range(1, 11):
        pace.tell(done, now := now + 10.0)
    for done in range(11, 62):
        pace.tell(done, now := now + 1.0)
    assert pace.speed == pytest.approx(1.0)


def test_steps_told_again_after_an_interruption_do_not_count() -> None:
    """A hundred steps of before within 10 ms, then two real ones of 4 s each."""
    pace = Pace()
    for done in range(1, 101):
        pace.tell(done, done * 1e-4)
    pace.tell(101, 4.01)
    pace.tell(102, 8.01)
    assert pace.speed == pytest.approx(0.25, rel=1e-3)


def test_items_that_come_in_batches_are_counted_all() -> None:
    pace = Pace()
    for done, now in ((16, 0.0), (32, 4.0), (32, 5.0), (48, 8.0)):
        pace.tell(done, now)
    assert pace.speed == pytest.approx(4.0)


def test_what_begins_anew_has_no_speed_yet() -> None:
    pace = Pace()
    for done, now in ((1, 0.0), (2, 1.0), (0, 2.0)):
        pace.tell(done, now)
    assert pace.speed is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(41.2, "41 s"), (99.6, "2 min"), (5520.0, "92 min"), (11_100.0, "3 h 05 min"),
     (187_200.0, "2 d 4 h")],
)  # fmt: skip
def test_a_time_is_said_in_units_a_person_would_use(seconds: float, text: str) -> None:
    assert shown_time(seconds) == text


def test_a_slow_speed_is_said_by_the_item() -> None:
    assert (shown_speed(12.54), shown_speed(0.4)) == ("12.5 a second", "2.5 s each")


def test_lines_come_every_few_seconds_and_rarer_as_time_goes_by() -> None:
    """A step a second for 300 s: a line each 5 s up to 100 s, then each 5 % of the time gone."""
    seconds: Iterator[int] = iter(range(1000))
    told: list[str] = []
    lines = _Lines("ink", told.append, clock=lambda: float(next(seconds)))
    for done in range(1, 301):
        lines("training", done, 300)
    assert told[0] == "ink: training 5/300, 1 a second, 5 min left"
    assert told[1].startswith("ink: training 10/300")
    early = [line for line in told if int(line.split("training ")[1].split("/")[0]) <= 100]
    assert len(early) == 20
    assert 14 <= len(told) - len(early) <= 24
    assert told[-1] == "ink: training 300/300"
