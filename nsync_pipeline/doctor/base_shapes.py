"""A base model as its headers and settings tell it, without loading or downloading anything."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.config import BaseModelConfig, FamilyName
from nsync_pipeline.families.pipeline_folder import variant_of, weight_files
from nsync_pipeline.files import parse_json, read_json

Shapes = Mapping[str, tuple[int, ...]]

LONGEST_HEADER = 100_000_000  # bytes; as the safetensors format has it
DENOISERS = ("unet", "transformer")
CHECKPOINT_PARTS = {
    "model.diffusion_model.": "denoiser",
    "first_stage_model.": "vae",
    "cond_stage_model.": "text_encoder",
    "conditioner.embedders.0.": "text_encoder",
    "conditioner.embedders.1.": "text_encoder_2",
    "text_encoders.clip_l.": "text_encoder",
    "text_encoders.clip_g.": "text_encoder_2",
    "text_encoders.t5xxl.": "text_encoder_3",
}
"""What the parts of a single-file checkpoint begin with; others (a second, averaged denoiser) are
not loaded."""


@dataclass(frozen=True)
class Component:
    """One of a base model's networks."""

    name: str  # denoiser, vae, text_encoder, text_encoder_2, text_encoder_3
    shapes: Shapes  # of its weights by name

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes in the header of a safetensors file: its length (8 bytes, little endian), JSON.

    Raises:
        BaseModelError: there is no such header.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = parse_json(file.read(length if length <= LONGEST_HEADER else 0))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {name: tuple(map(int, entry["shape"])) for name, entry in entries.items()}
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise BaseModelError(f"{path} has no safetensors header: {error}") from error


def components_in_folder(folder: Path, names: Sequence[str]) -> tuple[Component, ...]:
    """Those of ``names`` that are networks of the diffusers pipeline in ``folder``.

    Raises:
        BaseModelError: a network has settings here and no safetensors weights, or a header is
            damaged.
    """
    components = []
    for name in names:
        if not (folder / name / "config.json").is_file():
            continue  # a scheduler, a tokenizer, a text encoder that the pipeline does without
        files = weight_files(folder / name, variant_of(folder / name) or "")
        if not files:
            raise BaseModelError(f"{folder / name} has no safetensors weights on this machine")
        shapes = {key: shape for file in files for key, shape in read_shapes(file).items()}
        components.append(Component("denoiser" if name in DENOISERS else name, shapes))
    return tuple(components)


def components_in_checkpoint(path: Path) -> tuple[Component, ...]:
    """The networks in a single-file checkpoint.

    Raises:
        BaseModelError: its header is damaged.
    """
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in read_shapes(path).items():
        for prefix, name in CHECKPOINT_PARTS.items():
            if key.startswith(prefix):
                parts.setdefault(name, {})[key.removeprefix(prefix)] = shape
    return tuple(Component(name, shapes) for name, shapes in parts.items())


PIXELS_PER_LATENT = 8  # of a whole checkpoint, which does not say it


@dataclass(frozen=True)
class BaseShapes:
    """A base model as its headers and settings tell it."""

    family: FamilyName
    components: tuple[Component, ...]
    resolution: int  # pixels a side
    pixels_per_latent: int
    loader: Any  # the family's class
    embeds: int = 0  # numbers a token that a language model says of a prompt; 0 without one


def read_base(config: BaseModelConfig) -> BaseShapes | None:
    """The shapes of the base model that ``config`` names; None where it is not on this machine.

    Raises:
        BaseModelError: it is here, and damaged or of no family that is known.
    """
    from nsync_pipeline.families.checkpoint_file import kind_of_checkpoint
    from nsync_pipeline.families.loading import FAMILIES, find_base

    path = Path(config.name).expanduser()
    inside: tuple[Component, ...] = ()
    here = local_copy(config)
    if path.is_file():
        kind = kind_of_checkpoint(path, allow_pickle=False)
        known = FAMILIES[kind.family]
        if kind.holds is None:
            resolution = config.resolution or known.checkpoint_resolution
            parts = components_in_checkpoint(path)
            return BaseShapes(kind.family, parts, resolution, PIXELS_PER_LATENT, known)
        inside = (Component("denoiser", read_shapes(path)),)
        settings = config.config or kind.settings
        here = local_copy(BaseModelConfig(name=settings)) if settings else None
    if here is None:
        return None
    loader, folder = find_base(here)
    family = next(name for name, known in FAMILIES.items() if known is loader)
    names = [name for name in loader.components if not (inside and name in DENOISERS)]
    components = inside + components_in_folder(folder.path, names)
    pixels_per_latent = loader.autoencoder_class.reduction(_settings(folder.path, "vae"))
    denoiser = _settings(folder.path, *DENOISERS)
    own = denoiser.get("sample_size") or 64
    side = own if isinstance(own, int) else own[0]
    resolution = config.resolution or loader.native_resolution or side * pixels_per_latent
    embeds = loader.numbers_a_token(denoiser)
    return BaseShapes(family, components, resolution, pixels_per_latent, loader, embeds)


def local_copy(config: BaseModelConfig) -> BaseModelConfig | None:
    """``config`` with a hub model's snapshot on this machine in its place; None without one."""
    from huggingface_hub import try_to_load_from_cache

    from nsync_pipeline.families.pipeline_folder import INDEX, SKETCHBOOK, is_hub_id

    is_here = Path(config.name).expanduser().exists()
    if config.name == SKETCHBOOK or is_here or not is_hub_id(config.name):
        return config
    cached = try_to_load_from_cache(config.name, INDEX, revision=config.revision)
    if not isinstance(cached, str):
        return None
    return config.model_copy(update={"name": str(Path(cached).parent), "revision": None})


def _settings(folder: Path, *components: str) -> dict[str, Any]:
    for component in components:
        file = folder / component / "config.json"
        if file.is_file():
            try:
                return dict(read_json(file))
            except (OSError, ValueError, TypeError) as error:
                raise BaseModelError(f"{file} cannot be read: {error}") from error
    return {}
