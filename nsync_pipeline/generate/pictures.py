"""Pictures on demand: a person's own prompts, drawn by a variant, the base, or a LoRA's file.

Each picture's file says all that it was drawn from: enough to draw it again.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field, TypeAdapter, ValidationError

from nsync_pipeline.determinism import deterministic_algorithms
from nsync_pipeline.drawing.config import ORDINARY, GuidanceConfig, SamplerConfig
from nsync_pipeline.drawing.picture_store import png_bytes, written_behind
from nsync_pipeline.drawing.sampling import PictureRequest, SampledPicture, draw_pictures
from nsync_pipeline.errors import PictureError, UserError
from nsync_pipeline.families.config import public_name
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.files import write_whole
from nsync_pipeline.generate.model import DrawingModel
from nsync_pipeline.generate.prompts import AskedPrompt
from nsync_pipeline.generate.sheet import AskedPicture, sheet_plan
from nsync_pipeline.params import Params
from nsync_pipeline.pictures.pixels import open_picture
from nsync_pipeline.samples.config import GenerationConfig
from nsync_pipeline.stage import Progress, silent_progress
from nsync_pipeline.text import printable

SHEET_FILE = "contact_sheet.png"
PNG_TEXT = "nsync"  # the name of the text in a PNG file

_Batch = list[tuple[AskedPicture, SampledPicture]]


@dataclass(frozen=True)
class PictureSettings:
    """What decides a picture, in plain values."""

    prompt: str  # as the text encoder got it
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    height: Annotated[int, Field(ge=1, lt=10**5)]  # pixels
    width: Annotated[int, Field(ge=1, lt=10**5)]
    scheduler: str
    steps: int
    guidance_scale: float
    base_model: str
    base_revision: str
    model: str  # base, a variant, or a LoRA's file
    style: str | None
    weights_sha256: str | None  # of what was put on the base; None: nothing
    strength: Annotated[float, Field(ge=-100, le=100)]
    guidance_form: str = ORDINARY.form
    guidance_weight: float = ORDINARY.weight

    def text(self) -> str:
        """As it stands in the picture's file, without a guidance that is the ordinary one."""
        said = asdict(self)
        for name in LATER:
            if said[name] == getattr(PictureSettings, name):
                del said[name]
        return json.dumps(said, sort_keys=True, ensure_ascii=False)


LATER = ("guidance_form", "guidance_weight")
"""What files do not say that are older than it."""


def read_settings(path: Path) -> PictureSettings:
    """What the picture at ``path`` says of itself.

    Raises:
        PictureError: it is not there, is no picture, or says nothing that this version reads.
    """
    try:
        with Image.open(path) as image:
            return TypeAdapter(PictureSettings).validate_json(image.info[PNG_TEXT], strict=True)
    except (OSError, KeyError, ValueError, TypeError, Image.DecompressionBombError) as error:
        why = printable(" ".join(str(error).split()))
        raise PictureError(
            f"{path} does not say how it was drawn: only pictures of `nsync generate` do. ({why})"
        ) from error


@dataclass(frozen=True)
class Manner:
    """How pictures are drawn."""

    sampler: SamplerConfig
    size: tuple[int, int] | None = None  # (height, width) in pixels; None: the family's square
    strengths: tuple[float, ...] = (1.0,)  # of the LoRA; several: each picture at each of them
    guidance: GuidanceConfig = ORDINARY  # but for its strength

    @classmethod
    def of(cls, generation: GenerationConfig) -> "Manner":
        """As ``generation`` draws what was trained."""
        guidance = generation.guidance
        plain = guidance.model_copy(update={"lora_strength": 1.0})
        return cls(generation.sampler, strengths=(guidance.lora_strength,), guidance=plain)

    def at(self, strength: float) -> GuidanceConfig:
        """The guidance of pictures at ``strength``."""
        return self.guidance.model_copy(update={"lora_strength": strength})


@dataclass(frozen=True)
class GeneratedPictures:
    files: tuple[Path, ...]  # by prompt, then by seed, then by strength
    contact_sheet: Path


