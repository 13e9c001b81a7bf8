"""style_set: from a style's source to a checked, normalised set without duplicates, split in two.

Files are stored as they are: whoever reads them brings them to 8-bit sRGB, upright, and cuts out
and scales what a model needs (``pictures.pixels``). So a set takes no more room than its source.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image, ImageOps

from nsync_pipeline.errors import PictureError
from nsync_pipeline.pictures.layout import StoredFile, store_pictures
from nsync_pipeline.pictures.manifest import STYLE_SET, write_manifest
from nsync_pipeline.pictures.pixels import open_picture
from nsync_pipeline.pictures.sheets import evenly_spaced, preview
from nsync_pipeline.stage import Preview, StageContext, StageResult
from nsync_pipeline.style_set.config import StyleSetSettings
from nsync_pipeline.style_set.ingestion import (
    TEST,
    TRAIN,
    Asked,
    Candidate,
    Ingestion,
    Offer,
    figures,
    ingest,
    refuse_bad_files,
    refuse_too_few,
    splits,
)
from nsync_pipeline.style_set.source_folder import read_source
from nsync_pipeline.style_set.sources import folder_offer, sketchbook_offer
from nsync_pipeline.workspace import MANIFEST_FILE, SKETCHBOOK_PREFIX

PREVIEW_PICTURES = 48
THUMBNAIL = (96, 96)  # pixels
COMPRESSION = 3  # of zlib: on scanned prints as small as its default of 6, in half the time


def run(context: StageContext[StyleSetSettings]) -> StageResult:
    """Take the style's pictures in.

    Raises:
        PictureError: the source is missing or empty, files cannot be used, or what is left cannot
            be split into train and test.
        CaptionError, ParamsError: as the two offers of ``sources``.
    """
    config, folder = context.settings.style_set, context.folder
    offer, asked = _offer(context)
    files: dict[str, Path] = {}
    seen_before = context.workspace.scratch("style_set", context.style) / "seen.jsonl"
    with TemporaryDirectory(dir=folder) as drawn:

        def keep(picture_id: str, candidate: Candidate) -> None:
            files[picture_id] = candidate.path or Path(drawn, f"{picture_id}.png")
            if candidate.path is None:
                candidate.read().save(files[picture_id], "PNG", compress_level=COMPRESSION)

        ingestion = ingest(offer, config, keep, context.progress, seen_before)
        refuse_bad_files(ingestion, config, asked)
        refuse_too_few(ingestion, asked)
        stored = store_pictures(folder, files)
    split = splits(ingestion, config)
    rows = _rows(ingestion, split, stored)
    write_manifest(folder / MANIFEST_FILE, rows, STYLE_SET)
    sides = (TRAIN, TEST)
    previews = tuple(_preview(f"{context.style}: {side}", folder, rows, side) for side in sides)
    counts = {side: list(split.values()).count(side) for side in sides}
    return StageResult(figures={**figures(ingestion, asked), **counts}, previews=previews)


def _offer(context: StageContext[StyleSetSettings]) -> tuple[Offer, Asked]:
    """What the source offers, and how messages name it."""
    settings = context.settings
    if settings.style.source.startswith(SKETCHBOOK_PREFIX):
        asked = Asked(context.workspace, context.style, settings.style.source)
        return sketchbook_offer(settings.style, settings.seed), asked
    folder = context.workspace.source(context.style)
    where = folder.relative_to(context.workspace.root).as_posix()
    try:
        source = read_source(folder)
    except PictureError as error:
        if isinstance(error.__cause__, OSError):  # they are there, and cannot be read
            raise
        tracked = folder.with_name(f"{folder.name}.dvc").is_file()
        pull = f"fetch them (`dvc pull {where}.dvc`), or " if tracked else ""
        raise PictureError(
            f"style {context.style!r} has no pictures here: {error}; "
            f"{pull}bring them in: `nsync add-style {context.style} FOLDER`"
        ) from error
    asked = Asked(context.workspace, context.style, where)
    return folder_offer(source, settings.style_set, asked, settings.style.excluded), asked


def _rows(
    ingestion: Ingestion, split: Mapping[str, str], stored: Mapping[str, StoredFile]
) -> list[dict[str, Any]]:
    """The rows of the manifest, by id."""
    rows = []
    for picture in sorted(ingestion.pictures, key=lambda picture: picture.id):
        row = asdict(picture)
        row |= asdict(stored[picture.id])
        row["split"] = split[picture.id]
        del row["group"]
        rows.append(row)
    return rows


def _preview(title: str, folder: Path, rows: Sequence[Mapping[str, Any]], split: str) -> Preview:
    files = [folder / row["file"] for row in rows if row["split"] == split]
    chosen = [files[index] for index in evenly_spaced(len(files), PREVIEW_PICTURES)]
    some = "" if len(chosen) == len(files) else f"{len(chosen)} of "
    caption = f"{title}, {some}{len(files)} pictures"
    return Preview(title, preview(caption, [_thumbnail(file) for file in chosen]))


def _thumbnail(file: Path) -> Image.Image:
    return ImageOps.contain(open_picture(file), THUMBNAIL, Image.Resampling.LANCZOS)
