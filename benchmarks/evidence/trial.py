"""One trial, through the pipeline's own stages."""

import csv
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.evidence.matrix import Scale, Trial, digest, settings
from benchmarks.evidence.results import REAL, TAUGHT_BY, Result, sample_file
from benchmarks.stages import artefact_folder, make_artefact
from nsync_pipeline import __version__
from nsync_pipeline.contrast.config import ON_TOP
from nsync_pipeline.evaluation.features import (
    FeatureReader,
    drawn_world_judge,
    load_extractors,
)
from nsync_pipeline.files import write_whole
from nsync_pipeline.metrics.distances import Floats
from nsync_pipeline.metrics.feature_cache import FeatureCache
from nsync_pipeline.metrics.scores import SetScores, make_reference, score_set
from nsync_pipeline.params import Params, parse_params
from nsync_pipeline.pictures.pixels import open_squares
from nsync_pipeline.pictures.sheets import sharp_jpeg
from nsync_pipeline.pictures.style_pictures import StylePictures, read_style_pictures
from nsync_pipeline.seeding import numpy_stream
from nsync_pipeline.stage import Progress
from nsync_pipeline.workspace import BASE, TrainingRun, Workspace

JUDGED = ("style_recognised", "content_recognised", "leak")
EARLY = 20
"""Steps that count as the beginning of a training."""
ACROSS = 2
"""Pictures of a sample, across and down."""
SIDE = 128
_seen_styles: dict[int, dict[str, Floats]] = {}
"""By the root seed: the same for all trials, and two seconds each time."""


def workspace_of(folder: Path, asked: Mapping[str, Any]) -> Workspace:
    """Where trials of these pictures, negatives and prompts are made: they share them."""
    shared = {name: asked[name] for name in ("styles", "style_set", "negative_set", "generation")}
    shared["generation"] = {"sampler": asked["generation"]["sampler"]}
    shared |= {name: asked[name] for name in ("seed",) if name in asked}
    return Workspace(folder / digest(shared)[:12])


def prepare(workspace: Workspace, params: Params, progress: Progress) -> None:
    """Draw what the trials of one set share, where it is not there yet."""
    style = next(iter(params.styles))
    for name in ("style_set", "captions", "negative_set", "base_generation"):
        if not artefact_folder(workspace, params, name, style).is_dir():
            make_artefact(workspace, params, name, style, progress=progress)


def carry_out(trial: Trial, scale: Scale, folder: Path, progress: Progress) -> Result:
    """Train, draw and measure ``trial``; ``prepare`` has been run.

    What was trained for another drawing of the same training is taken as it is. A training that was
    broken off goes on from its newest checkpoint; its seconds are then those of the last part, made
    whole by the number of steps.
    """
    asked = settings(trial, scale)
    params, workspace = parse_params(asked), workspace_of(folder, asked)
    training = trained(trial, asked, workspace, params, progress)
    make_artefact(
        workspace, params, "generation", trial.style_key, trial.variant, trial.seed,
        progress=progress,
    )  # fmt: skip
    run = TrainingRun(trial.variant, trial.seed)
    pictures = read_style_pictures(workspace, trial.style_key, [run])
    scores, judged = _measured(workspace, params, trial.style_key, pictures, run, progress)
    return Result(
        **{name: getattr(trial, name) for name in ("style", "set", "method", "seed", "drawing")},
        **asdict(trial.tuning),
        settings=digest(asked),
        pictures={
            name: [round(float(value), 4) for value in judged[name]]
            for name in JUDGED
            if name in judged
        },
        figures={name: round(figure.value, 5) for name, figure in scores.figures.items()},
        training=training,
        made_with={"nsync": __version__, "torch": torch.__version__},
    )


TRAINED_FILE = "trained.json"
"""Beside a training: what was asked for, and what it says of itself."""


def trained(
    trial: Trial,
    asked: Mapping[str, Any],
    workspace: Workspace,
    params: Params,
    progress: Progress,
) -> dict[str, float]:
    """Train ``trial``, where that was not done for another drawing; what it says of itself."""
    model = workspace.model(trial.style_key, trial.variant, trial.seed)
    kept = model.with_name(f"{trial.seed}.{TRAINED_FILE}")
    without = digest({name: part for name, part in asked.items() if name != "generation"})
    if kept.is_file() and model.is_dir():
        content = json.loads(kept.read_text(encoding="utf-8"))
        if content["settings"] == without:
            told: dict[str, float] = content["training"]
            return told
    clock = StepClock(progress)
    make_artefact(
        workspace, params, "training", trial.style_key, trial.variant, trial.seed, progress=clock
    )
    training = _told(model)
    variant = params.variant(trial.variant)
    seconds = clock.seconds(variant.steps * (2 if variant.update_rule in ON_TOP else 1))
    training |= {} if seconds is None else {"seconds": round(seconds, 1)}
    write_whole(kept, json.dumps({"settings": without, "training": training}))
    return training


