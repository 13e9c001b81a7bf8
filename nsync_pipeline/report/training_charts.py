"""The curves of a training, all variants in each chart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nsync_pipeline.report.charts import Line, line_chart

Row = Mapping[str, float | None]
"""One optimizer step of ``history.csv``; None where a branch is not there."""


@dataclass(frozen=True)
class Training:
    """One variant's training, as it left it."""

    variant: str
    history: Sequence[Row]
    held_out: Mapping[int, float]  # loss on held-out pictures by steps done


@dataclass(frozen=True)
class Chart:
    """A chart with what it says."""

    title: str
    meaning: str
    svg: str


@dataclass(frozen=True)
class _Curve:
    column: str
    title: str
    meaning: str
    zero: bool = True
    over: str | None = None  # divided by this column


_CURVES = (
    _Curve("loss_positive", "Loss on style pictures", "What training brings down.", zero=False),
    _Curve(
        "loss_negative", "Loss on negatives",
        "Grows as the style's word stops meaning a generic picture.",
    ),
    _Curve(
        "cosine_negative", "Cosine of style and negative gradients",
        "Above 0 they pull the same way; that part is what the method removes.",
    ),
    _Curve(
        "cosine_anchor", "Cosine of style and anchor gradients",
        "How far two style pictures agree; that part the anchor term adds again.",
    ),
    _Curve("share_removed", "Share of the gradient removed", "0 is plain training."),
    _Curve("norm_positive", "Length of the style gradient", "Before anything is removed."),
    _Curve(
        "norm_negative", "Negative over style gradient", "The lengths' ratio.", over="norm_positive"
    ),
    _Curve("norm_refined", "Length of the refined gradient", "Before it is clipped."),
)  # fmt: skip


def training_charts(trainings: Sequence[Training]) -> list[Chart]:
    """A chart a quantity; what no variant has (an anchor, say) has no chart."""
    charts = []
    for curve in _CURVES:
        lines = [
            Line(training.variant, colour, points)
            for colour, training in enumerate(trainings)
            if (points := _points(training, curve))
        ]
        if lines and any(value for line in lines for _, value in line.points):
            charts.append(_chart(curve.title, curve.meaning, lines, curve.zero))
    held_out = [
        Line(training.variant, colour, tuple(sorted(training.held_out.items())), noisy=False)
        for colour, training in enumerate(trainings)
        if training.held_out
    ]
    if held_out:
        title = "Loss on held-out pictures"
        meaning = "Always at the same noise: when it rises, training has gone too far."
        charts.insert(1, _chart(title, meaning, held_out, zero=False))
    return charts


def _points(training: Training, curve: _Curve) -> tuple[tuple[float, float], ...]:
    points = []
    for row in training.history:
        step, value = row["step"], row[curve.column]
        under = 1.0 if curve.over is None else row[curve.over]
        if step is not None and value is not None and under:
            points.append((step, value / under))
    return tuple(points)


def _chart(title: str, meaning: str, lines: Sequence[Line], zero: bool) -> Chart:
    ends = ", ".join(
        f"{line.name} from {line.points[0][1]:.3g} to {line.points[-1][1]:.3g}" for line in lines
    )
    return Chart(title, meaning, line_chart(f"{title} over the steps: {ends}.", lines, zero))
