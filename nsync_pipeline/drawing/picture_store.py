"""Drawn pictures kept by what they were drawn from, so that no picture is drawn twice.

A picture's file is named by the digest of everything it depends on. After an interruption, or when
a picture is added to a set, what is already there is taken as it is. A batch is kept whole or not
at all: so what is left of a run that was cut off falls into the same batches as in an unbroken one,
which an accelerator may tell.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from nsync_pipeline.determinism import deterministic_algorithms
from nsync_pipeline.drawing.config import ORDINARY, GuidanceConfig, SamplerConfig
from nsync_pipeline.drawing.prompts import styled_prompt
from nsync_pipeline.drawing.sampling import (
    PictureRequest,
    SampledPicture,
    draw_pictures,
    latent_size,
)
from nsync_pipeline.families.family import Family
from nsync_pipeline.files import whole_folder
from nsync_pipeline.pictures.layout import store_pictures
from nsync_pipeline.pictures.pixels import open_squares, picture_sizes
from nsync_pipeline.pictures.sheets import evenly_spaced, preview
from nsync_pipeline.pictures.style_pictures import RealPicture
from nsync_pipeline.seeding import stream_seed
from nsync_pipeline.stage import Preview, StageContext
from nsync_pipeline.workspace import BASE

Item = TypeVar("Item")


def written_behind(items: Iterable[Item], write: Callable[[Item], None]) -> Iterator[Item]:
    """``items``, each given back once ``write`` is done with it, in order.

    While one is written (in another thread), the next is made; no others are held. What making or
    writing raises comes through; what was made before is still written, unless writing failed.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="written-behind") as writer:
        behind: tuple[Item, Future[None]] | None = None
        try:
            for item in items:
                before, behind = behind, None
                if before is not None:
                    before[1].result()
                behind = (item, writer.submit(write, item))
                if before is not None:
                    yield before[0]
        finally:
            if behind is not None:
                behind[1].result()
        if behind is not None:
            yield behind[0]


RECIPE = 2  # raised when a picture would come out otherwise from the same

BATCH = "[0-9a-f]*"  # folders named by a digest


