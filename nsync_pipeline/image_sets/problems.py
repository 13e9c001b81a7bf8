"""What is wrong with the files of a source: gathered first, then said all at once."""

from collections.abc import Sequence
from dataclasses import dataclass

LISTED = 20


@dataclass(frozen=True)
class Problem:
    """A file that cannot be used."""

    name: str  # POSIX, relative to the source
    reason: str  # goes on after the name: "is empty (0 bytes)"

    def __str__(self) -> str:
        return f"{self.name} {self.reason}"


def bullet_list(items: Sequence[object], most: int = LISTED) -> str:
    """``items`` one a line; those after the first ``most`` are counted."""
    lines = [f"  - {item}" for item in items[:most]]
    if len(items) > most:
        lines.append(f"  - and {len(items) - most} more")
    return "\n".join(lines)


def short_list(items: Sequence[object], most: int = 5) -> str:
    """``items`` in one line; those after the first ``most`` are counted."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(str(item) for item in items[:most]) + more
