"""What is kept of every optimizer step: as a table, in a few figures, as a picture."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

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


HISTORY_FILE = "history.csv"
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
    return "".join(csv_line(row) for row in (COLUMNS, *map(astuple, records)))


def csv_line(row: Iterable[str | float | None]) -> str:
    """One line of CSV: every digit kept, None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue()


LAST_SHARE = 0.1
"""A single step's loss is mostly noise: the last losses are means over this share of the steps."""


def summarise(history: Sequence[StepRecord], held_out: Mapping[int, float]) -> dict[str, float]:
    """The figures of ``history``, one record or more, and the held-out loss by steps done.

    Those of a branch, or a held-out picture, that is not there are left out.
    """
    last = history[-max(1, round(LAST_SHARE * len(history))) :]
    figures = {
        "last_loss_positive": fmean(record.loss_positive for record in last),
        "last_loss_negative": _mean(record.loss_negative for record in last),
        "last_loss_anchor": _mean(record.loss_anchor for record in last),
        "mean_cosine_negative": _mean(record.cosine_negative for record in history),
        "mean_cosine_anchor": _mean(record.cosine_anchor for record in history),
        "mean_share_removed": fmean(record.share_removed for record in history),
        "largest_share_removed": max(record.share_removed for record in history),
        "held_out_loss_before": held_out.get(0),
        "held_out_loss": held_out.get(history[-1].step),
    }
    return {name: value for name, value in figures.items() if value is not None}


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return fmean(there) if there else None


COLOURS = {"positive": "#1b6ca8", "negative": "#b3541e", "anchor": "#4f8a4b"}


def loss_curve(history: Sequence[StepRecord], held_out: Mapping[int, float]) -> bytes:
    """A JPEG of well under 100 KB: losses above, cosines with the positive gradient below."""
    figure = Figure(figsize=(6.4, 4.8), dpi=90, layout="constrained")
    losses, cosines = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for branch, colour in COLOURS.items():
        _draw(losses, history, f"loss_{branch}", branch, colour)
        if branch != "positive":
            _draw(cosines, history, f"cosine_{branch}", f"with {branch}", colour)
    if held_out:
        points = zip(*sorted(held_out.items()), strict=True)
        losses.plot(*points, "k.--", label="held out", linewidth=1, markersize=5)
    losses.set_ylabel("loss")
    losses.set_ylim(bottom=0)
    losses.legend(fontsize="small")
    cosines.axhline(0, color="#999999", linewidth=0.8)
    cosines.set_ylabel("cosine of gradients")
    cosines.set_xlabel("optimizer step")
    if cosines.get_legend_handles_labels()[0]:
        cosines.legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg")
    return buffer.getvalue()


def _draw(axes: Axes, history: Sequence[StepRecord], name: str, label: str, colour: str) -> None:
    """Draw the column ``name``, with gaps where it is not defined; not at all where it never is."""
    values = [getattr(record, name) for record in history]
    if any(value is not None for value in values):
        defined = [math.nan if value is None else value for value in values]
        axes.plot([r.step for r in history], defined, color=colour, label=label, linewidth=1)