def generate(
    params: Params,
    model: DrawingModel,
    prompts: Sequence[AskedPrompt],
    folder: Path,
    *,
    manner: Manner | None = None,
    progress: Progress = silent_progress,
) -> GeneratedPictures:
    """Draw each prompt at each of its seeds into ``folder``; nothing there is overwritten.

    Each picture's file, ``<prompt's number>_<seed>.png`` (of a sweep ``..._x<strength>.png``), says
    all that it was drawn from (``PictureSettings``). The manner is that of ``params.generation``
    where none is given.

    Raises:
        UserError: the arguments do not go together, or a file would be overwritten.
        BaseModelError: the base or the LoRA cannot be loaded, the base cannot draw in this manner,
            or a picture comes out broken; what was drawn before is kept.
    """
    if manner is None:
        of_base = model.place is None
        manner = Manner(params.generation.sampler) if of_base else Manner.of(params.generation)
    if not prompts:
        raise UserError("generate needs at least one prompt")
    if model.place is None and (manner.strengths, manner.guidance) != ((1.0,), ORDINARY):
        raise UserError(
            "the base has no strength, and no guidance but its own: give a variant or a LoRA's file"
        )
    asked = list(_asked(model, prompts, manner, folder))
    sheet = folder / SHEET_FILE
    taken = [file for file in (*(one.file for one in asked), sheet) if file.exists()]
    if taken:
        raise UserError(f"{taken[0]} is there already: choose another folder, or move it away")
    title = " · ".join(part for part in (model.style, model.name) if part)
    plan = sheet_plan(title, prompts, asked, manner.strengths)

    family = load_family(manner.sampler.base(params.base_model))
    model.put_on(family)
    folder.mkdir(parents=True, exist_ok=True)
    on_sheet: dict[Path, Image.Image] = {}
    done = 0
    base = params.base_model
    with deterministic_algorithms(base.deterministic, base.tf32):
        for batch in _drawn(family, model, asked, manner):
            for one, picture in batch:
                if one.file in plan.files:
                    on_sheet[one.file] = Image.fromarray(picture.pixels)
            done += len(batch)
            progress("pictures", done, len(asked))
    plan.sheet(on_sheet).save(sheet)
    return GeneratedPictures(tuple(one.file for one in asked), sheet)


def _asked(
    model: DrawingModel, prompts: Sequence[AskedPrompt], manner: Manner, folder: Path
) -> Iterator[AskedPicture]:
    sweep = len(manner.strengths) > 1
    for row, prompt in enumerate(prompts):
        for seed in prompt.seeds:
            for strength in manner.strengths:
                name = f"{row + 1:03d}_{seed}" + (f"_x{strength:g}" if sweep else "")
                request = PictureRequest(name, model.prompt(prompt.text), seed, manner.size)
                yield AskedPicture(folder / f"{name}.png", row, request, strength)


def _drawn(
    family: Family, model: DrawingModel, asked: Sequence[AskedPicture], manner: Manner
) -> Iterator[_Batch]:
    """Batches of pictures, each written while the next is drawn."""
    weights_sha256, sampler = model.weights_sha256(), manner.sampler

    def batches() -> Iterator[_Batch]:
        for strength in manner.strengths:
            by_name = {one.request.id: one for one in asked if one.strength == strength}
            requests = [one.request for one in by_name.values()]
            for batch in draw_pictures(family, requests, sampler, manner.at(strength)):
                yield [(by_name[drawn.request.id], drawn) for drawn in batch]

    def write(batch: _Batch) -> None:
        for one, drawn in batch:
            settings = PictureSettings(
                prompt=one.request.prompt,
                seed=one.request.seed,
                height=drawn.pixels.shape[0],
                width=drawn.pixels.shape[1],
                scheduler=sampler.scheduler,
                steps=sampler.steps,
                guidance_scale=sampler.guidance_scale,
                base_model=public_name(family.name),
                base_revision=family.revision,
                model=model.name,
                style=model.style,
                weights_sha256=weights_sha256,
                strength=one.strength,
                guidance_form=manner.guidance.form,
                guidance_weight=manner.guidance.weight,
            )
            write_whole(one.file, png_bytes(drawn.pixels, {PNG_TEXT: settings.text()}))

    return written_behind(batches(), write)


@dataclass(frozen=True)
class DrawnAgain:
    file: Path
    same_base: bool
    largest_difference: int  # of 255 levels, over pixels and colours


def draw_again(
    params: Params,
    settings: PictureSettings,
    picture: Path,
    model: DrawingModel,
    folder: Path,
    progress: Progress = silent_progress,
) -> DrawnAgain:
    """Draw ``picture``, of these ``settings``, again into ``folder``.

    ``model`` is what ``settings`` name, found here.

    Raises:
        UserError: what is put on the base has changed since; and as ``generate``.
    """
    if model.weights_sha256() != settings.weights_sha256:
        raise UserError(
            f"{picture} was drawn by {settings.model} as it was then: its weights are others now"
        )
    own = {name: getattr(settings, name) for name in ("scheduler", "steps", "guidance_scale")}
    size = (settings.height, settings.width)
    said = {"form": settings.guidance_form, "weight": settings.guidance_weight}
    try:
        sampler = SamplerConfig.model_validate(params.generation.sampler.model_dump() | own)
        guidance = GuidanceConfig.model_validate(said)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise PictureError(
            f"{picture} says that it was drawn with {'.'.join(map(str, wrong['loc']))} "
            f"{wrong['input']!r}, as this version cannot: {wrong['msg']}"
        ) from error
    manner = Manner(sampler, size, (settings.strength,), guidance)
    drawn = generate(
        params,
        replace(model, words=None),  # the prompt names the style already
        [AskedPrompt(settings.prompt, (settings.seed,))],
        folder,
        manner=manner,
        progress=progress,
    )
    before, after = (np.asarray(open_picture(file), int) for file in (picture, drawn.files[0]))
    return DrawnAgain(
        file=drawn.files[0],
        same_base=read_settings(drawn.files[0]).base_revision == settings.base_revision,
        largest_difference=int(np.abs(before - after).max()),
    )
