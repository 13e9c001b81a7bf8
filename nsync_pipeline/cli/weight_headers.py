"""The shapes of a base model's weights, from the headers of its files: no weight is read."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.hub_pipeline import WEIGHTS

Shapes = Mapping[str, tuple[int, ...]]

LONGEST_HEADER = 100_000_000
"""Bytes; as the safetensors format has it."""

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
            header = json.loads(file.read(length if length <= LONGEST_HEADER else 0))
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
        files = _weight_files(folder / name)
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


def _weight_files(folder: Path) -> list[Path]:
    """The files that are loaded: whole or in shards, never another precision's."""
    for file in WEIGHTS:
        if (folder / file).is_file():
            return [folder / file]
    stems = [Path(file).stem for file in WEIGHTS]
    shards = [shard for stem in stems for shard in folder.glob(f"{stem}-*-of-*.safetensors")]
    return sorted(shard for shard in shards if ".fp16" not in shard.name)
