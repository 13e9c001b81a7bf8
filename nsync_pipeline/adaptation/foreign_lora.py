"""LoRA files that other tools wrote, put on a family by diffusers' own readers."""

from pathlib import Path
from typing import Any

from diffusers import loaders
from safetensors import safe_open

from nsync_pipeline.adaptation.lora import ADAPTER, has_lora, lora_layers, remove_lora
from nsync_pipeline.adaptation.lora_file import OWN_METADATA
from nsync_pipeline.adaptation.safetensors_file import read_metadata
from nsync_pipeline.adaptation.trained_weights import adapted_models_of, clip_encoders_of
from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.weights import quiet_libraries


def is_foreign(path: Path) -> bool:
    """Whether the file at ``path`` is not one that a training of this pipeline saved.

    Raises:
        MissingArtifactError: there is no such file, or it is no safetensors file.
    """
    return OWN_METADATA not in read_metadata(path)


def load_foreign_lora(family: Family, path: Path) -> None:
    """Put the LoRA at ``path`` (diffusers', kohya's or another form) on the family, frozen.

    Raises:
        BaseModelError: the family holds a LoRA already, or none of this one's layers, or layers of
            other sizes; or nobody here reads its form.
    """
    if has_lora(family):
        raise BaseModelError(f"{family.name} holds a LoRA already: take that off first")
    try:
        with quiet_libraries():
            _load(family, path)
    except Exception as error:  # of all kinds, on a file of another model
        remove_lora(family)
        reason = " ".join(str(error).split())[:300]
        if isinstance(error, AttributeError | LookupError | TypeError):  # its words say nothing
            with safe_open(path, framework="np") as file:
                first = min(file.keys(), default="nothing")
            reason = f"it holds {first}, which is no layer of this model: name a LoRA of this base"
        raise BaseModelError(f"{path} does not fit {family.name}: {reason}") from error
    if not has_lora(family):
        raise BaseModelError(f"{path} holds no LoRA for {family.name}")
    for model in adapted_models_of(family):
        for _, layer in lora_layers(model.model):
            layer.requires_grad_(False)


def _load(family: Family, path: Path) -> None:
    reader = _reader(family)
    options: dict[str, Any] = {"weight_name": path.name, "use_safetensors": True}
    if reader is loaders.StableDiffusionXLLoraLoaderMixin:
        denoiser: Any = family.denoiser
        options["unet_config"] = denoiser.config  # XL's files count its blocks in another way
    tensors, *alphas_if_any, metadata = reader.lora_state_dict(
        str(path.parent), return_lora_metadata=True, local_files_only=True, **options
    )
    alphas = alphas_if_any[0] if alphas_if_any else None
    prefix = family.denoiser_prefix
    common = {"adapter_name": ADAPTER, "metadata": metadata}
    if any(key.startswith(f"{prefix}.") for key in tensors):
        family.denoiser.load_lora_adapter(  # type: ignore[operator] # of diffusers' models
            tensors, prefix=prefix, network_alphas=alphas, **common
        )
    for encoder in clip_encoders_of(family):
        if any(key.startswith(f"{encoder.component}.") for key in tensors):
            encoder.model.to(family.device)  # it may rest elsewhere, as long as it is frozen
            reader.load_lora_into_text_encoder(
                tensors, alphas, encoder.model, prefix=encoder.component, **common
            )


READERS: dict[str, Any] = {
    "stable-diffusion-3": loaders.SD3LoraLoaderMixin,
    "z-image": loaders.ZImageLoraLoaderMixin,
    "flux-1-dev": loaders.FluxLoraLoaderMixin,
    "flux-2-klein": loaders.Flux2LoraLoaderMixin,
    "qwen-image": loaders.QwenImageLoraLoaderMixin,
    "krea-2": loaders.Krea2LoraLoaderMixin,
}
"""What reads others' files of a transformer, by its architecture."""


def _reader(family: Family) -> Any:
    if family.architecture is not None:
        return READERS[family.architecture]
    if len(family.text_encoders) == 2:
        return loaders.StableDiffusionXLLoraLoaderMixin
    return loaders.StableDiffusionLoraLoaderMixin
