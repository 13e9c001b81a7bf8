"""Times that can be trusted on a machine with other work: by turns, warmed up, with their spread.

Ways to do the same are taken by turns, round after round, so that what disturbs one disturbs the
others, too. Of each the median counts, and of two ways the median of their ratios round by round.
The spread is that of the middle half: the upper quartile over the lower one. A ratio whose spread
is larger than ``MOST_SPREAD`` is not told: it says more of the machine than of the ways.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

MOST_SPREAD = 1.3


@dataclass(frozen=True)
class Timing:
    """A figure over the rounds: seconds, or a ratio."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """The upper quartile over the lower one; of one value 1."""
        if len(self.values) < 2:
            return 1.0
        lower, _, upper = statistics.quantiles(self.values, n=4, method="inclusive")
        return upper / lower

    def over(self, other: "Timing") -> "Timing":
        """The ratio, round by round."""
        pairs = zip(self.values, other.values, strict=True)
        return Timing(tuple(a / b for a, b in pairs))

    def told(self, scale: float = 1.0, digits: int = 2) -> str:
        """With its spread, as ``12.3 (1.05)``."""
        return f"{self.median * scale:.{digits}f} ({self.spread:.2f})"


def ratio(a: Timing, b: Timing) -> str:
    """``a`` over ``b`` with its spread, or that the spread is too large to tell."""
    found = a.over(b)
    if found.spread > MOST_SPREAD:
        return f"not told: spread {found.spread:.2f}"
    return found.told()


def by_turns(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Each way's time in each of ``rounds``, after ``warm_up`` rounds that do not count.

    On one thread of a CPU, ``time.process_time`` leaves out what others use of the machine.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(warm_up + rounds):
        for name, way in ways.items():
            began = clock()
            way()
            if number >= warm_up:
                found[name].append(clock() - began)
    return {name: Timing(tuple(values)) for name, values in found.items()}


def machine(threads: int) -> str:
    """What the figures hang on: the processor, threads and how busy the machine is."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    cores = os.cpu_count() or 1
    return f"{platform.machine()}, {cores} cores, {threads} threads, load {load:.1f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
