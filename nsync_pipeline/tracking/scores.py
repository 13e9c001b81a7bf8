"""What an evaluation says of each variant, and of each training as figures of its own run."""

import json
from collections.abc import Mapping
from pathlib import Path

from nsync_pipeline.workspace import BASE, TrainingRun

Scores = dict[str, dict[str, float]]
"""By variant, then by metric."""


def variant_scores(metrics_file: Path) -> Scores:
    """The figures of each variant and of the base, by metric, from ``metrics.json``."""
    content = json.loads(metrics_file.read_text(encoding="utf-8"))
    sets = {BASE: content[BASE], **content["variants"]}
    return {name: _numbers(figures) for name, figures in sets.items()}


def training_scores(metrics_file: Path) -> dict[TrainingRun | None, dict[str, float]]:
    """The figures of each training by metric, and of the base (None), from ``metrics.json``."""
    content = json.loads(metrics_file.read_text(encoding="utf-8"))
    found: dict[TrainingRun | None, dict[str, float]] = {None: _numbers(content[BASE])}
    for variant, of_seeds in content["trainings"].items():
        for seed, figures in of_seeds.items():
            found[TrainingRun(variant, int(seed))] = _numbers(figures)
    return found


def _numbers(figures: Mapping[str, float]) -> dict[str, float]:
    return {metric: float(value) for metric, value in figures.items()}


def scores_table(scores: Scores) -> str:
    """A row a metric, a column a variant, as Markdown."""
    metrics = sorted({metric for figures in scores.values() for metric in figures})
    rows = [["", *scores], ["---"] * (1 + len(scores))]
    for metric in metrics:
        cells = [figures.get(metric) for figures in scores.values()]
        rows.append([metric, *("" if cell is None else f"{cell:.4g}" for cell in cells)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
