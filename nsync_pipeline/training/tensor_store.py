"""Tensors kept by what they were computed from, and memory-mapped when they are read.

They lie in shards, safetensors files that appear whole or not at all and are never changed: several
processes may write to one folder, and what an interrupted one wrote is there for the next.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from nsync_pipeline.files import parse_json, write_whole

SHARD_BYTES = 32 * 2**20
"""As soon as so much is not written, a shard is: no more is lost by an interruption."""

WRITTEN_WITHIN = 3600.0  # seconds, of any shard

logger = logging.getLogger(__name__)

Numbers = NDArray[Any]
TYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.int16}
"""How a file's tensors are mapped; numpy has no bfloat16, whose bytes are taken as they are."""


@dataclass(frozen=True)
class TensorRows:
    """Tensors by place; reading one reads that one alone."""

    arrays: tuple[Numbers, ...]  # each (n, ...): memory-mapped, or in memory
    array: NDArray[np.int32]  # (N,) which of them each row is in
    row: NDArray[np.int32]  # (N,) and where

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, place: int) -> Tensor:
        """A copy of the tensor at ``place``, of the type that it was kept in."""
        return _tensor(np.array(self.arrays[self.array[place]][self.row[place]]))

    def part(self, start: int, stop: int) -> "TensorRows":
        return TensorRows(self.arrays, self.array[start:stop], self.row[start:stop])

    def shape(self, place: int) -> tuple[int, ...]:
        return tuple(self.arrays[self.array[place]].shape[1:])

    def stacked(self, places: Sequence[int]) -> Tensor:
        """The tensors at ``places``, all of one shape, as one: (len(places), ...)."""
        return torch.stack([self[place] for place in places])


@dataclass
class _Pending:
    tensors: dict[str, dict[str, Numbers]] = field(default_factory=dict)
    bytes: int = 0


class TensorStore:
    """Named tensors by key: float32, or of two bytes a number where they came so.

    Args:
        folder: of the shards; None keeps them in memory.
        recipe: what all tensors have in common; those of another are not seen, and are removed.
    """

    def __init__(self, folder: Path | None, recipe: Mapping[str, Any]) -> None:
        self._folder = None if folder is None else folder / digest_of(json.dumps(recipe))
        self._shards: list[dict[str, Numbers]] = []
        self._places: dict[str, tuple[int, int]] = {}
        self._pending: dict[str, _Pending] = {}  # by the shapes of their tensors
        if folder is None or self._folder is None:
            return
        for file in sorted(folder.glob("*/*")):
            if file.parent == self._folder and file.suffix == ".safetensors":
                self._open(file)
            elif file.parent != self._folder or _left_behind(file):
                file.unlink(missing_ok=True)

    def __contains__(self, key: str) -> bool:
        return key in self._places or any(key in part.tensors for part in self._pending.values())

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep ``tensors``: the same names for every key, of any shapes."""
        arrays = {name: _array(tensor) for name, tensor in tensors.items()}
        shapes = str({name: array.shape for name, array in arrays.items()})
        part = self._pending.setdefault(shapes, _Pending())
        part.tensors[key] = arrays
        part.bytes += sum(array.nbytes for array in arrays.values())
        if sum(part.bytes for part in self._pending.values()) >= SHARD_BYTES:
            self._write(max(self._pending, key=lambda shapes: self._pending[shapes].bytes))

    def flush(self) -> None:
        for shapes in list(self._pending):
            self._write(shapes)

    def _write(self, shapes: str) -> None:
        """Make a shard of what is pending with these ``shapes``."""
        tensors = self._pending.pop(shapes).tensors
        keys = list(tensors)
        names = tensors[keys[0]]
        shard = {name: np.stack([tensors[key][name] for key in keys]) for name in names}
        if self._folder is None:
            self._add(keys, shard)
            return
        file = self._folder / f"{digest_of(' '.join(keys))}.safetensors"
        written = {name: _tensor(array) for name, array in shard.items()}
        write_whole(file, safetensors.torch.save(written, {"keys": json.dumps(keys)}))
        self._open(file)

    def rows(self, keys: Sequence[str], name: str) -> TensorRows:
        """The tensors called ``name`` of ``keys``, all of which are there."""
        self.flush()
        places = np.array([self._places[key] for key in keys], dtype=np.int32).reshape(-1, 2)
        arrays = tuple(shard[name] for shard in self._shards)
        return TensorRows(arrays, places[:, 0].copy(), places[:, 1].copy())

    def names(self) -> tuple[str, ...]:
        """Of the tensors of a key; empty where there is no key."""
        self.flush()
        return tuple(self._shards[0]) if self._shards else ()

    def _open(self, file: Path) -> None:
        try:
            keys, shard = _mapped(file)
        except (ValueError, KeyError, TypeError, OSError) as error:
            logger.warning("%s is damaged and not used: %s", file.name, error)
            file.unlink(missing_ok=True)
            return
        self._add(keys, shard)

    def _add(self, keys: Iterable[str], shard: dict[str, Numbers]) -> None:
        self._shards.append(shard)
        for row, key in enumerate(keys):
            self._places[key] = (len(self._shards) - 1, row)


def digest_of(text: str) -> str:
    """32 hex digits of the SHA-256 over ``text``."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _array(tensor: Tensor) -> Numbers:
    whole = tensor.detach().cpu().contiguous()
    if whole.dtype == torch.bfloat16:
        return whole.view(torch.int16).numpy()
    return (whole if whole.dtype == torch.float16 else whole.float()).numpy()


def _tensor(array: Numbers) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor


def _mapped(file: Path) -> tuple[list[str], dict[str, Numbers]]:
    """The keys of a shard, and its arrays, memory-mapped; raises where it is not whole."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if size > file.stat().st_size:
            raise ValueError("its header is cut short")
        header = parse_json(stream.read(size))
    keys = parse_json(header.pop("__metadata__")["keys"])
    arrays: dict[str, Numbers] = {}
    for name, entry in header.items():
        if entry["dtype"] not in TYPES or entry["shape"][0] != len(keys):
            raise ValueError(f"{name} is {entry['dtype']} of shape {entry['shape']}")
        start, _ = entry["data_offsets"]
        shape = tuple(entry["shape"])
        # A file that is too short for it raises ValueError here.
        kind: Any = TYPES[entry["dtype"]]
        arrays[name] = np.memmap(file, kind, "r", offset=8 + size + start, shape=shape)
    return keys, arrays


def _left_behind(file: Path) -> bool:
    """Whether a killed process had not finished it, and no living one is still writing."""
    try:
        return time.time() - file.stat().st_mtime > WRITTEN_WITHIN
    except FileNotFoundError:
        return False
