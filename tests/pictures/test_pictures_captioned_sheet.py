"""Pictures with their captions in one small picture."""

import io

import numpy as np
import pytest
from PIL import Image

from nsync_pipeline.pictures.sheets import PREVIEW_BYTES, CaptionedThumbnail, captioned_preview


def row(caption: str, note: str = "", side: int = 40) -> CaptionedThumbnail:
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    return CaptionedThumbnail(Image.fromarray(noise), caption, note)


def size(rows: list[CaptionedThumbnail]) -> tuple[int, int]:
    return Image.open(io.BytesIO(captioned_preview("title", rows))).size


def test_a_long_caption_makes_its_row_higher() -> None:
    short, tall = size([row("a boat")]), size([row("a boat and a tree " * 40)])
    assert short[0] == tall[0]
    assert tall[1] > short[1]


def test_any_number_of_rows_stays_small() -> None:
    rows = [row(f"a boat {number}", "lost: a tree", side=100) for number in range(40)]
    assert len(captioned_preview("title", rows)) < PREVIEW_BYTES


def test_text_of_any_kind_can_be_drawn() -> None:
    assert captioned_preview("title", [row(""), row("x" * 300), row("波 größe \u0000 🙂")])


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="no row"):
        captioned_preview("title", [])
