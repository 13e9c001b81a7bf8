"""How fast something goes, and how long the rest will take."""

from collections import deque

REMEMBERED = 50
"""Items over which the speed is a mean: long enough that a pause now and then (a checkpoint, a
look) is part of it, short enough to follow the machine."""

SHORTEST = 1e-3
"""Seconds. What is told sooner after the item before it was done earlier: a training that goes on
tells the steps of before its interruption again, all at once."""


class Pace:
    """The mean speed over the last items; ask it after each one."""

    def __init__(self) -> None:
        self._told: deque[tuple[int, float]] = deque(maxlen=REMEMBERED + 1)  # (done, seconds)

    def tell(self, done: int, now: float) -> None:
        """So many items are done at ``now`` (seconds of a clock that only goes forward)."""
        if self._told and done < self._told[-1][0]:
            self._told.clear()  # it begins anew
        if self._told and done == self._told[-1][0]:
            return
        if self._told and now - self._told[-1][1] < SHORTEST:
            self._told.pop()
        self._told.append((done, now))

    @property
    def speed(self) -> float | None:
        """Items a second; None before there are two."""
        if len(self._told) < 2:
            return None
        (first, began), (last, now) = self._told[0], self._told[-1]
        return (last - first) / (now - began)

    def left(self, total: int) -> float | None:
        """Seconds until ``total`` items are done; None as ``speed``."""
        speed = self.speed
        return None if speed is None else (total - self._told[-1][0]) / speed


def shown_speed(speed: float) -> str:
    """``12.5 a second``, or ``2.4 s each`` where that is the easier figure."""
    return f"{speed:.3g} a second" if speed >= 1.0 else f"{1.0 / speed:.3g} s each"


def shown_time(seconds: float) -> str:
    """``41 s``, ``12 min``, ``3 h 05 min`` or ``2 d 4 h``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"
