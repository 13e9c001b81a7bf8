"""What the stages that draw pictures share: drawing them, placing them, and showing them."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from nsync_pipeline.drawing.config import SamplerConfig
from nsync_pipeline.drawing.picture_store import PictureStore, draw_into_store
from nsync_pipeline.drawing.sampling import PictureRequest
from nsync_pipeline.families.family import Family
from nsync_pipeline.pictures.pixels import file_sha256, open_squares
from nsync_pipeline.pictures.sheets import evenly_spaced, preview
from nsync_pipeline.stage import Preview, StageContext
from nsync_pipeline.training.determinism import deterministic_algorithms
from nsync_pipeline.workspace import BASE

PREVIEW_SIDE = 96  # pixels
PREVIEW_COLUMNS = 8


def draw_set(
    context: StageContext[Any],
    family: Family,
    requests: Sequence[PictureRequest],
    sampler: SamplerConfig,
    *,
    stage: str,
    lora_sha256: str | None = None,
) -> Mapping[str, Path]:
    """The files of ``requests`` by id: drawn, or taken from what ``stage`` drew here before.

    They lie in the workspace's scratch, one set a stage, style and training.

    Raises:
        BaseModelError: a picture came out broken; what was drawn before is kept.
    """
    slot = [stage, context.style] + ([context.variant] if context.variant else [])
    if context.variant not in (None, BASE):
        slot.append(str(context.training_seed))
    store = PictureStore(context.workspace.scratch(*slot))

    def tell(done: int, total: int) -> None:
        context.progress("pictures", done, total)

    with deterministic_algorithms():
        return draw_into_store(family, requests, sampler, store, tell, lora_sha256)


def place_pictures(drawn: Mapping[str, Path], folder: Path) -> dict[str, dict[str, Any]]:
    """Copy the drawn pictures to ``folder/images/<id>.png``; their manifest columns by id."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    columns = {}
    for name, source in drawn.items():
        file = images / f"{name}.png"
        shutil.copyfile(source, file)
        with Image.open(file) as image:
            width, height = image.size
        columns[name] = {
            "id": name,
            "file": f"images/{name}.png",
            "sha256": file_sha256(file),
            "width": width,
            "height": height,
        }
    return columns


def sheet(title: str, groups: Sequence[Sequence[Path]], most: int) -> Preview:
    """At most ``most`` of ``groups`` of pictures that belong side by side, evenly spaced."""
    shown = [groups[index] for index in evenly_spaced(len(groups), most)]
    squares = open_squares([path for group in shown for path in group], PREVIEW_SIDE)
    return Preview(title, preview(title, list(squares), PREVIEW_COLUMNS, PREVIEW_SIDE))
