"""What an evaluation says of each variant, as figures of that variant's own run."""

import json
from pathlib import Path

from nsync_pipeline.artifacts import BASE


def variant_scores(metrics_file: Path) -> dict[str, dict[str, float]]:
    """The figures of each variant and of the base, by metric, from ``metrics.json``."""
    content = json.loads(metrics_file.read_text(encoding="utf-8"))
    sets = {BASE: content[BASE], **content["variants"]}
    return {
        name: {metric: float(value) for metric, value in figures.items()}
        for name, figures in sets.items()
    }