class StepClock:
    """A ``Progress`` that keeps the processor time at which each step of a training was done."""

    def __init__(self, shown: Progress) -> None:
        self.shown = shown
        self.times: list[float] = []

    def __call__(self, what: str, done: int, total: int) -> None:
        if what.startswith("training"):
            self.times.append(time.process_time())
        self.shown(what, done, total)

    def seconds(self, steps: int) -> float | None:
        """Of ``steps`` at the mean step's time; None where there are not two."""
        gaps = [after - before for before, after in zip(self.times, self.times[1:], strict=False)]
        return steps * statistics.fmean(gaps) if gaps else None


def _measured(
    workspace: Workspace,
    params: Params,
    style: str,
    pictures: StylePictures,
    run: TrainingRun,
    progress: Progress,
) -> tuple[SetScores, Mapping[str, Any]]:
    """What the evaluation says of the run's pictures, and the judge's values a picture."""
    extractors = load_extractors(params.evaluation, workspace.root, "cpu")
    reader = FeatureReader(
        pictures,
        extractors,
        FeatureCache(workspace.scratch("features")),
        params.evaluation.batch_size,
        drawn_world_judge(params.style(style).source),
        progress,
    )
    rivals = {"negatives": reader.negatives(), "base": reader.samples(BASE).style}
    if params.seed not in _seen_styles:
        _seen_styles[params.seed] = reader.seen_styles(params.seed)
    rivals |= _seen_styles[params.seed]
    reference = make_reference(
        reader.test(), reader.train(), rivals, params.evaluation.copy_quantile
    )
    shown = reader.samples(run.name)
    # Intervals are taken over trials, later: one draw in which everything counts once.
    everything = np.ones((1, reference.units))
    rng = numpy_stream(params.seed, "evidence", style)
    return score_set(shown, reference, everything, rng), shown.judged


def _told(model: Path) -> dict[str, float]:
    """What the training says of itself, and how its two gradients lay to each other."""
    summary = json.loads((model / "training.json").read_text(encoding="utf-8"))
    names = (
        "mean_share_removed", "largest_share_removed", "held_out_loss", "last_loss_positive",
        "last_loss_negative", "steps",
    )  # fmt: skip
    told = {name: summary[name] for name in names if summary.get(name) is not None}
    with (model / "history.csv").open(newline="", encoding="utf-8") as file:
        steps = list(csv.DictReader(file))
    cosines = [float(step["cosine_negative"]) for step in steps if step["cosine_negative"]]
    lengths = [
        float(step["norm_negative"]) / float(step["norm_positive"])
        for step in steps
        if step["norm_negative"]
    ]
    if len(cosines) > EARLY:
        told["cosine_early"] = statistics.fmean(cosines[:EARLY])
        told["cosine_later"] = statistics.fmean(cosines[EARLY:])
        told["cosine_deviation"] = statistics.stdev(cosines[EARLY:])
        told["length_of_negative"] = statistics.median(lengths)
    return {name: round(float(value), 5) for name, value in told.items()}


def keep_samples(trial: Trial, scale: Scale, folder: Path, results: Path) -> None:
    """Keep four of the trial's pictures, of the base's, the real ones and the training ones."""
    asked = settings(trial, scale)
    workspace = workspace_of(folder, asked)
    run = TrainingRun(trial.variant, trial.seed)
    pictures = read_style_pictures(workspace, trial.style_key, [run])
    shown: dict[str, Sequence[Path]] = {
        trial.entry: [sample.path for sample in pictures.samples[run.name]],
        BASE: [sample.path for sample in pictures.samples[BASE]],
        REAL: [picture.path for picture in pictures.test],
        TAUGHT_BY: [picture.path for picture in pictures.train],
    }
    for name, paths in shown.items():
        file = sample_file(results, trial.style, trial.set, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        sample = Image.new("RGB", (ACROSS * SIDE, ACROSS * SIDE))
        for number, square in enumerate(open_squares(paths[: ACROSS**2], SIDE)):
            down, along = divmod(number, ACROSS)
            sample.paste(square, (along * SIDE, down * SIDE))
        file.write_bytes(sharp_jpeg(sample, quality=92))
