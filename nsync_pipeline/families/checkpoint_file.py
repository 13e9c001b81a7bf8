"""Single-file checkpoints in the layout their authors released: what one is, by its key names."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.config import FamilyName

DENOISER = "model.diffusion_model."
T5 = "text_encoders.t5xxl.transformer.shared.weight"

COMPONENTS = ("scheduler", "text_encoder", "tokenizer", "vae")
XL_COMPONENTS = (*COMPONENTS, "text_encoder_2", "tokenizer_2", "unet")
SD3_COMPONENTS = (
    *COMPONENTS, "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3", "transformer",
)  # fmt: skip


@dataclass(frozen=True)
class CheckpointKind:
    """What a checkpoint is, and where its settings are published."""

    family: FamilyName
    settings: str | None  # the hub id of the model in diffusers' layout; None: not to be told
    components: tuple[str, ...]  # of that
    undecided: str = ""  # why it cannot be told
    absent: tuple[str, ...] = ()  # components that the family can do without, and the file does


V1 = CheckpointKind(
    "stable_diffusion", "stable-diffusion-v1-5/stable-diffusion-v1-5", (*COMPONENTS, "unet")
)
V2 = replace(
    V1,
    settings=None,
    undecided="It is a Stable Diffusion 2, and the file does not say whether it predicts the noise "
    "(512 pixels) or v (768 pixels).",
)
XL = CheckpointKind(
    "stable_diffusion_xl", "stabilityai/stable-diffusion-xl-base-1.0", XL_COMPONENTS
)
SD3_MEDIUM = CheckpointKind(
    "stable_diffusion_3", "stabilityai/stable-diffusion-3-medium-diffusers", SD3_COMPONENTS
)
SD35_MEDIUM = replace(SD3_MEDIUM, settings="stabilityai/stable-diffusion-3.5-medium")
SD35_LARGE = replace(SD3_MEDIUM, settings="stabilityai/stable-diffusion-3.5-large")

FOREIGN = {  # what else is often at hand, by a part of its keys, the first that fits
    "lora": "a LoRA or the like, not a base model",
    "control_model.": "a ControlNet, not a base model",
    "double_blocks.": "a FLUX model or one of its kin",
    "conditioner.embedders.0.model.": "the refiner of Stable Diffusion XL, not its base",
    "down_blocks.": "one component in diffusers' layout; name the whole pipeline's folder",
    "transformer_blocks.": "one component in diffusers' layout; name the whole pipeline's folder",
    "joint_blocks.": "the denoiser of Stable Diffusion 3 alone; a whole checkpoint has the VAE and "
    "the text encoders too",
}


def kind_of_checkpoint(path: Path, allow_pickle: bool) -> CheckpointKind:
    """What the checkpoint at ``path`` is.

    Raises:
        BaseModelError: it cannot be read, is pickled and that is not allowed, or is of a kind that
            is not taken; the message says which, where that can be told.
    """
    keys = _keys(path, allow_pickle)

    def has(start: str) -> bool:
        return any(key.startswith(start) for key in keys)

    if has("conditioner.embedders.1."):
        return XL
    if has(f"{DENOISER}joint_blocks."):
        kind = SD3_MEDIUM
        if any(".x_block.attn2." in key for key in keys):
            kind = SD35_MEDIUM
        elif f"{DENOISER}joint_blocks.37.x_block.mlp.fc1.weight" in keys:
            kind = SD35_LARGE
        return kind if T5 in keys else replace(kind, absent=("text_encoder_3", "tokenizer_3"))
    if has(f"{DENOISER}input_blocks."):
        if has("cond_stage_model.model."):
            return V2
        if has("cond_stage_model.transformer."):
            return V1
    found = next((what for part, what in FOREIGN.items() if any(part in key for key in keys)), None)
    raise BaseModelError(
        f"base_model.name: {path} is {found or 'of an unknown kind'}. Taken are whole checkpoints "
        "of Stable Diffusion 1, 2, XL (base) and 3 in their authors' layout."
    )


def read_tensors(path: Path, allow_pickle: bool) -> dict[str, Any]:
    """The checkpoint's tensors by name, on the CPU; raises as ``kind_of_checkpoint``."""
    if path.suffix != ".safetensors" and not allow_pickle:
        raise BaseModelError(
            f"base_model.name: {path} is not a .safetensors file. Convert it, or set "
            "base_model.allow_pickle to true: only tensors are then read from it."
        )
    import torch  # seconds; what a file is can be told without
    from safetensors.torch import load_file

    content: Any
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what unpickling raises has no common class
        raise _unreadable(path, error) from error
    while isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise BaseModelError(f"base_model.name: {path} holds no tensors by name.")
    return {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _keys(path: Path, allow_pickle: bool) -> Collection[str]:
    if path.suffix != ".safetensors":
        return read_tensors(path, allow_pickle).keys()
    try:
        with safe_open(path, framework="np") as file:
            return set(file.keys())
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> BaseModelError:
    reason = " ".join(str(error).split())[:300]
    return BaseModelError(f"base_model.name: {path} is damaged, or not a checkpoint: {reason}")
