"""The report's section on ways of drawing: the curve, the table, and what to draw with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nsync_pipeline.drawing.config import GuidanceConfig
from nsync_pipeline.evaluation.curves import Choice, Curves
from nsync_pipeline.metrics.bootstrap import Interval
from nsync_pipeline.metrics.catalogue import METRICS, Metric
from nsync_pipeline.pictures.embedded import Picture
from nsync_pipeline.report.charts import Curve, CurvePoint, Side, curve_chart
from nsync_pipeline.report.figures import Cell, digits_for, percent, shown
from nsync_pipeline.report.pictures import ReportPictures
from nsync_pipeline.report.words import GUARDRAILS, listed

LETTERS = {"ordinary": "s", "base_empty": "b", "difference": "d"}
LABELLED = 40
"""The most points that are written beside."""


@dataclass(frozen=True)
class Suggestion:
    """In which way to draw a variant."""

    variant: str
    colour: int
    way: GuidanceConfig
    text: str
    elsewhere: str  # for other programs; empty where the same holds there


@dataclass(frozen=True)
class CurvesSection:
    measured: Curves
    style: Metric
    content: Metric
    chart: str
    rows: tuple[tuple[str, list[tuple[str, bool]]], ...]
    """A way each, in words; of each variant the figures, and whether it is its best."""
    areas: tuple[Cell, ...]  # a variant each; none where there is no scale
    suggestions: tuple[Suggestion, ...]
    caption: str
    pictures: tuple[tuple[str, int, list[Picture]], ...]


def curves_section(
    curves: Curves | None, variants: Sequence[str], pictures: ReportPictures
) -> CurvesSection | None:
    """None where there is one way of drawing; without suggestions where no way was chosen."""
    if curves is None:
        return None
    style, content = _metrics(curves)
    best = {name: choice.way for name, choice in curves.best.items()}
    ways = {way.key: way for way in curves.ways}
    drawn = {name: pictures.in_ways(name, list(ways)[1:]) for name in variants}

    def cell(name: str, key: str) -> tuple[str, bool]:
        figures = curves.variants[name][key]
        texts = [_one(figures[metric.name].value, metric) for metric in (style, content)]
        return " / ".join(texts), best.get(name) == key

    return CurvesSection(
        measured=curves,
        style=style,
        content=content,
        chart=_chart(curves, variants, best),
        rows=tuple(
            (way.words, [cell(name, key) for name in variants]) for key, way in ways.items()
        ),
        areas=tuple(_area(curves.areas[name]) for name in variants if name in curves.areas),
        suggestions=tuple(
            Suggestion(
                name, variants.index(name), ways[best[name]], suggested(curves, name),
                elsewhere(curves, name),
            )
            for name in variants
            if name in best
        ),
        caption=next(iter(drawn.values()))[0],
        pictures=tuple((n, variants.index(n), shown) for n, (_, shown) in drawn.items()),
    )  # fmt: skip


def suggested(curves: Curves, variant: str) -> str:
    """What the best way gives, against the present one, on captions that it was not chosen by."""
    choice, now = curves.best[variant], curves.now[variant]
    sentences = []
    if choice.way == now.way:
        told = figures_in_words(curves, choice)
        sentences.append(f"No way that was tried is better than the present one: {told}.")
    else:
        told = f"{figures_in_words(curves, choice)}; as params.yaml draws now, "
        sentences.append(f"{told[0].upper()}{told[1:]}{figures_in_words(curves, now)}.")
    if choice.breaks:
        broken = listed([GUARDRAILS[name] for name in choice.breaks])
        sentences.append(f"But there it {broken}, by more than is allowed against the base.")
    if (ends := _at_an_end(curves.ways, choice.way)) is not None:
        sentences.append(f"It is the {ends} of its form that was tried: one beyond may be better.")
    return " ".join(sentences)


def elsewhere(curves: Curves, variant: str) -> str:
    """What other programs are told; empty where there is no way that they draw in."""
    ways = {way.key: way for way in curves.ways}
    choice = curves.best_ordinary.get(variant)
    if choice is None:
        return ""
    strength = f"{ways[choice.way].lora_strength:g}"
    return (
        f"In ComfyUI, A1111 and diffusers: LoRA strength {strength}"
        + (", their ordinary guidance" if choice.way != curves.best[variant].way else "")
        + "."
    )


def figures_in_words(curves: Curves, choice: Choice) -> str:
    """Style and content of a choice, with their intervals, on the captions that judge."""
    told = [
        f"{_in_text(metric.title)} {_with_interval(choice.figures[metric.name], metric)}"
        for metric in _metrics(curves)
    ]
    return " and ".join(told)


def _metrics(curves: Curves) -> tuple[Metric, Metric]:
    """Of style, and of content."""
    of_name = {metric.name: metric for metric in METRICS}
    return of_name[curves.style.metric], of_name[curves.content.metric]


def _in_text(title: str) -> str:
    return title if title.isupper() or "-" in title else title.lower()


def _with_interval(figure: Interval, metric: Metric) -> str:
    ends = [end for end in (figure.low, figure.high) if end is not None]
    text = _one(figure.value, metric)
    return f"{text} ({' to '.join(_one(end, metric) for end in ends)})" if ends else text


def _one(value: float, metric: Metric) -> str:
    return percent(value) if metric.percent else shown(value, digits_for([value]))


def _at_an_end(ways: Sequence[GuidanceConfig], key: str) -> str | None:
    """Whether it is the weakest or strongest of several of its form."""
    own = next(way for way in ways if way.key == key)
    amounts = [way.amount for way in ways if way.form == own.form]
    if len(set(amounts)) < 2 or min(amounts) < own.amount < max(amounts):
        return None
    return "strongest" if own.amount == max(amounts) else "weakest"


def _shown_at(figures: Mapping[str, Interval], metric: Metric) -> float:
    return figures[metric.name].value * (100.0 if metric.percent else 1.0)


def _area(area: Interval) -> Cell:
    ends = [end for end in (area.low, area.high) if end is not None]
    return Cell(shown(area.value, 2), " to ".join(shown(min(max(e, 0), 1), 2) for e in ends))


def _chart(curves: Curves, variants: Sequence[str], best: Mapping[str, str]) -> str:
    style, content = _metrics(curves)
    labelled = len(variants) * len(curves.ways) <= LABELLED
    drawn, told = [], []
    for colour, name in enumerate(variants):
        at = {
            way.key: (_shown_at(figures, content), _shown_at(figures, style))
            for way in curves.ways
            if (figures := curves.variants[name][way.key])
        }
        points = tuple(
            CurvePoint(
                *at[way.key],
                name=f"{name}, {way.words}",
                short=f"{LETTERS[way.form]} {way.amount:g}" if labelled else "",
                ringed=best.get(name) == way.key,
            )
            for way in curves.ways
        )
        forms = {
            form: sorted((way for way in curves.ways if way.form == form), key=lambda w: w.amount)
            for form in LETTERS
        }
        lines = tuple(
            tuple(at[way.key] for way in of_form) for of_form in forms.values() if len(of_form) > 1
        )
        drawn.append(Curve(colour, points, lines))
        told += [f"{point.name} {point.y:.3g} / {point.x:.3g}" for point in points]
    label = f"{style.title} against {content.title}: {'; '.join(told)}."
    sides = (
        Side(f"{one.title}, %", 100.0) if one.percent else Side(one.title)
        for one in (content, style)
    )
    return curve_chart(label, drawn, *sides)
