"""Which base model is adapted, and how it is loaded."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from nsync_pipeline.settings import Section, later

FamilyName = Literal[
    "stable_diffusion",
    "stable_diffusion_xl",
    "stable_diffusion_3",
    "z_image",
    "flux_1",
    "flux_2_klein",
    "qwen_image",
    "krea_2",
]


Quantization = Literal["int8", "fp8", "nf4"]


class MemoryConfig(Section):
    """``base_model.memory``: less memory for more time; the pictures are the same."""

    offload: bool = Field(
        default=False,
        description="text encoders and VAE wait on the CPU, and move to the device for each call",
    )
    group_offload: bool = later(
        False,
        description="the denoiser's blocks wait on the CPU and move to the device one by one; in "
        "training it saves memory together with training.gradient_checkpointing",
    )
    release_text_encoders: bool = later(
        False,
        description="language models that read prompts are let go once prompts are encoded, and "
        "loaded again for the next; others stay",
    )
    vae_slicing: bool | None = Field(
        default=None,
        description="the VAE takes pictures one by one; null: from 512 pixels a side on",
    )
    vae_tiling: bool = Field(
        default=False,
        description="the VAE takes a picture in overlapping tiles, blended: for the largest "
        "pictures, and not quite the same ones",
    )


class BaseModelConfig(Section):
    """``base_model`` in params.yaml."""

    name: str = Field(
        default="sketchbook",
        min_length=1,
        description="`sketchbook` (embedded), a hub id, a local diffusers folder, or a single-file "
        "checkpoint (.safetensors)",
    )
    revision: str | None = Field(
        default=None, description="the hub revision to pin; not used for sketchbook or local files"
    )
    config: str | None = Field(
        default=None,
        description="for a single-file checkpoint: where its settings and tokenizers are, a folder "
        "or hub id in diffusers' layout; the family's official one where null",
    )
    family: Literal["auto"] | FamilyName = Field(
        default="auto", description="how the model is built; auto: as its files say"
    )
    resolution: int | None = Field(
        default=None,
        ge=32,
        le=4096,
        multiple_of=8,
        description="side of the square pictures in pixels; the model's own where null",
    )
    aspect_buckets: bool = Field(
        default=False,
        description="pictures keep their aspect: each in the nearest of several sizes of about "
        "the resolution's area, up to 2:1, instead of its centre square",
    )
    dtype: Literal["auto", "float64", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="of the denoiser's frozen weights; auto: bfloat16 on CUDA (float16 where it "
        "has none), else float32; float64 only on the CPU",
    )
    quantization: Quantization | None = later(
        None,
        description="the denoiser's frozen weights in fewer bits: int8 and fp8 by torchao, nf4 by "
        "bitsandbytes on CUDA; what is trained stays float32; null: as `dtype` says",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="auto: CUDA, then MPS, then CPU, by what is there"
    )
    compile: bool = Field(
        default=False,
        description="torch.compile the denoiser, once for each way it is called",
    )
    deterministic: bool = later(
        True,
        description="only algorithms that give the same bytes again on the same device; false may "
        "be faster on a GPU",
    )
    tf32: bool = later(
        False,
        description="on GPUs that can: products of float32 matrices with 10 bits of mantissa",
    )
    memory: MemoryConfig = MemoryConfig()
    allow_pickle: bool = Field(
        default=False,
        description="also read weights that are not safetensors (.bin, .ckpt), as tensors only; "
        "code in them is never run",
    )


def public_name(model: str) -> str:
    """A model's name without the folders of this machine it may lie in."""
    return Path(model).name if model.startswith(("/", ".", "~")) else model
