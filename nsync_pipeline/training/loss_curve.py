"""A picture of a training: its losses, and how the gradients lie to each other."""

import io
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from nsync_pipeline.training.history import StepRecord

COLOURS = {"positive": "#1b6ca8", "negative": "#b3541e", "anchor": "#4f8a4b"}


def loss_curve(history: Sequence[StepRecord], held_out: Mapping[int, float]) -> bytes:
    """A JPEG of well under 100 KB: losses above, cosines with the positive gradient below."""
    steps = [record.step for record in history]
    figure = Figure(figsize=(6.4, 4.8), dpi=90, layout="constrained")
    losses, cosines = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for branch, colour in COLOURS.items():
        loss = _column(history, f"loss_{branch}")
        if loss:
            losses.plot(steps, loss, color=colour, label=branch, linewidth=1)
        cosine = _column(history, f"cosine_{branch}") if branch != "positive" else []
        if cosine:
            cosines.plot(steps, cosine, color=colour, label=f"with {branch}", linewidth=1)
    if held_out:
        done = sorted(held_out)
        marked = [held_out[step] for step in done]
        losses.plot(done, marked, "k.--", label="held out", linewidth=1, markersize=5)
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


def _column(history: Sequence[StepRecord], name: str) -> list[float]:
    """The values of one figure a step, NaN where one is not defined; empty where it never is."""
    values = [getattr(record, name) for record in history]
    if all(value is None for value in values):
        return []
    return [float("nan") if value is None else value for value in values]
