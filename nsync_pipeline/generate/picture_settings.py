"""All that a picture was drawn from, kept in its own file: enough to draw it again."""

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nsync_pipeline.drawing.config import SamplerConfig
from nsync_pipeline.errors import PictureError, UserError
from nsync_pipeline.generate.model import DrawingModel
from nsync_pipeline.generate.pictures import Manner, generate
from nsync_pipeline.generate.prompts import AskedPrompt
from nsync_pipeline.params import Params
from nsync_pipeline.pictures.pixels import open_picture
from nsync_pipeline.stage import Progress, silent_progress

PNG_TEXT = "nsync"
"""The name of the text in a PNG file."""


@dataclass(frozen=True)
class PictureSettings:
    """What decides a picture, in plain values."""

    prompt: str  # as the text encoder got it
    seed: int
    height: int  # pixels
    width: int
    scheduler: str
    steps: int
    guidance_scale: float
    base_model: str
    base_revision: str
    model: str  # base, a variant, or a LoRA's file
    style: str | None
    weights_sha256: str | None  # of what was put on the base; None: nothing
    strength: float

    def as_text(self) -> dict[str, str]:
        """The text of the file."""
        return {PNG_TEXT: json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)}


def read_settings(path: Path) -> PictureSettings:
    """What the picture at ``path`` says of itself.

    Raises:
        PictureError: it is not there, is no picture, or says nothing that this version reads.
    """
    try:
        with Image.open(path) as image:
            content: dict[str, Any] = json.loads(image.info[PNG_TEXT])
        return PictureSettings(
            **{field.name: content[field.name] for field in fields(PictureSettings)}
        )
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise PictureError(
            f"{path} does not say how it was drawn: only pictures of `nsync generate` do. ({error})"
        ) from error


@dataclass(frozen=True)
class DrawnAgain:
    """The picture, drawn again."""

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
    sampler = params.generation.sampler.model_dump() | {
        "scheduler": settings.scheduler,
        "steps": settings.steps,
        "guidance_scale": settings.guidance_scale,
    }
    size = (settings.height, settings.width)
    manner = Manner(SamplerConfig.model_validate(sampler), size, (settings.strength,))
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
