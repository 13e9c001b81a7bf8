"""Which of the weights that were looked at scored best."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Best:
    """The best look so far."""

    step: int  # optimizer steps done
    score: float  # higher is better


def better(best: Best | None, step: int, score: float | None) -> bool:
    """Whether the look after ``step`` steps is the best; untrained weights never are.

    Of two with the same score the earlier is: what was learned since brought nothing.
    """
    if score is None or step == 0:
        return False
    return best is None or score > best.score
