"""What is kept of every optimizer step."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean

from nsync_pipeline.contrast.config import ANCHOR, POSITIVE, Branch
from nsync_pipeline.contrast.refiner import Diagnostics


@dataclass(frozen=True)
class StepRecord:
    """One row of ``history.csv``; None, an empty cell, where something is not there."""

    step: int  # from 1 on
    loss_positive: float
    loss_negative: float | None  # the mean over the negatives of a positive
    loss_anchor: float | None
    norm_positive: float
    norm_negative: float | None
    norm_anchor: float | None
    cosine_negative: float | None
    cosine_anchor: float | None
    share_removed: float
    norm_refined: float  # before it is clipped
    learning_rate: float  # of the denoiser
    largest_share_removed: float | None = None  # of a scope
    cosine_estimate: float | None = None  # of g- and the running estimate before it
    basis_rank: int | None = None  # independent directions removed
    estimate_bytes: int | None = None  # of memory, for the running estimate
    loss_scale: float | None = None  # float16: that the gradients were taken at
    overflows: int | None = None  # float16: attempts thrown away before

    def figures(self) -> dict[str, float]:
        """The values there are, by name, without the step."""
        return {
            key: float(value)
            for key, value in asdict(self).items()
            if value is not None and key != "step"
        }


COLUMNS = tuple(field.name for field in fields(StepRecord))


def step_record(
    step: int,
    losses: Mapping[Branch, float],
    diagnostics: Diagnostics,
    learning_rate: float,
    loss_scale: float | None = None,
    overflows: int = 0,
) -> StepRecord:
    """The record of optimizer step ``step``, counted from 1 on."""
    negatives = [loss for branch, loss in losses.items() if branch.is_negative]
    return StepRecord(
        step=step,
        loss_positive=losses[POSITIVE],
        loss_negative=fmean(negatives) if negatives else None,
        loss_anchor=losses.get(ANCHOR),
        learning_rate=learning_rate,
        loss_scale=loss_scale,
        overflows=None if loss_scale is None else overflows,
        **asdict(diagnostics),
    )


def history_csv(records: Sequence[StepRecord]) -> str:
    """The records as CSV, every digit kept."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for record in records:
        writer.writerow("" if value is None else repr(value) for value in asdict(record).values())
    return text.getvalue()


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
