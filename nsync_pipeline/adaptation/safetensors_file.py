"""safetensors files with the same bytes for the same content, written whole or not at all.

The safetensors library writes metadata in random order, so the bytes are put together here. Source
of the format: https://github.com/huggingface/safetensors, "Format".
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.files import write_whole
from nsync_pipeline.given_files import in_its_place

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""Of the types of numbers, as the format has them."""


@dataclass(frozen=True)
class SafetensorsFile:
    """What a file holds."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write the file.

    Raises:
        ValueError: a tensor is neither float32 nor float16.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.float16):
            raise ValueError(f"{name} is {tensor.dtype}; what is trained is saved in float32")
    write_whole(path, b"".join(safetensors_parts(tensors, metadata)))


def safetensors_parts(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> list[bytes | memoryview]:
    """A file's bytes, all keys sorted: header length, JSON header, then the numbers.

    Of tensors on the CPU no copy is made: the parts are their memory.
    """
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    parts: list[memoryview] = []
    offset = 0
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        end = offset + tensor.nbytes
        shape = list(tensor.shape)
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": shape, "data_offsets": [offset, end]}
        parts.append(tensor.reshape(-1).view(torch.uint8).numpy().data)
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers start at a multiple of 8 bytes
    return [len(text).to_bytes(8, "little"), text, *parts]


def read_safetensors(path: Path) -> SafetensorsFile:
    """All that the file at ``path`` holds.

    Raises:
        MissingArtifactError: there is no such file, or it is damaged.
    """
    with _opened(path) as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return SafetensorsFile(tensors, dict(file.metadata() or {}))


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of the file at ``path``; raises as ``read_safetensors``."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise MissingArtifactError(f"{path} is not there: train it first")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        other = None
        with suppress(OSError), path.open("rb") as file:
            other = in_its_place(file.read(512), "the weights")
        told = not_ours(path, error) if other is None else MissingArtifactError(f"{path} {other}")
        raise told from error


def not_ours(path: Path, reason: object) -> MissingArtifactError:
    """The error for a file that this pipeline did not write, or that has been damaged since."""
    return MissingArtifactError(
        f"{path} is damaged, or not a file that this pipeline saved: train it again. ({reason})"
    )
