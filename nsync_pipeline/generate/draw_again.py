"""Drawing a picture again from what its own file says."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nsync_pipeline.drawing.config import SamplerConfig
from nsync_pipeline.errors import UserError
from nsync_pipeline.generate.model import DrawingModel
from nsync_pipeline.generate.picture_settings import PictureSettings, read_settings
from nsync_pipeline.generate.pictures import Manner, generate
from nsync_pipeline.generate.prompts import AskedPrompt
from nsync_pipeline.params import Params
from nsync_pipeline.pictures.pixels import open_picture
from nsync_pipeline.stage import Progress, silent_progress


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
