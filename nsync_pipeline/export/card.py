"""What an export's model card tells, and the pictures on it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from huggingface_hub import ModelCardData
from jinja2 import Environment, StrictUndefined
from PIL import Image

from nsync_pipeline.evaluation.record import (
    EVALUATION_FILE,
    EvaluationRecord,
    read_evaluation,
)
from nsync_pipeline.export.kohya import SharedModel
from nsync_pipeline.export.model import TrainedVariant, embeddings_name
from nsync_pipeline.families.config import public_name
from nsync_pipeline.files import file_sha256
from nsync_pipeline.pictures.manifest import SAMPLES, read_manifest
from nsync_pipeline.pictures.pixels import open_picture
from nsync_pipeline.pictures.sheets import GridRow, evenly_spaced, fitted, labelled_grid
from nsync_pipeline.report.figures import Cell, Measured, figures_table
from nsync_pipeline.report.lineage import settings_text
from nsync_pipeline.report.words import explained
from nsync_pipeline.workspace import BASE, LORA_FILE, MANIFEST_FILE, Workspace

CARD_FILE = "README.md"
EMBEDDED = "sketchbook"
"""The architecture of the embedded base, which is in no hub."""


@dataclass(frozen=True)
class SamplePicture:
    """A picture on the card."""

    file: str  # relative to the card
    prompt: str


@dataclass(frozen=True)
class MetricRow:
    """One metric; a cell is ``value (low to high)``, or empty."""

    title: str
    better: str  # higher, lower or near 1
    base: str
    model: str
    real: str  # what real pictures score


@dataclass(frozen=True)
class CardFile:
    """One of the files beside the card."""

    name: str
    what: str


@dataclass(frozen=True)
class ModelCard:
    """All that a card tells."""

    model: SharedModel
    hub_base: str | None  # the base's id on the hub, where it is from there
    rule: str  # what the update rule does, in a few words
    files: Sequence[CardFile]
    weights_file: str  # the LoRA for diffusers; empty where it is not exported
    embeddings: str  # the file of learned token vectors; empty where there is none
    word: str  # what prompts call the style
    trained: str  # what is trained, in a few words
    comparison: str | None  # a picture of base and model side by side
    samples: Sequence[SamplePicture]
    metrics: Sequence[MetricRow]  # empty: not evaluated
    metrics_note: str  # on what, and by what, they were measured
    verdict: str | None  # against the base
    limits: Sequence[str]
    facts: Sequence[tuple[str, str]]  # counts and hashes
    settings: str  # all settings of the training, as text


def render(card: ModelCard) -> str:
    """The card as Markdown; the same card gives the same text."""
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|")
    template = environment.from_string(
        (files("nsync_pipeline.export") / "model_card.md").read_text("utf-8")
    )
    architecture = card.model.architecture
    return template.render(
        card=card,
        model=card.model,
        metadata=_metadata(card),
        embedded=architecture == EMBEDDED,
        two_encoders=not architecture.startswith(("stable-diffusion-v", EMBEDDED)),
    )


def _metadata(card: ModelCard) -> str:
    model = card.model
    family = "-".join(model.architecture.split("-")[:2])
    tags = ["text-to-image", "diffusers", "lora", "template:sd-lora", "style", "nsync"]
    data = ModelCardData(
        base_model=card.hub_base,
        library_name="diffusers",
        license=model.license,
        pipeline_tag="text-to-image",
        tags=tags if model.architecture == EMBEDDED else [*tags, family],
        instance_prompt=model.trigger_phrase,
        widget=[{"text": s.prompt, "output": {"url": s.file}} for s in card.samples] or None,
    )
    return str(data.to_yaml(line_break="\n"))


SAMPLES_SHOWN = 4
ROWS_COMPARED = 3
JPEG_QUALITY = 90


def card_of(
    workspace: Workspace, trained: TrainedVariant, folder: Path, files: Sequence[CardFile]
) -> ModelCard:
    """The card of what lies in ``folder``; its pictures are written to ``folder/images``."""
    model = trained.model
    evaluation = _evaluation(workspace, trained)
    names = [file.name for file in files]
    return ModelCard(
        model=model,
        hub_base=None if model.base_revision.startswith("sha256:") else model.base_model,
        rule=trained.rule,
        files=files,
        weights_file=LORA_FILE if LORA_FILE in names else "",
        embeddings=embeddings if (embeddings := embeddings_name(model)) in names else "",
        word=trained.word,
        trained=_trained(trained),
        comparison=_comparison(workspace, trained, folder),
        samples=_samples(workspace, trained, folder),
        metrics=_metrics(evaluation, trained) if evaluation else (),
        metrics_note=_metrics_note(evaluation) if evaluation else "",
        verdict=_verdict(evaluation, model.variant) if evaluation else None,
        limits=tuple(_limits(trained, evaluation)),
        facts=tuple(_facts(workspace, trained)),
        settings=settings_text({model.variant: trained.summary}),
    )


def _trained(trained: TrainedVariant) -> str:
    parts = []
    if trained.model.lora is not None:
        kind = "DoRA" if trained.model.lora.dora else "LoRA"
        parts.append(
            f"A {kind} of rank {trained.model.lora.rank}, alpha {trained.model.lora.alpha:g}"
        )
    if trained.embeddings is not None:
        parts.append("token vectors" if parts else "Token vectors")
    return " and ".join(parts)


def _samples(workspace: Workspace, trained: TrainedVariant, folder: Path) -> list[SamplePicture]:
    source = workspace.samples(trained.model.style, trained.model.variant, trained.training_seed)
    rows = _rows(source)
    shown = []
    for number, index in enumerate(evenly_spaced(len(rows), SAMPLES_SHOWN), start=1):
        name = f"images/sample_{number}.jpg"
        _write_jpeg(fitted(open_picture(source / rows[index]["file"])), folder / name)
        shown.append(SamplePicture(name, rows[index]["prompt"]))
    return shown


def _comparison(workspace: Workspace, trained: TrainedVariant, folder: Path) -> str | None:
    """Base and variant at the same seeds; None where they were not drawn alike."""
    model = trained.model
    sources = {
        name: workspace.samples(model.style, name, trained.training_seed)
        for name in (BASE, model.variant)
    }
    rows = {name: _rows(source) for name, source in sources.items()}
    pairs = list(zip(*rows.values(), strict=False))
    alike = all(base["id"] == own["id"] and base["seed"] == own["seed"] for base, own in pairs)
    if not pairs or not alike or len({len(samples) for samples in rows.values()}) > 1:
        return None
    grid = labelled_grid(
        f"{model.style.replace('_', ' ')}: untrained and trained, from the same noise",
        [BASE, model.variant],
        [
            GridRow(
                pairs[index][0]["caption"],
                [
                    open_picture(source / row["file"])
                    for source, row in zip(sources.values(), pairs[index], strict=True)
                ],
            )
            for index in evenly_spaced(len(pairs), ROWS_COMPARED)
        ],
    )
    name = "images/comparison.jpg"
    _write_jpeg(grid, folder / name)
    return name


def _rows(source: Path) -> list[dict[str, str]]:
    manifest = source / MANIFEST_FILE
    return read_manifest(manifest, SAMPLES) if manifest.is_file() else []


def _write_jpeg(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    image.save(path, "JPEG", quality=JPEG_QUALITY, optimize=True)


def _evaluation(workspace: Workspace, trained: TrainedVariant) -> EvaluationRecord | None:
    folder = workspace.evaluation(trained.model.style)
    if not (folder / EVALUATION_FILE).is_file():
        return None
    evaluation = read_evaluation(folder)
    of_seeds = evaluation.trainings.get(trained.model.variant, {})
    return evaluation if trained.training_seed in of_seeds else None


def _metrics(evaluation: EvaluationRecord, trained: TrainedVariant) -> tuple[MetricRow, ...]:
    """Of this training alone: its weights are what is shared."""
    variant = trained.model.variant
    columns = [
        Measured("base", evaluation.base),
        Measured(variant, evaluation.trainings[variant][trained.training_seed]),
        Measured("real", evaluation.ceiling),
    ]
    return tuple(
        MetricRow(row.metric.title, row.metric.better, *(_figure(cell) for cell in row.cells))
        for row in figures_table(columns)
    )


def _figure(cell: Cell) -> str:
    return f"{cell.value} ({cell.interval})" if cell.interval else cell.value


def _metrics_note(evaluation: EvaluationRecord) -> str:
    counts = evaluation.counts
    extractors = ", ".join(
        f"{role}: {public_name(name)} (`{sha256[:16]}`)"
        for role, (name, sha256) in evaluation.extractors.items()
    )
    return (
        f"Of {counts['pictures']} pictures of {counts['prompts']} captions that were held out of "
        f"training; in brackets 95 % intervals over the captions. Features: {extractors}. "
        "Base: the untrained base, asked for the generic style. Real pictures: the training "
        "pictures, measured as if they had been drawn."
    )


def _verdict(evaluation: EvaluationRecord, variant: str) -> str | None:
    for comparison in evaluation.against_base:
        if comparison.a == variant:
            over = f", over {comparison.trainings} trainings" if comparison.trainings > 1 else ""
            return f"Against the base{over}: {comparison.verdict}. {explained(comparison)}"
    return None


def _limits(trained: TrainedVariant, evaluation: EvaluationRecord | None) -> Iterator[str]:
    model = trained.model
    yield "It is one training, from one seed; another seed can give another result."
    yield (
        f"It has seen {model.pictures} pictures. Where prompts come near to one of them, what it "
        "draws may, too."
    )
    if model.base_model == EMBEDDED:
        yield (
            "Its base is nsync-pipeline's small embedded model, which draws 64 pixels a side and "
            "knows nothing but a drawn world; it fits no other base."
        )
    else:
        yield (
            f"It fits {model.base_model} and models made from it; what the base cannot draw, or "
            "must not be used for, this cannot and must not, either."
        )
    if evaluation is not None:
        yield from evaluation.warnings


def _facts(workspace: Workspace, trained: TrainedVariant) -> Iterator[tuple[str, str]]:
    model, summary = trained.model, trained.summary
    yield "training pictures", str(model.pictures)
    yield "held-out pictures", str(summary["test_pictures"])
    yield "negatives", str(summary["negatives"])
    yield "steps", str(summary["steps"])
    yield "root seed", summary["origin"]["seed"]
    yield "training seed", str(trained.training_seed)
    yield "data (SHA-256)", summary["origin"]["data_sha256"]
    for name, folder in (
        ("style set", workspace.style_set(model.style)),
        ("captions", workspace.captions(model.style)),
        ("negative set", workspace.negative_set(model.style)),
    ):
        manifest = folder / MANIFEST_FILE
        if manifest.is_file():
            yield f"{name}, manifest (SHA-256)", file_sha256(manifest)
    weights = workspace.model(model.style, model.variant, trained.training_seed) / LORA_FILE
    if weights.is_file():
        yield "LoRA as trained (SHA-256)", file_sha256(weights)
    yield "nsync-pipeline", summary["origin"]["version"]
