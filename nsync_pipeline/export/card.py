"""What an export's model card tells, and the pictures on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from PIL import Image

from nsync_pipeline.adaptation.saved_steps import weights_of_step
from nsync_pipeline.drawing.config import GuidanceConfig
from nsync_pipeline.evaluation.curves import Curves
from nsync_pipeline.evaluation.record import EVALUATION_FILE, EvaluationRecord, read_evaluation
from nsync_pipeline.export.markdown import cell, code, code_block, plain, quoted
from nsync_pipeline.export.model import TrainedVariant, embeddings_name
from nsync_pipeline.export.snippet import Shared, snippet
from nsync_pipeline.families.config import public_name
from nsync_pipeline.families.noise_schedules import ORIGIN_KEY
from nsync_pipeline.files import file_sha256, read_json
from nsync_pipeline.pictures.manifest import SAMPLES, manifest_sha256, read_manifest
from nsync_pipeline.pictures.pixels import open_picture
from nsync_pipeline.pictures.sheets import GridRow, as_jpeg, evenly_spaced, fitted, labelled_grid
from nsync_pipeline.report.curves import figures_in_words
from nsync_pipeline.report.figures import Measured, TableRow, figures_table
from nsync_pipeline.report.lineage import settings_text
from nsync_pipeline.report.words import explained
from nsync_pipeline.samples.config import GenerationConfig
from nsync_pipeline.templates import templates_in
from nsync_pipeline.workspace import BASE, LORA_FILE, MANIFEST_FILE, SKETCHBOOK, Workspace

CARD_FILE = "README.md"
SAMPLES_SHOWN = 4
ROWS_COMPARED = 3
JPEG_QUALITY = 90


@dataclass(frozen=True)
class CardFile:
    name: str
    what: str  # what it is, and which programs read it


def render(card: dict[str, Any]) -> str:
    """The card as Markdown; the same card gives the same text."""
    environment = templates_in(Path(__file__).parent, html=False)
    environment.filters |= {"explained": explained, "public_name": public_name}
    environment.filters |= {
        "cell": cell, "plain": plain, "quoted": quoted, "code": code, "code_block": code_block
    }  # fmt: skip
    return environment.get_template("model_card.md").render(card)


def card_of(
    workspace: Workspace, trained: TrainedVariant, folder: Path, files: Sequence[CardFile]
) -> dict[str, Any]:
    """The card of what lies in ``folder``; its pictures are written to ``folder/images``."""
    model = trained.model
    embedded = model.architecture == SKETCHBOOK  # the base that is in no hub
    shows_others = not _drawn_with_these(workspace, trained)
    evaluation = None if shows_others else _evaluation(workspace, trained)
    against_base = [] if evaluation is None else evaluation.against_base
    names = [file.name for file in files]
    embeddings = embeddings_name(model) if embeddings_name(model) in names else ""
    hub_base = None if model.base_revision.startswith("sha256:") else model.base_model
    samples = {} if shows_others else _samples(workspace, trained, folder)
    shared = Shared(
        base=hub_base or model.base_model,
        embedded=embedded,
        weights=LORA_FILE if LORA_FILE in names else "",
        embeddings=embeddings,
        word=trained.word,
        vectors=trained.vectors,
        zero_terminal_snr=trained.summary["origin"].get(ORIGIN_KEY) == "true",
        prompt=next(iter(samples.values()), f"a house on grass {model.trigger_phrase}"),
    )
    return {
        "model": model,
        "metadata": _metadata(trained, hub_base, samples, embedded),
        "on_embedded_base": model.base_model == SKETCHBOOK,
        "hub_base": hub_base,
        "rule": trained.rule,
        "files": files,
        "snippet": snippet(model, shared) if shared.weights or shared.embeddings else "",
        "has_vectors": trained.embeddings is not None,
        "drawn_with": [] if trained.lora is None else _drawing(trained, evaluation),
        "comparison": None if shows_others else _comparison(workspace, trained, folder),
        "samples": samples,
        "evaluation": evaluation,
        "metrics": _metrics(evaluation, trained) if evaluation else [],
        "against_base": next((c for c in against_base if c.a == model.variant), None),
        "facts": _facts(workspace, trained),
        "settings": settings_text({model.variant: trained.summary}),
    }


def _drawing(trained: TrainedVariant, evaluation: EvaluationRecord | None) -> list[str]:
    """How its pictures were drawn; and in which way to draw, where several were measured."""
    curves = None if evaluation is None else evaluation.curves
    scale, measured = trained.generation.sampler.guidance_scale, ""
    if curves is not None:
        measured = suggested_strength(curves, trained.model.variant, scale)
    return [text for text in (drawn_with(trained.generation, bool(measured)), measured) if text]


def suggested_strength(curves: Curves, variant: str, scale: float) -> str:
    """The strength that was best of those measured at guidance ``scale``; empty if none was."""
    ways = {way.key: way for way in curves.ways}
    best, ordinary = (of.get(variant) for of in (curves.best, curves.best_ordinary))
    if best is None:
        return ""
    sentences = []
    if ordinary is not None:
        strength = ways[ordinary.way].lora_strength
        sentences.append(
            f"**Suggested strength: {strength:g}** (in ComfyUI `strength_model`, in A1111 the "
            f"number in `<lora:...:{strength:g}>`): {figures_in_words(curves, ordinary)}."
        )
    if ordinary is None or best.way != ordinary.way:
        way = ways[best.way]
        sentences.append(
            f"Better still is {_how(way, scale)}: {figures_in_words(curves, best)}. "
            f"{_in_comfyui(way, scale)}"
        )
    sentences.append(
        f"It is the best of {len(ways)} ways that were tried, chosen by {curves.choosing} held-out "
        f"captions; the figures are of {curves.judging} others."
    )
    return " ".join(sentences)


def drawn_with(generation: GenerationConfig, measured: bool = False) -> str:
    """How the pictures on the card were drawn, and how other programs come to it.

    ``measured``: other ways of drawing were, so that nothing is said of what might be tried.
    """
    guidance, scale = generation.guidance, generation.sampler.guidance_scale
    told = f"The pictures here are drawn with {_how(guidance, scale)}."
    if guidance.form != "ordinary":
        told = f"{told} {_in_comfyui(guidance, scale)}"
    if measured:
        return told
    if guidance.form == "ordinary":
        return (
            f"{told} For more style try a higher strength, up to "
            "1.5, and look at what it does to the content; or, with ComfyUI's `DualModelGuider`, "
            f"the model with the LoRA, at a strength of about {1.5 / scale:.2f}, as `model`, and "
            "the checkpoint without it as `model_negative`. Neither was measured on this model."
        )
    return (
        f"{told} No pipeline of diffusers does; there, try a strength of 1.25 to 1.5, and look at "
        "what it does to the content."
    )


def _how(guidance: GuidanceConfig, scale: float) -> str:
    """The guidance in words, after "with"."""
    strength = guidance.lora_strength
    if guidance.form == "difference":
        return (
            f"the base's own guidance at {scale:g} and {guidance.weight:g} times what the LoRA "
            f"changes, at strength {strength:g}"
        )
    if guidance.form == "base_empty":
        return (
            f"guidance {scale:g} whose empty prompt the base predicts without the LoRA, which is "
            f"at strength {strength:g}"
        )
    return f"ordinary guidance at {scale:g}, the LoRA at strength {strength:g}"


def _in_comfyui(guidance: GuidanceConfig, scale: float) -> str:
    """How ComfyUI comes to a guidance that is not ordinary.

    To first order, guidance at scale g whose empty prompt is the base's adds g times what the LoRA
    changes: at strength w / g as much as the difference at weight w.
    """
    strength, near = guidance.lora_strength, "the same"
    if guidance.form == "difference":
        strength, near = strength * guidance.weight / scale, "nearly the same"
    return (
        f"In ComfyUI `DualModelGuider` does {near}: the model with the LoRA at strength "
        f"{strength:.2f} as `model`, the checkpoint without it as `model_negative`, `cfg` "
        f"{scale:g}."
    )


def _metadata(
    trained: TrainedVariant, hub_base: str | None, samples: dict[str, str], embedded: bool
) -> str:
    model = trained.model
    tags = ["text-to-image", "diffusers", "lora", "template:sd-lora", "style", "nsync"]
    data = ModelCardData(
        base_model=hub_base,
        library_name="diffusers",
        license=model.license,
        pipeline_tag="text-to-image",
        tags=tags if embedded else [*tags, "-".join(model.architecture.split("-")[:2])],
        instance_prompt=model.trigger_phrase,
        widget=[{"text": text, "output": {"url": file}} for file, text in samples.items()] or None,
    )
    return str(data.to_yaml(line_break="\n"))


def _drawn_with_these(workspace: Workspace, trained: TrainedVariant) -> bool:
    """Whether the samples, and what was measured of them, are of the weights that are shared."""
    style, variant, seed = trained.model.style, trained.model.variant, trained.training_seed
    try:
        said = read_json(workspace.samples(style, variant, seed) / "made.json")["settings"]
    except (OSError, ValueError, KeyError):
        said = {}
    step = said.get("use_step", {}).get("step")
    return weights_of_step(workspace.model(style, variant, seed), step) == trained.place


def _samples(workspace: Workspace, trained: TrainedVariant, folder: Path) -> dict[str, str]:
    """The prompts of the pictures that are written, by file."""
    source = workspace.samples(trained.model.style, trained.model.variant, trained.training_seed)
    rows = _rows(source)
    prompts = {}
    for number, index in enumerate(evenly_spaced(len(rows), SAMPLES_SHOWN), start=1):
        name = f"images/sample_{number}.jpg"
        _write_jpeg(fitted(open_picture(source / rows[index]["file"])), folder / name)
        prompts[name] = rows[index]["prompt"]
    return prompts


def _comparison(workspace: Workspace, trained: TrainedVariant, folder: Path) -> str | None:
    """Base and variant at the same seeds; None where they were not drawn alike."""
    model = trained.model
    base = workspace.samples(model.style, BASE)
    own = workspace.samples(model.style, model.variant, trained.training_seed)
    of_base, of_own = _rows(base), _rows(own)
    drawn = [[(row["id"], row["seed"]) for row in rows] for rows in (of_base, of_own)]
    if not of_base or drawn[0] != drawn[1]:
        return None
    rows = [
        GridRow(
            of_base[index]["caption"],
            [
                open_picture(base / of_base[index]["file"]),
                open_picture(own / of_own[index]["file"]),
            ],
        )
        for index in evenly_spaced(len(of_base), ROWS_COMPARED)
    ]
    title = f"{model.style.replace('_', ' ')}: untrained and trained, from the same noise"
    name = "images/comparison.jpg"
    _write_jpeg(labelled_grid(title, [BASE, model.variant], rows), folder / name)
    return name


def _rows(source: Path) -> list[dict[str, str]]:
    manifest = source / MANIFEST_FILE
    return read_manifest(manifest, SAMPLES) if manifest.exists() else []


def _write_jpeg(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(as_jpeg(image, JPEG_QUALITY))


def _evaluation(workspace: Workspace, trained: TrainedVariant) -> EvaluationRecord | None:
    folder = workspace.evaluation(trained.model.style)
    if not (folder / EVALUATION_FILE).is_file():
        return None
    evaluation = read_evaluation(folder)
    of_seeds = evaluation.trainings.get(trained.model.variant, {})
    return evaluation if trained.training_seed in of_seeds else None


def _metrics(evaluation: EvaluationRecord, trained: TrainedVariant) -> list[TableRow]:
    """Of this training alone: its weights are what is shared."""
    variant = trained.model.variant
    return figures_table(
        [
            *(Measured(name, figures) for name, figures in evaluation.untrained.items()),
            Measured(variant, evaluation.trainings[variant][trained.training_seed]),
            Measured("real", evaluation.ceiling),
        ]
    )


def _facts(workspace: Workspace, trained: TrainedVariant) -> dict[str, Any]:
    model, summary = trained.model, trained.summary
    manifests = {
        "style set": workspace.style_set(model.style),
        "captions": workspace.captions(model.style),
        "negative set": workspace.negative_set(model.style),
    }
    digests = {
        f"{name}, manifest": manifest_sha256(path / MANIFEST_FILE)
        for name, path in manifests.items()
        if (path / MANIFEST_FILE).exists()
    }
    if (lora := trained.place / LORA_FILE).is_file():
        digests["LoRA as trained"] = file_sha256(lora)
    return {
        "training pictures": model.pictures,
        "held-out pictures": summary["test_pictures"],
        "negatives": summary["negatives"],
        "steps": summary["steps"],
        **({} if trained.step is None else {"weights saved after step": trained.step}),
        "root seed": summary["origin"]["seed"],
        "training seed": trained.training_seed,
        "data (SHA-256)": summary["origin"]["data_sha256"],
        **{f"{name} (SHA-256)": digest for name, digest in digests.items()},
        "nsync-pipeline": summary["origin"]["version"],
    }
