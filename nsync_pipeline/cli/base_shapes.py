"""A base model as its headers and settings tell it, without loading or downloading anything."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nsync_pipeline.cli.weight_headers import (
    Component,
    components_in_checkpoint,
    components_in_folder,
)
from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.config import BaseModelConfig, FamilyName

NATIVE: dict[FamilyName, int] = {
    "stable_diffusion": 512, "stable_diffusion_xl": 1024, "stable_diffusion_3": 1024,
}  # fmt: skip
"""Pixels a side of a single-file checkpoint, which does not say it; Stable Diffusion 2 has 768."""
PIXELS_PER_LATENT = 8


@dataclass(frozen=True)
class BaseShapes:
    """A base model as its headers and settings tell it."""

    family: FamilyName
    components: tuple[Component, ...]
    resolution: int  # pixels a side
    pixels_per_latent: int


def read_base(config: BaseModelConfig) -> BaseShapes | None:
    """The shapes of the base model that ``config`` names; None where it is not on this machine.

    Raises:
        BaseModelError: it is here, and damaged or of no family that is known.
    """
    from nsync_pipeline.families.checkpoint_file import kind_of_checkpoint
    from nsync_pipeline.families.loading import FAMILIES, find_base

    path = Path(config.name).expanduser()
    if path.is_file():
        family = kind_of_checkpoint(path, allow_pickle=False).family
        resolution = config.resolution or NATIVE[family]
        return BaseShapes(family, components_in_checkpoint(path), resolution, PIXELS_PER_LATENT)
    here = local_copy(config)
    if here is None:
        return None
    loader, folder = find_base(here)
    family = next(name for name, known in FAMILIES.items() if known is loader)
    components = components_in_folder(folder.path, loader.components)
    pixels_per_latent = _pixels_per_latent(folder.path)
    own = _settings(folder.path, "unet", "transformer").get("sample_size") or 64
    side = own if isinstance(own, int) else own[0]
    resolution = config.resolution or side * pixels_per_latent
    return BaseShapes(family, components, resolution, pixels_per_latent)


def local_copy(config: BaseModelConfig) -> BaseModelConfig | None:
    """``config`` with a hub model's snapshot on this machine in its place; None without one."""
    from huggingface_hub import try_to_load_from_cache

    from nsync_pipeline.families.hub_pipeline import INDEX, is_hub_id
    from nsync_pipeline.families.pipeline_folder import SKETCHBOOK

    is_here = Path(config.name).expanduser().exists()
    if config.name == SKETCHBOOK or is_here or not is_hub_id(config.name):
        return config
    cached = try_to_load_from_cache(config.name, INDEX, revision=config.revision)
    if not isinstance(cached, str):
        return None
    return config.model_copy(update={"name": str(Path(cached).parent), "revision": None})


def _pixels_per_latent(folder: Path) -> int:
    settings = _settings(folder, "vae")
    blocks = settings.get("block_out_channels") or settings.get("encoder_block_out_channels") or ()
    return int(2 ** max(len(blocks) - 1, 0))


def _settings(folder: Path, *components: str) -> dict[str, Any]:
    for component in components:
        file = folder / component / "config.json"
        if file.is_file():
            try:
                content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise BaseModelError(f"{file} cannot be read: {error}") from error
            return content
    return {}