class PictureStore:
    """A folder of batches, each a folder of PNG files named by keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pictures(self) -> dict[str, Path]:
        """The files of all whole pictures by key: one cut short by a crash is not taken."""
        return {file.stem: file for file in self.folder.glob(f"{BATCH}/*.png") if _is_whole(file)}

    def put(self, batch: Mapping[str, NDArray[np.uint8]]) -> None:
        """Keep a batch of pictures (H, W, 3) by key, whole or not at all."""
        # It is there already only where all of it is damaged.
        with whole_folder(self.folder / _digest(list(batch))) as written:
            for key, pixels in batch.items():
                (written / f"{key}.png").write_bytes(png_bytes(pixels))

    def keep_only(self, files: Collection[Path]) -> None:
        """Remove everything but ``files``, so that the folder never holds more than one set."""
        for cut_off in self.folder.glob(".*.partial"):
            shutil.rmtree(cut_off)
        for batch in list(self.folder.glob(BATCH)):
            for file in list(batch.iterdir()):
                if file not in files:
                    file.unlink()
            if not any(batch.iterdir()):
                batch.rmdir()


def draw_into_store(
    family: Family,
    requests: Sequence[PictureRequest],
    sampler: SamplerConfig,
    store: PictureStore,
    progress: Callable[[int, int], None],
    lora_sha256: str | None = None,
    guidance: GuidanceConfig = ORDINARY,
) -> Mapping[str, Path]:
    """Draw those of ``requests`` that ``store`` lacks; the files of all of them by id.

    Each batch is stored while the next one is drawn; what was stored before an error is kept.
    Afterwards the store holds these pictures alone. ``progress`` is told how many pictures are
    there, and how many there will be.

    Raises:
        BaseModelError: as ``draw_pictures``.
        OSError: a batch could not be stored.
    """
    keys = {r.id: picture_key(family, r, sampler, lora_sha256, guidance) for r in requests}
    there = store.pictures()
    missing = [request for request in requests if keys[request.id] not in there]
    done = len(requests) - len(missing)
    progress(done, len(requests))

    def keep(batch: Sequence[SampledPicture]) -> None:
        store.put({keys[picture.request.id]: picture.pixels for picture in batch})

    for batch in written_behind(draw_pictures(family, missing, sampler, guidance), keep):
        done += len(batch)
        progress(done, len(requests))
    there = store.pictures()
    files = {name: there[key] for name, key in keys.items()}
    store.keep_only(set(files.values()))
    return files


def picture_key(
    family: Family,
    request: PictureRequest,
    sampler: SamplerConfig,
    lora_sha256: str | None,
    guidance: GuidanceConfig = ORDINARY,
) -> str:
    """32 hex digits of the SHA-256 of all that decides a picture's pixels."""
    recipe: dict[str, object] = {
        "recipe": RECIPE,
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
    if (size := latent_size(family, request)) != family.latent_shape[1:]:
        recipe["latent_size"] = size
    if guidance != ORDINARY:
        recipe["guidance"] = guidance.model_dump()
    if family.quantization is not None:
        recipe["quantization"] = family.quantization
    if family.vae_tiling:
        recipe["vae_tiling"] = True
    return _digest(recipe)


def png_bytes(pixels: NDArray[np.uint8], text: Mapping[str, str] | None = None) -> bytes:
    """``pixels`` (H, W, 3) as a PNG with ``text`` alone: the same of both, the same bytes."""
    said = PngInfo()
    for name, value in (text or {}).items():
        said.add_itxt(name, value)
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGB").save(buffer, "PNG", compress_level=6, pnginfo=said)
    return buffer.getvalue()


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _is_whole(file: Path) -> bool:
    try:
        with Image.open(file) as image:
            image.verify()  # its chunks' checksums: much less than decoding
    except Exception:  # a decoder raises almost anything on damaged data
        return False
    return True


def draw_captions(
    context: StageContext[Any],
    family: Family,
    pictures: Sequence[RealPicture],
    style: str,
    per_caption: int,
    sampler: SamplerConfig,
    stage: str,
    stream: str,
    lora_sha256: str | None = None,
    guidance: GuidanceConfig = ORDINARY,
    side: int | None = None,
    within: Sequence[str] = (),
) -> list[tuple[RealPicture, dict[str, Any]]]:
    """Draw the captions of ``pictures`` in ``style`` into ``context.folder``; a row of each.

    All are squares of ``side`` pixels, or where None, of the size their picture is trained at.
    ``within`` are folders within, of one of several sets of an artefact; rows name their files from
    there on.

    A seed depends on ``stream``, the caption's picture and the number (``k``) alone. Drawn pictures
    are kept in the workspace's scratch, one set a stage, style, training and ``within``.

    Raises:
        BaseModelError: a picture came out broken; what was drawn before is kept.
    """
    settings = context.settings
    sizes = picture_sizes(family, settings.base_model.aspect_buckets)
    requests = {
        (picture, k): PictureRequest(
            id=f"{picture.id}_{k}",
            prompt=styled_prompt(picture.caption, style),
            seed=stream_seed(settings.seed, stream, picture.id, k),
            size=(side, side) if side else sizes.asked_for(picture.width, picture.height),
        )
        for picture in pictures
        for k in range(per_caption)
    }
    slot = [stage, context.style] + ([context.variant] if context.variant else [])
    if context.variant not in (None, BASE):
        slot.append(str(context.training_seed))
    store = PictureStore(context.workspace.scratch(*slot, *within))
    folder = context.folder.joinpath(*within)
    tell = partial(context.progress, " ".join(("pictures", *within[-1:])))
    base = settings.base_model
    with deterministic_algorithms(base.deterministic, base.tf32):
        drawn = draw_into_store(
            family, list(requests.values()), sampler, store, tell, lora_sha256, guidance
        )
    stored = store_pictures(folder, drawn)
    rows = []
    for (picture, k), request in requests.items():
        file = stored[request.id]
        with Image.open(drawn[request.id]) as image:
            width, height = image.size
        row = {
            "id": request.id, "k": k, "prompt": request.prompt, "seed": request.seed,
            "file": file.file, "sha256": file.sha256, "width": width, "height": height,
        }  # fmt: skip
        rows.append((picture, row))
    return rows


def sheet(title: str, groups: Sequence[Sequence[Path]], most: int, columns: int = 8) -> Preview:
    """At most ``most`` of ``groups`` of pictures that belong side by side, evenly spaced."""
    shown = [groups[index] for index in evenly_spaced(len(groups), most)]
    squares = open_squares([path for group in shown for path in group], side=96)
    return Preview(title, preview(title, list(squares), columns))
