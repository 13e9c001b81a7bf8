"""How each training went, for the report: its warnings, and what it drew on the way."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nsync_pipeline.pictures.embedded import as_stored
from nsync_pipeline.report.lineage import shown_names
from nsync_pipeline.report.page import FilmStrip, TrainingNote
from nsync_pipeline.training.film_strip import STRIP_FILE
from nsync_pipeline.workspace import TrainingRun, Workspace

Summaries = Mapping[TrainingRun, Mapping[str, Any]]
"""``training.json`` of each training."""


def training_notes(summaries: Summaries, variants: Sequence[str]) -> tuple[TrainingNote, ...]:
    """The warnings of all trainings, by training, then by step."""
    names = shown_names(tuple(summaries))
    return tuple(
        TrainingNote(
            names[run],
            variants.index(run.variant),
            f"from step {found['step']} on, {found['text']}",
        )
        for run, summary in summaries.items()
        for found in summary["warnings"]
    )


def film_strips(
    workspace: Workspace, style: str, summaries: Summaries, training_seed: int
) -> tuple[FilmStrip, ...]:
    """The film-strips there are of the trainings of one seed."""
    shown = [run for run in summaries if run.training_seed == training_seed]
    strips = []
    for colour, run in enumerate(shown):
        file = workspace.model(style, run.variant, run.training_seed) / STRIP_FILE
        if file.is_file():
            strips.append(_film_strip(run.variant, colour, file, summaries[run]))
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
