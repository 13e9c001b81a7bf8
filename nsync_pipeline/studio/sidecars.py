"""Captions as text files beside pictures: written for other programs, read from them."""

import io
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from nsync_pipeline.captions.by_hand import caption_line
from nsync_pipeline.errors import CaptionError, UserError
from nsync_pipeline.given_files import given_files
from nsync_pipeline.studio.caption_desk import CaptionCard, Change
from nsync_pipeline.style_set.source_folder import READERS, read_caption_file, read_metadata

SUFFIX = ".txt"


def as_zip(cards: Sequence[CaptionCard]) -> bytes:
    """``<picture>.txt`` for each picture that has a caption, in the folders that pictures have.

    Of pictures that differ in their ending only, each text has the whole name: ``a.jpg.txt``.
    """
    stems = Counter(_stem(card.name) for card in cards)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as files:
        for card in cards:
            if card.raw:
                name = _stem(card.name) if stems[_stem(card.name)] == 1 else card.name
                files.writestr(zipfile.ZipInfo(name + SUFFIX), card.raw + "\n")
    return out.getvalue()


def read_from(folder: Path, cards: Sequence[CaptionCard]) -> tuple[list[Change], list[str]]:
    """What the text and metadata files in ``folder`` say of pictures, and the names of no picture.

    A file belongs to the picture of its name, else of its name without folders, where only one is.

    Raises:
        UserError: it is not a folder, or there are no such files.
        CaptionError: a file cannot be read; its name is in the message.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder.")
    said = _said(folder)
    if not said:
        raise UserError(f"{folder} has no captions: no .txt, metadata.jsonl or metadata.csv.")
    by_name: dict[str, list[CaptionCard]] = {}
    for card in cards:
        path = PurePosixPath(card.name)
        for name in {card.name, _stem(card.name), path.name, path.stem}:
            by_name.setdefault(name, []).append(card)
    changes: dict[str, Change] = {}
    strangers = []
    for name, caption in said.items():
        owners = by_name.get(name) or by_name.get(PurePosixPath(name).name) or []
        if len(owners) != 1:
            strangers.append(name)
        elif caption and caption != owners[0].raw:
            changes[owners[0].id] = Change(owners[0].id, owners[0].raw, caption)
    return list(changes.values()), strangers


def _said(folder: Path) -> dict[str, str]:
    """By the picture's name with or without its ending."""
    found: dict[str, str] = {}
    for name, path in given_files(folder).files.items():
        try:
            if path.name.lower() in READERS:
                above = name.removesuffix(path.name)
                rows = read_metadata(path)
                found |= {above + r.picture: caption_line(r.caption) for r in rows if r.caption}
            elif path.suffix.lower() == SUFFIX:
                found[_stem(name)] = caption_line(read_caption_file(path))
        except CaptionError as error:
            raise CaptionError(f"{name} {error}") from error
    return found


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name
