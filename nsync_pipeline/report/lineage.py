"""Where the report's figures come from: what was read, by hash, and what made it."""

import csv
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nsync_pipeline import __version__
from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.evaluation.record import EVALUATION_FILE, EvaluationRecord
from nsync_pipeline.pictures.manifest import BY_MODEL, CAPTIONS, read_manifest
from nsync_pipeline.pictures.pixels import file_sha256
from nsync_pipeline.pictures.style_pictures import StylePictures
from nsync_pipeline.report.page import Facts
from nsync_pipeline.report.training_charts import Training
from nsync_pipeline.workspace import (
    BASE,
    EMBEDDINGS_FILE,
    MANIFEST_FILE,
    TrainingRun,
    Workspace,
    trained_files,
)

PACKAGES = ("torch", "diffusers", "transformers", "peft", "numpy", "pillow")
SHOWN_DIGITS = 16


def read_training(
    workspace: Workspace, style: str, run: TrainingRun
) -> tuple[Training, dict[str, Any]]:
    """The history of a training, and the whole of its ``training.json``.

    Raises:
        MissingArtifactError: one of them is missing or damaged.
    """
    folder = workspace.model(style, run.variant, run.training_seed)
    try:
        summary: dict[str, Any] = json.loads((folder / "training.json").read_text("utf-8"))
        with (folder / "history.csv").open(encoding="utf-8", newline="") as file:
            history = [
                {column: float(cell) if cell else None for column, cell in row.items()}
                for row in csv.DictReader(file)
            ]
        held_out = {int(done): loss for done, loss in summary["held_out_losses"].items()}
        looks = {int(done): found["style_margin"] for done, found in summary["looks"].items()}
    except (OSError, ValueError, KeyError) as error:
        raise MissingArtifactError(
            f"{folder} holds no whole training: run the training stage of {run.variant!r} at "
            f"training seed {run.training_seed}. ({error})"
        ) from error
    return Training(run.variant, history, held_out, looks), summary


def lineage(
    workspace: Workspace,
    style: str,
    pictures: StylePictures,
    evaluation: EvaluationRecord,
    summaries: Mapping[TrainingRun, Mapping[str, Any]],
) -> tuple[Facts, ...]:
    """Hashes, seeds, sizes and versions, by what they belong to."""
    counts, names = evaluation.counts, shown_names(tuple(summaries))
    origin = next(iter(summaries.values()))["origin"]
    manifests = {
        "style set": workspace.style_set(style),
        "captions": workspace.captions(style),
        "negative set": workspace.negative_set(style),
        f"pictures of {BASE}": workspace.samples(style, BASE),
        **{
            f"pictures of {names[run]}": workspace.samples(style, run.variant, run.training_seed)
            for run in summaries
        },
    }
    return (
        Facts(
            "Pictures",
            (
                ("training pictures", str(counts["train"])),
                ("held-out pictures", str(counts["test"])),
                ("negatives", str(counts["negatives"])),
                ("captions", _captions(manifests["captions"])),
                ("drawn by each", f"{counts['pictures']} at {evaluation.side} px, as PNG"),
                ("root seed", origin["seed"]),
                ("training seeds", ", ".join(dict.fromkeys(
                    str(run.training_seed) for run in summaries
                ))),
                ("placeholder", ", ".join(dict.fromkeys(
                    found["origin"]["placeholder"] for found in summaries.values()
                ))),
                ("generic style", origin["generic_style"]),
            ),
        ),
        Facts(
            "Base model",
            (
                ("name", public_name(pictures.base_model)),
                ("revision", pictures.base_revision),
                ("negatives drawn by", pictures.negative_sampler),
            ),
        ),
        Facts(
            "Checkpoints (SHA-256)",
            tuple(
                (f"{names[run]} ({found['origin']['update_rule']})"
                 + (", token vectors" if file.name == EMBEDDINGS_FILE else ""), _sha256(file))
                for run, found in summaries.items()
                for file in trained_files(workspace.model(style, run.variant, run.training_seed))
            ),
        ),
        Facts(
            "Manifests (SHA-256)",
            (
                *((name, _sha256(path / MANIFEST_FILE)) for name, path in manifests.items()),
                ("evaluation", _sha256(workspace.evaluation(style) / EVALUATION_FILE)),
            ),
        ),
        Facts(
            "Measured by",
            (
                *(
                    (role, f"{public_name(name)} ({digest[:SHOWN_DIGITS]})")
                    for role, (name, digest) in evaluation.extractors.items()
                ),
                ("margin over", ", ".join(evaluation.rivals)),
                ("bootstrap draws", str(counts["bootstrap_draws"])),
            ),
        ),
        Facts(
            "Software",
            (
                ("nsync-pipeline", __version__),
                *((name, importlib.metadata.version(name)) for name in PACKAGES),
            ),
        ),
    )  # fmt: skip


def shown_names(runs: Sequence[TrainingRun]) -> dict[TrainingRun, str]:
    """What each training is called on a page: by its variant alone where that has only one."""
    seeds = {run.training_seed for run in runs}
    return {run: run.variant if len(seeds) == 1 else run.name for run in runs}


def settings_text(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """The settings all trainings share, then what each has of its own."""
    flat = {name: _flat(found["settings"]) for name, found in summaries.items()}
    keys = list(dict.fromkeys(key for settings in flat.values() for key in settings))
    shared = [key for key in keys if len({settings.get(key) for settings in flat.values()}) == 1]
    own = [key for key in keys if key not in shared]
    first = next(iter(flat.values()))
    lines = [f"{key}: {first[key]}" for key in shared]
    for name, settings in flat.items():
        if own:
            lines += ["", f"{name}:", *(f"  {key}: {settings.get(key)}" for key in own)]
    return "\n".join(lines)


def public_name(model: str) -> str:
    """A model's name without the folders of this machine it may lie in."""
    return Path(model).name if model.startswith(("/", ".", "~")) else model


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            found[prefix + key] = ", ".join(str(item) for item in value)
        else:
            found[prefix + key] = "none" if value is None else str(value)
    return found


def _captions(folder: Path) -> str:
    """How many there are, who gave them, and how many lost words."""
    rows = read_manifest(folder / MANIFEST_FILE, CAPTIONS)
    described = sum(row["source"] == BY_MODEL for row in rows)
    cut = sum(row["lost"] is not None for row in rows)
    return f"{len(rows)}, {described} by a model, {cut} cut to fit the text encoder"


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)[:SHOWN_DIGITS]
    except OSError as error:
        raise MissingArtifactError(f"{path} is not there: run the stage that makes it.") from error
