"""Drawn pictures kept by what they were drawn from, so that no picture is drawn twice.

A picture's file is named by the digest of everything it depends on. After an interruption, or when
a picture is added to a set, what is already there is taken as it is.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from nsync_pipeline.families.family import Family
from nsync_pipeline.generation.config import SamplerConfig
from nsync_pipeline.generation.sampling import PictureRequest, draw_pictures


class PictureStore:
    """A folder of PNG files named by keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.png"

    def has(self, key: str) -> bool:
        """Whether the picture is there, and whole: a file cut short by a crash is not taken."""
        try:
            with Image.open(self.path(key)) as image:
                image.load()
        except (OSError, SyntaxError):
            return False
        return True

    def put(self, key: str, pixels: NDArray[np.uint8]) -> None:
        """Write the picture, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_png(self.path(key), pixels)

    def keep_only(self, keys: Iterable[str]) -> None:
        """Remove every other file, so that the folder never holds more than one set."""
        kept = {self.path(key).name for key in keys}
        for file in self.folder.glob("*"):
            if file.name not in kept:
                file.unlink()


def draw_into_store(
    family: Family,
    requests: Sequence[PictureRequest],
    sampler: SamplerConfig,
    store: PictureStore,
    progress: Callable[[int, int], None],
    lora_sha256: str | None = None,
) -> Mapping[str, Path]:
    """Draw those of ``requests`` that ``store`` lacks; the files of all of them by id.

    Each batch is stored as soon as it is drawn. Afterwards the store holds these pictures alone.

    Args:
        family: the base model, with its LoRA where there is one.
        requests: what to draw; ids are unique.
        sampler: how.
        store: where to look first, and to keep.
        progress: called with how many pictures are there, and how many there will be.
        lora_sha256: of the LoRA's file.

    Raises:
        BaseModelError: as ``draw_pictures``; what was drawn before is kept.
    """
    keys = {r.id: picture_key(family, r, sampler, lora_sha256) for r in requests}
    missing = [request for request in requests if not store.has(keys[request.id])]
    done = len(requests) - len(missing)
    progress(done, len(requests))
    for picture in draw_pictures(family, missing, sampler):
        store.put(keys[picture.request.id], picture.pixels)
        done += 1
        progress(done, len(requests))
    store.keep_only(keys.values())
    return {name: store.path(key) for name, key in keys.items()}


def picture_key(
    family: Family, request: PictureRequest, sampler: SamplerConfig, lora_sha256: str | None
) -> str:
    """32 hex digits of the SHA-256 of all that decides a picture's pixels."""
    recipe = {
        "prompt": request.prompt,
        "seed": request.seed,
        "base_revision": family.revision,
        "lora": lora_sha256,
        "sampler": sampler.model_dump(),
        "resolution": family.resolution,
        "device": family.device.type,
        "dtype": str(family.dtype),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:32]


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write ``pixels`` (H, W, 3) as a PNG with no metadata: the same pixels, the same bytes.

    The file appears whole or not at all.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        Image.fromarray(pixels, "RGB").save(partial, "PNG", compress_level=6)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
