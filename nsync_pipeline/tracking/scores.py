"""What an evaluation says of each variant, as figures of that variant's own run."""

import json
from pathlib import Path

from nsync_pipeline.tracking.settings import flat


def variant_scores(metrics_file: Path) -> dict[str, dict[str, float]]:
    """For each variant in ``metrics.json``, its numbers by flat name.

    A metric's ``value`` takes the metric's name, so that ``nsync.style_margin.value`` is shown as
    ``style_margin`` and its interval as ``style_margin.low`` and ``style_margin.high``.
    """
    content = json.loads(metrics_file.read_text(encoding="utf-8"))
    scores = {}
    for variant, metrics in content["variants"].items():
        numbers = {
            name.removesuffix(".value"): float(value)
            for name, value in flat(metrics).items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        scores[variant] = numbers
    return scores
