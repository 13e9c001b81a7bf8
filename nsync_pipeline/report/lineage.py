"""Where the report's figures come from: what was read, by hash, and what made it."""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nsync_pipeline import __version__
from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.evaluation.record import EVALUATION_FILE, EvaluationRecord
from nsync_pipeline.families.config import public_name
from nsync_pipeline.files import file_sha256
from nsync_pipeline.pictures.manifest import BY_MODEL, CAPTIONS, manifest_sha256, read_manifest
from nsync_pipeline.pictures.style_pictures import StylePictures
from nsync_pipeline.report.trainings import shown_names
from nsync_pipeline.settings import flat
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


def lineage(
    workspace: Workspace,
    style: str,
    pictures: StylePictures,
    evaluation: EvaluationRecord,
    summaries: Mapping[TrainingRun, Mapping[str, Any]],
    places: Mapping[TrainingRun, Path],
) -> dict[str, dict[str, str | int]]:
    """Hashes, seeds, sizes and versions, by what they belong to.

    ``places`` are the folders of the weights that are used of each training.
    """
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
    seeds = dict.fromkeys(str(run.training_seed) for run in summaries)
    placeholders = dict.fromkeys(s["origin"]["placeholder"] for s in summaries.values())
    return {
        "Pictures": {
            "training pictures": counts["train"],
            "held-out pictures": counts["test"],
            "negatives": counts["negatives"],
            "captions": _captions(manifests["captions"]),
            "drawn by each": f"{counts['pictures']} at {evaluation.side} px, as PNG",
            "root seed": origin["seed"],
            "training seeds": ", ".join(seeds),
            "placeholder": ", ".join(placeholders),
            "generic style": origin["generic_style"],
        },
        "Base model": {
            "name": public_name(pictures.base_model),
            "revision": pictures.base_revision,
            "negatives drawn by": pictures.negative_sampler,
        },
        "Checkpoints (SHA-256)": {
            f"{names[run]} ({summary['origin']['update_rule']})"
            + _at_step(workspace.model(style, run.variant, run.training_seed), places[run])
            + (", token vectors" if file.name == EMBEDDINGS_FILE else ""): _sha256(file)
            for run, summary in summaries.items()
            for file in trained_files(places[run])
        },
        "Manifests (SHA-256)": {
            **{
                name: manifest_sha256(path / MANIFEST_FILE)[:SHOWN_DIGITS]
                for name, path in manifests.items()
            },
            "evaluation": _sha256(workspace.evaluation(style) / EVALUATION_FILE),
        },
        "Measured by": {
            **{
                role: f"{public_name(name)} ({digest[:SHOWN_DIGITS]})"
                for role, (name, digest) in evaluation.extractors.items()
            },
            "margin over": ", ".join(evaluation.rivals),
            "bootstrap draws": counts["bootstrap_draws"],
        },
        "Software": {
            "nsync-pipeline": __version__,
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
    }


def _at_step(model: Path, place: Path) -> str:
    return "" if place == model else f", after step {int(place.name)}, as chosen"


def settings_text(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """The settings all trainings share, then what each has of its own."""
    texts = {
        name: {key: _text(value) for key, value in flat(summary["settings"]).items() if value != {}}
        for name, summary in summaries.items()
    }
    keys = list(dict.fromkeys(key for settings in texts.values() for key in settings))
    shared = [key for key in keys if len({settings.get(key) for settings in texts.values()}) == 1]
    own = [key for key in keys if key not in shared]
    first = next(iter(texts.values()))
    lines = [f"{key}: {first[key]}" for key in shared]
    for name, settings in texts.items():
        if own:
            lines += ["", f"{name}:", *(f"  {key}: {settings.get(key)}" for key in own)]
    return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)


def _captions(folder: Path) -> str:
    rows = read_manifest(folder / MANIFEST_FILE, CAPTIONS)
    described = sum(row["source"] == BY_MODEL for row in rows)
    cut = sum(row["lost"] is not None for row in rows)
    return f"{len(rows)}, {described} by a model, {cut} cut to fit the text encoder"


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)[:SHOWN_DIGITS]
    except OSError as error:
        raise MissingArtifactError(f"{path} is not there: run the stage that makes it.") from error
