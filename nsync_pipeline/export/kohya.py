"""What kohya's tools and ModelSpec write into a file beside its tensors.

ModelSpec: https://github.com/Stability-AI/ModelSpec, version 1.0.1.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from safetensors.torch import save
from torch import Tensor

from nsync_pipeline.adaptation.config import AdapterKind

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
    kind: AdapterKind = "lora"
    factor: int | None = None  # of LoKr

    @property
    def called(self) -> str:
        return "DoRA" if self.dora else {"lora": "LoRA", "lokr": "LoKr", "loha": "LoHa"}[self.kind]


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
    author: str | None  # who shares it
    lora: LoraShape | None  # None: token vectors alone
    pictures: int
    batch_size: int
    settings: Mapping[str, str]  # of the training, by kohya's names without ss_


def metadata(
    model: SharedModel, lora: LoraShape, tensors: Mapping[str, Tensor], kohya_keys: bool = True
) -> dict[str, str]:
    """What belongs into a file of these ``tensors``, whose names are kohya's or not."""
    training = _training_metadata(model, lora, kohya_keys)
    hashes = _model_hashes(tensors, training)
    return {**training, **specification(model, "lora", hashes["sshs_model_hash"]), **hashes}


def _training_metadata(model: SharedModel, lora: LoraShape, kohya_keys: bool) -> dict[str, str]:
    tags = {f"1_{model.style}": {model.trigger_phrase: model.pictures}}
    side = model.resolution
    return {
        **(_network(lora) if kohya_keys else {}),
        "ss_base_model_version": BASE_VERSIONS.get(model.architecture, model.architecture),
        "ss_batch_size_per_device": str(model.batch_size),
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


def _network(lora: LoraShape) -> dict[str, str]:
    """The module that reads the file, and its arguments."""
    if lora.dora:  # as whole changes
        return {"ss_network_module": "lycoris.kohya", "ss_network_args": '{"algo": "full"}'}
    arguments: dict[str, str] = {}
    if lora.kind != "lora":
        arguments = {"algo": lora.kind}
        if lora.kind == "lokr":
            arguments["factor"] = str(-1 if lora.factor is None else lora.factor)
    elif lora.convolution_rank is not None:
        arguments |= {"conv_dim": str(lora.convolution_rank), "conv_alpha": f"{lora.alpha:g}"}
    return {
        "ss_network_module": "networks.lora" if lora.kind == "lora" else "lycoris.kohya",
        "ss_network_dim": str(lora.rank),
        "ss_network_alpha": f"{lora.alpha:g}",
        "ss_network_args": json.dumps(arguments, sort_keys=True),
    }


def specification(model: SharedModel, adapter: str, sha256: str) -> dict[str, str]:
    """The ``modelspec.*`` entries of a file with numbers of this digest."""
    said = {
        "sai_model_spec": "1.0.1",
        "architecture": f"{model.architecture}/{adapter}",
        "implementation": "diffusers",
        "title": model.title,
        "description": model.description,
        "author": model.author,
        "hash_sha256": f"0x{sha256}",
        "resolution": f"{model.resolution}x{model.resolution}",
        "trigger_phrase": model.trigger_phrase,
        "usage_hint": f'put "{model.trigger_phrase}" after what the picture shall show',
        "tags": f"{adapter}, style, {model.style}",
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


def numbers_sha256(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of a file's numbers, without its header."""
    return _model_hashes(tensors, {})["sshs_model_hash"]
