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

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import Tensor

from nsync_pipeline.adaptation.lora_file import LoraHeader
from nsync_pipeline.errors import UserError

DOWN, UP = ".lora_A.weight", ".lora_B.weight"
MAGNITUDE = ".lora_magnitude_vector.weight"  # DoRA's lengths


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


BASE_VERSIONS = {
    "stable-diffusion-v1": "sd_v1",
    "stable-diffusion-v2-512": "sd_v2",
    "stable-diffusion-v2-768-v": "sd_v2",
    "stable-diffusion-xl-v1-base": "sdxl_base_v1-0",
    "stable-diffusion-3": "sd3",
}
PREDICTION_TYPES = {"epsilon": "epsilon", "v_prediction": "v"}


@dataclass(frozen=True)
class LoraShape:
    """The usual layer of a LoRA; single layers may differ."""

    rank: int
    alpha: float
    dora: bool
    convolution_rank: int | None  # None: no convolution of more than a pixel is adapted


@dataclass(frozen=True)
class SharedModel:
    """What is said of a trained model where it is shared."""

    title: str
    description: str
    style: str
    variant: str
    architecture: str  # families.architecture
    base_model: str  # its name, without folders
    base_revision: str
    prediction_type: str  # epsilon, v_prediction or flow
    resolution: int  # side in pixels
    trigger_phrase: str
    rights: str | None  # the right to use the training pictures, in the user's words
    license: str | None  # an id of the hub
    lora: LoraShape | None  # None: token vectors alone
    pictures: int
    batch_size: int
    settings: Mapping[str, str]  # of the training, by kohya's names without ss_


def metadata(model: SharedModel, lora: LoraShape, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """What kohya's tools write into a file of these ``tensors``."""
    training = _training_metadata(model, lora)
    return {**training, **_specification(model), **_model_hashes(tensors, training)}


def _training_metadata(model: SharedModel, lora: LoraShape) -> dict[str, str]:
    arguments: dict[str, str] = {}
    if lora.convolution_rank is not None:
        arguments |= {"conv_dim": str(lora.convolution_rank), "conv_alpha": f"{lora.alpha:g}"}
    if lora.dora:
        arguments |= {"algo": "lora", "dora_wd": "True", "wd_on_output": "True"}
    tags = {f"1_{model.style}": {model.trigger_phrase: model.pictures}}
    side = model.resolution
    return {
        "ss_base_model_version": BASE_VERSIONS.get(model.architecture, model.architecture),
        "ss_batch_size_per_device": str(model.batch_size),
        "ss_network_alpha": f"{lora.alpha:g}",
        "ss_network_args": json.dumps(arguments, sort_keys=True),
        "ss_network_dim": str(lora.rank),
        "ss_network_module": "lycoris.kohya" if lora.dora else "networks.lora",
        "ss_num_train_images": str(model.pictures),
        "ss_output_name": f"{model.style}_{model.variant}",
        "ss_resolution": f"({side}, {side})",
        "ss_sd_model_hash": model.base_revision,
        "ss_sd_model_name": model.base_model,
        "ss_tag_frequency": json.dumps(tags, sort_keys=True, ensure_ascii=False),
        "ss_training_comment": model.description,
        "ss_v2": str(model.architecture.startswith("stable-diffusion-v2")),
        **{f"ss_{name}": value for name, value in model.settings.items()},
    }


def _specification(model: SharedModel) -> dict[str, str]:
    """The ``modelspec.*`` entries."""
    said = {
        "sai_model_spec": "1.0.1",
        "architecture": f"{model.architecture}/lora",
        "implementation": "diffusers",
        "title": model.title,
        "description": model.description,
        "resolution": f"{model.resolution}x{model.resolution}",
        "trigger_phrase": model.trigger_phrase,
        "usage_hint": f'put "{model.trigger_phrase}" after what the picture shall show',
        "tags": f"lora, style, {model.style}",
        "prediction_type": PREDICTION_TYPES.get(model.prediction_type),
        "license": model.license or model.rights,
    }
    return {f"modelspec.{name}": value for name, value in said.items() if value is not None}


def _model_hashes(tensors: Mapping[str, Tensor], training: Mapping[str, str]) -> dict[str, str]:
    """kohya's two hashes of a file of ``tensors`` with the ``ss_*`` metadata alone.

    ``sshs_model_hash`` is the SHA-256 of the numbers, so it stays when metadata is edited;
    ``sshs_legacy_hash`` is 8 digits of that of 64 KiB from the file's second MiB.
    """
    # The library writes metadata in random order, but before the first MiB ends.
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, dict(training))
    numbers = 8 + int.from_bytes(content[:8], "little")
    legacy = content[0x100000:0x110000]
    return {
        "sshs_model_hash": hashlib.sha256(content[numbers:]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(legacy).hexdigest()[:8],
    }
