"""What ``nsync doctor`` finds, a line each."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How a line is to be read."""

    OK = "ok"
    WARN = "warn"  # works, or is not needed by all
    MISSING = "missing"  # the pipeline cannot run without it


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's screen."""

    state: State
    subject: str
    found: str
    advice: str = ""  # what to do; for lines that are not ok
