"""How pictures are drawn: the negatives and the results share it."""

from typing import Literal

from pydantic import Field

from nsync_pipeline.settings import Section


class SamplerConfig(Section):
    """A sampler's settings."""

    scheduler: Literal["model", "dpm", "ddim", "euler", "pndm"] = Field(
        default="dpm", description="`dpm` is DPM-Solver++ 2M; `model` keeps the model's own"
    )
    steps: int = Field(default=20, ge=1, le=1000, description="denoising steps")
    guidance_scale: float = Field(
        default=5.0, ge=1.0, le=50.0, description="of classifier-free guidance; 1 is none"
    )
    batch_size: int = Field(
        default=16,
        ge=1,
        le=4096,
        description="pictures drawn at once; part of what makes a picture, so part of its inputs",
    )
