"""What an evaluation says of each variant, as figures of that variant's own run."""

import json
from pathlib import Path

from nsync_pipeline.artifacts import BASE

Scores = dict[str, dict[str, float]]
"""By variant, then by metric."""


def variant_scores(metrics_file: Path) -> Scores:
    """The figures of each variant and of the base, by metric, from ``metrics.json``."""
    content = json.loads(metrics_file.read_text(encoding="utf-8"))
    sets = {BASE: content[BASE], **content["variants"]}
    return {
        name: {metric: float(value) for metric, value in figures.items()}
        for name, figures in sets.items()
    }


def scores_table(scores: Scores) -> str:
    """A row a metric, a column a variant, as Markdown."""
    metrics = sorted({metric for figures in scores.values() for metric in figures})
    rows = [["", *scores], ["---"] * (1 + len(scores))]
    for metric in metrics:
        cells = [figures.get(metric) for figures in scores.values()]
        rows.append([metric, *("" if cell is None else f"{cell:.4g}" for cell in cells)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
