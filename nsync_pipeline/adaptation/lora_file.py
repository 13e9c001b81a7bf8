"""The LoRA's file: safetensors with diffusers' keys and adapter metadata, and our own beside it.

Keys are ``unet.<module>.lora_A.weight`` and ``.lora_B.weight``, what
``StableDiffusionPipeline.save_lora_weights`` writes; its ``load_lora_weights`` reads rank, alpha
and targets from ``lora_adapter_metadata``. The safetensors library writes metadata in random order,
so the file is put together here: the same LoRA always has the same bytes.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nsync_pipeline.errors import MissingArtifactError

DENOISER = "unet"
"""What diffusers calls the denoiser in keys."""

DIFFUSERS_METADATA = "lora_adapter_metadata"
OWN_METADATA = "nsync"


@dataclass(frozen=True)
class LoraHeader:
    """What a LoRA's file says besides its weights."""

    rank: int
    alpha: float
    targets: tuple[str, ...]  # name endings of the adapted layers
    origin: Mapping[str, str]  # base_model, base_revision, placeholder, update_rule, ...


def write_lora_file(path: Path, tensors: Mapping[str, Tensor], header: LoraHeader) -> None:
    """Write the file, whole or not at all; ``tensors`` are float32, keyed as in the file."""
    adapter = {"r": header.rank, "lora_alpha": header.alpha, "target_modules": list(header.targets)}
    metadata = {
        "format": "pt",
        DIFFUSERS_METADATA: json.dumps(
            {f"{DENOISER}.{key}": value for key, value in adapter.items()}, sort_keys=True
        ),
        OWN_METADATA: json.dumps(dict(header.origin), sort_keys=True),
    }
    content = safetensors_bytes(tensors, metadata)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_lora_file(path: Path) -> tuple[LoraHeader, dict[str, Tensor]]:
    """What ``write_lora_file`` wrote.

    Raises:
        MissingArtifactError: there is no such file, or it is not a LoRA this pipeline saved.
    """
    if not path.is_file():
        raise MissingArtifactError(f"{path} is not there: train it first")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        adapter = json.loads(metadata[DIFFUSERS_METADATA])
        header = LoraHeader(
            rank=adapter[f"{DENOISER}.r"],
            alpha=adapter[f"{DENOISER}.lora_alpha"],
            targets=tuple(adapter[f"{DENOISER}.target_modules"]),
            origin=json.loads(metadata[OWN_METADATA]),
        )
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise MissingArtifactError(
            f"{path} is damaged, or not a LoRA that this pipeline saved: train it again. ({error})"
        ) from error
    return header, tensors


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The safetensors format, all keys sorted: header length, JSON header, then the numbers.

    Source: https://github.com/huggingface/safetensors, "Format". Raises ``ValueError`` where a
    tensor is not float32.
    """
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    parts: list[bytes] = []
    offset = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}; a LoRA is saved in float32")
        numbers = tensor.detach().cpu().contiguous().numpy().astype("<f4").tobytes()
        end = offset + len(numbers)
        shape = list(tensor.shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}
        parts.append(numbers)
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers start at a multiple of 8 bytes
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])
