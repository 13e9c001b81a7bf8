"""Pictures on demand: a person's own prompts, drawn by a variant, the base, or a trained file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from nsync_pipeline.adaptation.placeholder import trained_style_word
from nsync_pipeline.adaptation.trainables import load_trained
from nsync_pipeline.artifacts import BASE, Workspace, trained_files
from nsync_pipeline.errors import MissingArtifactError, UserError
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.generation.picture_store import write_png
from nsync_pipeline.generation.prompts import styled_prompt
from nsync_pipeline.generation.sampling import PictureRequest, draw_pictures
from nsync_pipeline.image_sets.contact_sheet import contact_sheet
from nsync_pipeline.params import Params
from nsync_pipeline.stages.context import Progress, silent_progress

SHEET_FILE = "contact_sheet.png"
SHEET_SIDE = 256  # pixels, at most


@dataclass(frozen=True)
class GeneratedPictures:
    """What was drawn: a row of the contact sheet a prompt, a column a seed."""

    files: tuple[Path, ...]  # by prompt, then by seed
    contact_sheet: Path


def generate(
    workspace: Workspace,
    params: Params,
    prompts: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    *,
    style: str | None = None,
    variant: str | None = None,
    lora: Path | None = None,
    lora_scale: float = 1.0,
    progress: Progress = silent_progress,
) -> GeneratedPictures:
    """Draw each prompt at each seed into ``folder``; nothing that is there is overwritten.

    With a ``style``, ``in the style of <placeholder>`` is put after each prompt (for ``base``, the
    generic style); without one, prompts are taken as they are.

    Args:
        workspace: where the variant's LoRA lies.
        params: the base model, the style's words, and the sampler of ``generation``.
        prompts: one or more; not empty.
        seeds: one or more, 0 .. 2^63 - 1.
        folder: for ``<prompt's number>_<seed>.png`` and ``contact_sheet.png``; made where missing.
        style: a style of params.yaml; needed with a ``variant``.
        variant: a variant of params.yaml, or ``base``.
        lora: a LoRA's file, instead of a variant.
        lora_scale: how strongly the LoRA acts: 1 as trained, 0 not at all.
        progress: told how many pictures are drawn.

    Raises:
        UserError: the arguments do not go together, or a file would be overwritten.
        MissingArtifactError: the LoRA is not there.
        BaseModelError: the base cannot be loaded, or a picture comes out broken.
    """
    prompts = [prompt.strip() for prompt in prompts]
    seeds = list(dict.fromkeys(seeds))
    if not all(prompts) or not prompts or not seeds:
        raise UserError("generate needs at least one prompt that is not empty, and one seed")
    if any(not 0 <= seed < 2**63 for seed in seeds):
        raise UserError("a seed is a whole number from 0 to 2^63 - 1")
    settings = None if style is None else params.style(style)
    trained = _trained(workspace, params, style, variant, lora)
    if settings is not None:
        words = settings.generic_style
        if trained is not None:
            words = trained_style_word(trained, settings.placeholder)
        prompts = [styled_prompt(prompt, words) for prompt in prompts]
    requests = [
        PictureRequest(f"{number:03d}_{seed}", prompt, seed)
        for number, prompt in enumerate(prompts, start=1)
        for seed in seeds
    ]
    files = {request.id: folder / f"{request.id}.png" for request in requests}
    sheet = folder / SHEET_FILE
    taken = [file for file in (*files.values(), sheet) if file.exists()]
    if taken:
        raise UserError(f"{taken[0]} is there already: choose another folder, or move it away")

    family = load_family(params.base_model)
    if trained is not None:
        load_trained(family, trained, lora_scale)
    folder.mkdir(parents=True, exist_ok=True)
    # A few pictures are not worth a whole batch: they may differ from a stage's in the last bit.
    batch_size = min(params.generation.sampler.batch_size, len(requests))
    sampler = params.generation.sampler.model_copy(update={"batch_size": batch_size})
    images = []
    for batch in draw_pictures(family, requests, sampler):
        for picture in batch:
            write_png(files[picture.request.id], picture.pixels)
            images.append(Image.fromarray(picture.pixels))
        progress("pictures", len(images), len(requests))
    contact_sheet(images, len(seeds), min(family.resolution, SHEET_SIDE)).save(sheet)
    return GeneratedPictures(tuple(files.values()), sheet)


def _trained(
    workspace: Workspace,
    params: Params,
    style: str | None,
    variant: str | None,
    lora: Path | None,
) -> Path | None:
    """The folder of what the variant trained, or the file; None for the base as it is."""
    if lora is not None:
        if variant is not None:
            raise UserError("give a variant or a LoRA's file, not both")
        if not lora.is_file():
            raise MissingArtifactError(f"{lora} is not there: give the LoRA's .safetensors file")
        return lora
    if variant is None or variant == BASE:
        return None
    params.variant(variant)
    if style is None:
        raise UserError(f"variant {variant!r} was trained once a style: say which style")
    folder = workspace.model(style, variant)
    if not trained_files(folder):
        raise MissingArtifactError(
            f"{folder} holds no trained weights: run the training stage of {variant!r} on "
            f"{style!r} first."
        )
    return folder
