"""The curves of a training, all variants in each chart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nsync_pipeline.report.charts import Line, line_chart

Row = Mapping[str, float | None]
"""One optimizer step of ``history.csv``; None where a branch is not there."""


@dataclass(frozen=True)
class Training:
    """One variant's training, as it left it."""

    variant: str
    history: Sequence[Row]
    held_out: Mapping[int, float]  # loss on held-out pictures by steps done
    looks: Mapping[int, float] = field(default_factory=dict)  # style margin by steps done


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
    noisy: bool = True


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
    _Curve(
        "cosine_estimate", "Cosine of a negative gradient with the running estimate",
        "How much of one step's negatives the estimate knew before it.",
    ),
    _Curve("learning_rate", "Learning rate", "Of the denoiser's weights.", noisy=False),
)  # fmt: skip


def training_charts(trainings: Sequence[Training]) -> list[Chart]:
    """A chart a quantity; what no variant has (an anchor, say) has no chart."""
    charts = []
    for curve in _CURVES:
        lines = [
            Line(training.variant, colour, points, curve.noisy, marked=False)
            for colour, training in enumerate(trainings)
            if (points := _points(training, curve))
        ]
        if lines and any(value for line in lines for _, value in line.points):
            charts.append(_chart(curve.title, curve.meaning, lines, curve.zero))
    for title, meaning, values in (
        (
            "Style margin of the looks",
            "Of a few pictures of training captions: nearer to the style above 0.",
            [training.looks for training in trainings],
        ),
        (
            "Loss on held-out pictures",
            "Always at the same noise: when it rises, training has gone too far.",
            [training.held_out for training in trainings],
        ),
    ):
        lines = [
            Line(training.variant, colour, tuple(sorted(found.items())), noisy=False)
            for colour, (training, found) in enumerate(zip(trainings, values, strict=True))
            if found
        ]
        if lines:
            charts.insert(1, _chart(title, meaning, lines, zero=False))
    return charts


def _points(training: Training, curve: _Curve) -> tuple[tuple[float, float], ...]:
    points = []
    for row in training.history:
        step, value = row["step"], row.get(curve.column)
        under = 1.0 if curve.over is None else row[curve.over]
        if step is not None and value is not None and under:
            points.append((step, value / under))
    return tuple(points)


def _chart(title: str, meaning: str, lines: Sequence[Line], zero: bool) -> Chart:
    ends = ", ".join(
        f"{line.name} from {line.points[0][1]:.3g} to {line.points[-1][1]:.3g}" for line in lines
    )
    return Chart(title, meaning, line_chart(f"{title} over the steps: {ends}.", lines, zero))
