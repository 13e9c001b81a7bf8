"""Deliver what is left, now: ``nsync deliver``."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nsync_pipeline.tracking.sweep import Sender, destinations, events_left, sweep


@dataclass(frozen=True)
class HandOver:
    """What became of the spool."""

    delivered: int
    """Events."""
    left: int
    """Events that did not get through."""
    problems: dict[str, str]
    """By tracking server, why."""


def hand_over(tracking: Path, to: str | None = None) -> HandOver:
    """Send all that is spooled to where it was meant for, or to the server ``to`` instead."""
    delivered = 0
    problems = {}
    for uri in destinations(tracking):
        target = uri if to is None else to
        swept = sweep(tracking, uri, late_sender(tracking, target))
        delivered += swept.delivered
        if swept.problem is not None:
            problems[target] = swept.problem
    return HandOver(delivered, events_left(tracking), problems)


def late_sender(tracking: Path, uri: str) -> Callable[[], Sender]:
    """Connects, and imports mlflow, at the first call."""

    @cache
    def connected() -> Sender:
        from nsync_pipeline.tracking.delivery import Delivery

        return Delivery(tracking, uri)

    return connected
