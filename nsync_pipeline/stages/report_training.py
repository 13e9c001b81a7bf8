"""How each training went, for the report: its warnings, and what it drew on the way."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nsync_pipeline.artifacts import Workspace
from nsync_pipeline.report.page import FilmStrip, TrainingNote
from nsync_pipeline.report.pictures import as_stored
from nsync_pipeline.training.watch_strip import STRIP_FILE

Summaries = Mapping[str, Mapping[str, Any]]
"""``training.json`` by variant."""


def training_notes(summaries: Summaries) -> tuple[TrainingNote, ...]:
    """The warnings, by variant, then by step."""
    return tuple(
        TrainingNote(variant, colour, f"from step {found['step']} on, {found['text']}")
        for colour, (variant, summary) in enumerate(summaries.items())
        for found in summary["warnings"]
    )


def film_strips(workspace: Workspace, style: str, summaries: Summaries) -> tuple[FilmStrip, ...]:
    """The film-strips there are."""
    strips = []
    for colour, (variant, summary) in enumerate(summaries.items()):
        file = workspace.model(style, variant) / STRIP_FILE
        if file.is_file():
            strips.append(_film_strip(variant, colour, file, summary))
    return tuple(strips)


def _film_strip(variant: str, colour: int, file: Path, summary: Mapping[str, Any]) -> FilmStrip:
    alt = f"What {variant} drew, a row a caption, a column a look; the first column is real"
    return FilmStrip(variant, colour, as_stored(file.read_bytes(), alt), _scores(summary))


def _scores(summary: Mapping[str, Any]) -> str:
    """The best look in words, and whether it can be told from the last."""
    looks, best = summary["looks"], summary["best_look"]
    if best is None:
        return ""
    last = str(max(int(step) for step in looks))
    shown = looks[str(best["step"])]
    margin = f"{shown['style_margin']:+.3f}"
    if str(best["step"]) == last:
        return f"The last look has the highest style margin, {margin}."
    error = best["standard_error"]
    lead = f"{best['lead_over_last']:.3f}" + (
        "" if error is None else f" (standard error {error:.3f})"
    )
    sure = "" if best["told_apart"] else ", which so few pictures cannot tell from chance"
    return (
        f"The highest style margin, {margin}, is at step {best['step']}; it leads the last by "
        f"{lead}{sure}."
    )
