"""Figures as a reader wants them: as many digits as tell something, and a true minus sign."""

import math
from collections.abc import Iterable

MINUS = "\N{MINUS SIGN}"


def digits_for(values: Iterable[float]) -> int:
    """Decimals that show three significant digits of the largest of ``values``: 0 .. 6."""
    largest = max((abs(value) for value in values), default=0.0)
    if largest == 0.0:
        return 2
    return min(6, max(0, 2 - math.floor(math.log10(largest))))


def shown(value: float, digits: int, signed: bool = False) -> str:
    """``value`` at so many decimals; ``signed`` writes the plus, too. Zero has no sign."""
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0.0:
        return text.lstrip("+-")
    return text.replace("-", MINUS)


def percent(value: float) -> str:
    """A share in per cent, whole."""
    return shown(100.0 * value, 0) + " %"
