"""The tables of the page, as Markdown."""

import statistics
from collections.abc import Iterable, Sequence

from benchmarks.evidence.comparison import (
    CONTENT,
    LEAK,
    STYLE,
    Difference,
    Measure,
    Trials,
    measure,
)
from benchmarks.evidence.matrix import METHODS, SETS
from nsync_pipeline.metrics.bootstrap import Interval

AIM = {STYLE: 0.8, CONTENT: 0.9, LEAK: 0.05}
"""What a useful method does on a confounded set: style and content at least, leak at most."""
DIGITS = 2


def rates_table(trials: Trials, of: str) -> list[str]:
    """A row a method: the means over styles and seeds, with intervals."""
    confounded = SETS[of].confound is not None
    heads = ["method", "style recognised", "content kept", *(["leak"] if confounded else [])]
    heads += ["style margin", "CMMD", "s a training", "trainings"]
    rows = []
    for method in trials.methods(of):
        seeds = trials.seeds(of, method)
        each = trials.each(of, method)
        row = [f"`{method}`", _measured(trials, of, method, STYLE, seeds)]
        row.append(_measured(trials, of, method, CONTENT, seeds))
        if confounded:
            row.append(_measured(trials, of, method, LEAK, seeds))
        row += [_measured(trials, of, method, name, seeds) for name in ("style_margin", "cmmd")]
        row += [_mean((r.training.get("seconds") for r in each), 0), str(len(each))]
        rows.append(row)
    return markdown(heads, rows)


def styles_table(trials: Trials, of: str) -> list[str]:
    """A row a method, a column a style: style / content / leak, means over seeds."""
    styles = trials.styles(of)
    rows = []
    for method in trials.methods(of):
        row = [f"`{method}`"]
        for style in styles:
            seeds = {style: trials.seeds(of, method)[style]}
            found = [measure(trials, of, method, name, seeds) for name in (STYLE, CONTENT, LEAK)]
            row.append(" / ".join(rate(one.value) for one in found if one is not None))
        rows.append(row)
    return markdown(["method", *(style.replace("_", " ") for style in styles)], rows)


def differences_table(found: Sequence[Difference]) -> list[str]:
    rows = [
        [
            f"`{one.a}` less `{one.b}`",
            difference(one.style),
            f"{one.p_style:.3f}",
            difference(one.content),
            f"{one.p_content:.3f}",
            "" if one.leak is None else difference(one.leak),
            str(one.trainings),
            one.verdict if one.verdict != "better" else "**better**",
        ]
        for one in found
    ]
    heads = ["", "style recognised", "p", "content kept", "p", "leak", "trainings each", "verdict"]
    return markdown(heads, rows)


def diagnostics_table(trials: Trials, of: str) -> list[str]:
    """A row a method: how its two gradients lay to each other, and what was removed."""
    columns = {
        "mean_share_removed": "share removed",
        "cosine_early": "cos(g+, g-), first 20 steps",
        "cosine_later": "later",
        "cosine_deviation": "its deviation from step to step",
        "length_of_negative": "length of g- / g+",
        "last_loss_negative": "loss of the negatives, at the end",
        "held_out_loss": "held-out loss",
    }
    rows = [
        [
            f"`{method}`",
            *(_mean(r.training.get(name) for r in trials.each(of, method)) for name in columns),
        ]
        for method in trials.methods(of)
    ]
    return markdown(["method", *columns.values()], rows)


def methods_table(names: Iterable[str]) -> list[str]:
    rows = [[f"`{name}`", METHODS[name].words] for name in METHODS if name in set(names)]
    return markdown(["method", "what it is"], rows, "---")


def markdown(
    heads: Sequence[str], rows: Sequence[Sequence[str]], alignment: str = "---:"
) -> list[str]:
    """A table; ``alignment`` is that of all columns but the first."""
    lines = [heads, ["---", *[alignment] * (len(heads) - 1)], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def rate(value: float) -> str:
    return f"{round(value, DIGITS) + 0.0:.{DIGITS}f}"  # + 0.0: no minus before a zero


def ranged(shown: Interval) -> str:
    if shown.low is None or shown.high is None:
        return rate(shown.value)
    return f"{rate(shown.value)} ({rate(shown.low)} to {rate(shown.high)})"


def difference(one: Measure) -> str:
    shown = one.interval
    if shown.low is None or shown.high is None:
        return _signed(shown.value)
    return f"{_signed(shown.value)} ({_signed(shown.low)} to {_signed(shown.high)})"


def _signed(value: float) -> str:
    return f"{round(value, DIGITS) + 0.0:+.{DIGITS}f}"


def _measured(trials: Trials, of: str, method: str, name: str, seeds: dict[str, list[int]]) -> str:
    found = measure(trials, of, method, name, seeds)
    if found is None:
        return ""
    shown = found.interval
    if name in AIM and shown.low is not None and shown.high is not None:
        # Widened for the few seeds it may leave what a share can be.
        shown = Interval(shown.value, max(0.0, shown.low), min(1.0, shown.high))
    return ranged(shown)


def _mean(values: Iterable[float | None], digits: int = DIGITS) -> str:
    there = [value for value in values if value is not None]
    return f"{statistics.fmean(there):.{digits}f}" if there else ""
