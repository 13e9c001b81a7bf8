"""Which of several processes that train together this one is; by the names torchrun gave them.

And how many cores a process may use.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Rank:
    """One of ``count`` processes."""

    index: int = 0
    count: int = 1
    here: int = 1  # of them on this machine

    @property
    def is_first(self) -> bool:
        """The first process writes, logs and tells; the others compute."""
        return self.index == 0


def cores() -> tuple[int, ...]:
    """Those that this process may use, by number."""
    if sys.platform == "linux":
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(cores())


def this_rank(environ: Mapping[str, str] = os.environ) -> Rank:
    """As ``nsync run --processes``, ``accelerate launch`` and ``torchrun`` say it; else alone."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= set(environ):
        return Rank()
    here = int(environ.get("LOCAL_WORLD_SIZE", "1"))
    return Rank(int(environ["RANK"]), int(environ["WORLD_SIZE"]), here)
