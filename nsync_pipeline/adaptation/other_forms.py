"""A LoRA in the forms other tools read, as tensors by key.

kohya's form, for the UNets of Stable Diffusion 1, 2 and XL: ``lora_unet_<layer>``, ``lora_te_`` (of
XL ``lora_te1_`` and ``lora_te2_``) with every ``.`` of the layer's name an ``_``, then
``.lora_down.weight`` (``A``), ``.lora_up.weight`` (``B``) and ``.alpha``: the layer adds
``(alpha / rank) B A``. Layers keep their diffusers names in XL, too: ComfyUI, A1111, diffusers and
kohya's scripts read them beside those of the original code. Convolutions are as in kohya's LoCon:
``A`` (rank, in, kh, kw), ``B`` (out, rank, 1, 1).

For transformers kohya's names follow another, fused code; there, diffusers' keys with the scale
multiplied into ``B``, which ComfyUI and diffusers both read. ComfyUI maps them to the fused layers
of Stable Diffusion 3, FLUX.1 and 2, Z-Image, Qwen-Image and Krea 2 (``model_lora_keys_unet``).

A LoKr and a LoHa have LyCORIS' names (``.lokr_w1``, ``.hada_w1_a``), with the scale multiplied into
the first factor, and an alpha as large as the rank: where both factors of a LoKr are whole, readers
take no scale, and LyCORIS takes any other twice.

Of a DoRA's lengths no two programs make the same: LyCORIS divides by those of the changed weight a
row, A1111, Forge and ComfyUI until 2025 by those a column, later versions of ComfyUI by those of
the base's own weight. So a DoRA becomes what it changes, whole: ``.diff``, which all of them add.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from nsync_pipeline.adaptation.lora import lora_layers
from nsync_pipeline.adaptation.lora_file import LoraHeader
from nsync_pipeline.adaptation.lycoris import MARKS
from nsync_pipeline.adaptation.trained_weights import adapted_models_of
from nsync_pipeline.errors import UserError
from nsync_pipeline.families.family import Family

_JOINT = r"attn2?\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
_ENDS = r"(x_embedder|context_embedder|proj_out)"
COMFYUI_LAYERS = {
    "stable-diffusion-3": rf"transformer_blocks\.\d+\.({_JOINT}|ff(_context)?\.net\.(0\.proj|2))",
    "flux-1-dev": rf"transformer_blocks\.\d+\.({_JOINT}|ff(_context)?\.net\.(0\.proj|2))|{_ENDS}"
    r"|single_transformer_blocks\.\d+\.(attn\.to_[qkv]|proj_mlp|proj_out|norm\.linear)",
    "flux-2-klein": rf"transformer_blocks\.\d+\.({_JOINT}|ff(_context)?\.linear_(in|out))|{_ENDS}"
    r"|single_transformer_blocks\.\d+\.attn\.(to_qkv_mlp_proj|to_out)",
    "z-image": r"(layers|context_refiner|noise_refiner)\.\d+\."
    r"(attention\.(to_[qkv]|to_out\.0)|feed_forward\.w[123]|adaLN_modulation\.0)"
    r"|cap_embedder\.1|t_embedder\.mlp\.[02]|all_(x_embedder|final_layer)\.2-1(\.linear)?",
    "qwen-image": r".*",  # ComfyUI's own names of its layers are diffusers'
    "krea-2": r"(transformer_blocks|text_fusion\.(layerwise|refiner)_blocks)\.\d+\."
    r"(attn\.(to_[qkv]|to_gate|to_out\.0)|ff\.(gate|up|down))|img_in|time_embed\.linear_[12]"
    r"|time_mod_proj|txt_in\.linear_[12]|text_fusion\.projector|final_layer\.linear",
}
"""The layers of each transformer that ComfyUI finds by diffusers' names for them."""

DOWN, UP = ".lora_A.weight", ".lora_B.weight"


class NoFormError(UserError):
    """A LoRA has no form that other programs read as it acts."""


def others_name(style: str, variant: str) -> str:
    """What the file is called: one for a folder with many."""
    return f"{style}_{variant}.safetensors"


