"""A LoRA in the forms other tools read, as tensors by key.

kohya's form, for the UNets of Stable Diffusion 1, 2 and XL: ``lora_unet_<layer>``, ``lora_te_`` (of
XL ``lora_te1_`` and ``lora_te2_``) with every ``.`` of the layer's name an ``_``, then
``.lora_down.weight`` (``A``), ``.lora_up.weight`` (``B``) and ``.alpha``: the layer adds
``(alpha / rank) B A``. Layers keep their diffusers names in XL, too: ComfyUI, A1111, diffusers and
kohya's scripts read them beside those of the original code. Convolutions are as in kohya's LoCon:
``A`` (rank, in, kh, kw), ``B`` (out, rank, 1, 1).

For transformers (Stable Diffusion 3) kohya's names follow another, fused code; there, diffusers'
keys with the scale multiplied into ``B``, which ComfyUI and diffusers both read.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from nsync_pipeline.adaptation.lora_file import LoraHeader
from nsync_pipeline.errors import UserError

DOWN, UP = ".lora_A.weight", ".lora_B.weight"
MAGNITUDE = ".lora_magnitude_vector.weight"
"""DoRA's lengths."""


def kohya_tensors(
    header: LoraHeader, tensors: Mapping[str, Tensor], architecture: str
) -> dict[str, Tensor]:
    """``tensors``, keyed as in diffusers' file, in kohya's form for ``architecture``.

    All layers of a component get one alpha, the usual one; where a layer's scale is another, the
    difference is multiplied into ``B``: not every reader keeps alphas apart in text encoders.
    DoRA's lengths become LyCORIS's ``dora_scale``, on the output axis: (out, 1) for linear layers,
    (out, 1, 1, 1) for convolutions.

    Raises:
        UserError: a component is not one that kohya's form has.
    """
    prefixes = {"unet": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}
    if architecture.startswith("stable-diffusion-xl"):
        prefixes["text_encoder"] = "lora_te1"
    converted: dict[str, Tensor] = {}
    for layer, (down, up, scale) in _layers(header, tensors).items():
        component, _, name = layer.partition(".")
        alpha = header.adapters[component].alpha
        factor = scale * len(down) / alpha
        if component not in prefixes:
            raise UserError(f"kohya's form has no {component}: export it as diffusers")
        key = f"{prefixes[component]}_{name.replace('.', '_')}"
        converted[f"{key}.lora_down.weight"] = down
        converted[f"{key}.lora_up.weight"] = up if factor == 1.0 else up * factor
        converted[f"{key}.alpha"] = torch.tensor(alpha, dtype=torch.float32)
        if f"{layer}{MAGNITUDE}" in tensors:
            ones = [1] * (down.dim() - 1)
            converted[f"{key}.dora_scale"] = tensors[f"{layer}{MAGNITUDE}"].reshape(-1, *ones)
    return converted


def scaled_tensors(header: LoraHeader, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` with each layer's scale multiplied into ``B``: they act in full as they are.

    Raises:
        UserError: the LoRA is a DoRA, whose lengths no such form has.
    """
    scaled: dict[str, Tensor] = {}
    for layer, (down, up, scale) in _layers(header, tensors).items():
        if f"{layer}{MAGNITUDE}" in tensors:
            raise UserError(
                "a DoRA on a transformer has no form that ComfyUI reads: export it as diffusers"
            )
        scaled[f"{layer}{DOWN}"] = down
        scaled[f"{layer}{UP}"] = up * scale
    return scaled


def _layers(
    header: LoraHeader, tensors: Mapping[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor, float]]:
    """``A``, ``B`` and the scale of each layer, by ``<component>.<layer>``."""
    found = {}
    for key in sorted(tensors):
        if key.endswith(DOWN):
            layer = key.removesuffix(DOWN)
            component, _, name = layer.partition(".")
            adapter = header.adapters[component]
            if name not in adapter.targets:  # as newer versions of transformers call it
                name = name.removeprefix("text_model.")
            found[layer] = (tensors[key], tensors[f"{layer}{UP}"], adapter.scale(name))
    return found
