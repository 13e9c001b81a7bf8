"""Which base model is adapted, and how it is loaded."""

from typing import Literal

from pydantic import Field

from nsync_pipeline.strict import Section


class BaseModelConfig(Section):
    """``base_model`` in params.yaml."""

    name: str = Field(
        default="sketchbook",
        min_length=1,
        description="`sketchbook` (embedded), a hub id, or a local diffusers folder",
    )
    revision: str | None = Field(
        default=None, description="the hub revision to pin; not used for sketchbook or a folder"
    )
    family: Literal["stable_diffusion"] = Field(
        default="stable_diffusion", description="how the model is built"
    )
    resolution: int | None = Field(
        default=None,
        ge=32,
        le=4096,
        multiple_of=8,
        description="side of the square pictures in pixels; the model's own where null",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="of the denoiser's frozen weights; auto: bfloat16 on CUDA, else float32",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="auto: CUDA, then MPS, then CPU, by what is there"
    )