def form_for_others(
    header: LoraHeader, tensors: Mapping[str, Tensor], architecture: str
) -> dict[str, Tensor] | None:
    """``tensors``, keyed as in diffusers' file, as other programs read them; None of a DoRA.

    Raises:
        NoFormError: a layer of it is not known there, and would be left out without a word.
    """
    if any(adapter.dora for adapter in header.adapters.values()):
        return None
    if (transformer := header.adapters.get("transformer")) is not None:
        known = COMFYUI_LAYERS.get(architecture, "")
        strange = [name for name in transformer.targets if not re.fullmatch(known, name)]
        if strange:
            raise NoFormError(
                f"ComfyUI does not know {len(strange)} of the {len(transformer.targets)} adapted "
                f"layers, the first is {strange[0]}, and would leave them out: export it as "
                "diffusers (--format diffusers)"
            )
    if any(adapter.kind != "lora" for adapter in header.adapters.values()):
        return lycoris_tensors(header, tensors, architecture)
    if "transformer" in header.adapters:
        return scaled_tensors(header, tensors)
    return kohya_tensors(header, tensors, architecture)


def kohya_tensors(
    header: LoraHeader, tensors: Mapping[str, Tensor], architecture: str
) -> dict[str, Tensor]:
    """``tensors``, keyed as in diffusers' file, in kohya's form for ``architecture``.

    All layers of a component get one alpha, the usual one; where a layer's scale is another, the
    difference is multiplied into ``B``: not every reader keeps alphas apart in text encoders.

    Raises:
        UserError: a component is not one that kohya's form has.
    """
    converted: dict[str, Tensor] = {}
    for layer, (down, up, scale) in _layers(header, tensors).items():
        key = _kohya_key(layer, architecture)
        alpha = header.adapters[layer.partition(".")[0]].alpha
        factor = scale * len(down) / alpha
        converted[f"{key}.lora_down.weight"] = down
        converted[f"{key}.lora_up.weight"] = up if factor == 1.0 else up * factor
        converted[f"{key}.alpha"] = torch.tensor(alpha, dtype=torch.float32)
    return converted


def _kohya_key(layer: str, architecture: str) -> str:
    prefixes = {"unet": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}
    if architecture.startswith("stable-diffusion-xl"):
        prefixes["text_encoder"] = "lora_te1"
    component, _, name = layer.partition(".")
    if component not in prefixes:
        raise UserError(f"kohya's form has no {component}: export it as diffusers")
    return f"{prefixes[component]}_{name.replace('.', '_')}"


def scaled_tensors(header: LoraHeader, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` with each layer's scale multiplied into ``B``: they act in full as they are."""
    scaled: dict[str, Tensor] = {}
    for layer, (down, up, scale) in _layers(header, tensors).items():
        scaled[f"{layer}{DOWN}"] = down
        scaled[f"{layer}{UP}"] = up * scale
    return scaled


def lycoris_tensors(
    header: LoraHeader, tensors: Mapping[str, Tensor], architecture: str
) -> dict[str, Tensor]:
    """A LoKr's or LoHa's ``tensors`` as LyCORIS writes them; of a transformer in diffusers' keys.

    Raises:
        UserError: a component is not one that kohya's form has.
    """
    converted: dict[str, Tensor] = {}
    for key in sorted(tensors):
        component, _, rest = key.partition(".")
        adapter = header.adapters[component]
        layer, mark, part = rest.partition(MARKS[adapter.kind])
        name = f"{component}.{layer}"
        if component != "transformer":
            name = _kohya_key(name, architecture)
            rank = adapter.ranks.get(layer, adapter.rank)
            converted[f"{name}.alpha"] = torch.tensor(float(rank))
        is_first = part in ("w1", "w1_a")
        factor = adapter.scale(layer) if is_first else 1.0
        converted[f"{name}{mark}{part}"] = tensors[key] * factor
    return converted


@torch.no_grad()
def whole_changes(family: Family, architecture: str) -> dict[str, Tensor]:
    """What the LoRA on ``family`` changes of each weight, by kohya's name for it: ``.diff``.

    In float16, which the programs that add it compute in; the LoRA is merged into the weights.

    Raises:
        UserError: a component is not one that kohya's form has.
    """
    changes: dict[str, Tensor] = {}
    for model in adapted_models_of(family):
        for name, layer in lora_layers(model.model):
            key = _kohya_key(model.key(name), architecture)
            before = layer.get_base_layer().weight.detach().clone()
            layer.merge()
            changes[f"{key}.diff"] = (layer.get_base_layer().weight - before).half().cpu()
    return changes


def _layers(
    header: LoraHeader, tensors: Mapping[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor, float]]:
    """``A``, ``B`` and the scale of each layer, by ``<component>.<layer>``."""
    layers = {}
    for key in sorted(tensors):
        if key.endswith(DOWN):
            layer = key.removesuffix(DOWN)
            component, _, name = layer.partition(".")
            adapter = header.adapters[component]
            if name not in adapter.targets:  # as newer versions of transformers call it
                name = name.removeprefix("text_model.")
            layers[layer] = (tensors[key], tensors[f"{layer}{UP}"], adapter.scale(name))
    return layers
