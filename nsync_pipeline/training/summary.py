"""A whole training in a few figures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from nsync_pipeline.training.history import StepRecord

LAST_SHARE = 0.1
"""A single step's loss is mostly noise: the last losses are means over this share of the steps."""


@dataclass(frozen=True)
class TrainingSummary:
    """None where a branch, or a held-out picture, is not there."""

    last_loss_positive: float
    last_loss_negative: float | None
    last_loss_anchor: float | None
    mean_cosine_negative: float | None  # over all steps
    mean_cosine_anchor: float | None
    mean_share_removed: float
    largest_share_removed: float
    held_out_loss_before: float | None
    held_out_loss: float | None

    def figures(self) -> dict[str, float]:
        """The values there are."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def summarise(history: Sequence[StepRecord], held_out: Mapping[int, float]) -> TrainingSummary:
    """The summary of ``history``, one record or more; ``held_out`` is the loss by steps done."""
    last = history[-max(1, round(LAST_SHARE * len(history))) :]
    return TrainingSummary(
        last_loss_positive=fmean(record.loss_positive for record in last),
        last_loss_negative=_mean(record.loss_negative for record in last),
        last_loss_anchor=_mean(record.loss_anchor for record in last),
        mean_cosine_negative=_mean(record.cosine_negative for record in history),
        mean_cosine_anchor=_mean(record.cosine_anchor for record in history),
        mean_share_removed=fmean(record.share_removed for record in history),
        largest_share_removed=max(record.share_removed for record in history),
        held_out_loss_before=held_out.get(0),
        held_out_loss=held_out.get(history[-1].step),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return fmean(there) if there else None
