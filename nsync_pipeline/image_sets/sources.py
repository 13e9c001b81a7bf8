"""The two sources of a style's pictures: a folder, and the embedded sketchbook."""

from functools import partial

from PIL import Image

from nsync_pipeline.errors import CaptionError, ParamsError
from nsync_pipeline.image_sets.config import StyleSetConfig
from nsync_pipeline.image_sets.decoding import decode_picture
from nsync_pipeline.image_sets.ingestion import Candidate, Offer
from nsync_pipeline.image_sets.problems import bullet_list
from nsync_pipeline.image_sets.source_folder import SourceFolder

SKETCHBOOK = "sketchbook"
SKETCHBOOK_PREFIX = f"{SKETCHBOOK}:"


def folder_offer(source: SourceFolder, config: StyleSetConfig, where: str) -> Offer:
    """The pictures of a folder that was read.

    Raises:
        CaptionError: captions cannot be told; these stop the stage whatever ``on_bad_picture``
            says, because leaving them out would lose captions in silence.
    """
    if source.caption_problems:
        raise CaptionError(
            f"{where}: captions cannot be told:\n{bullet_list(source.caption_problems)}"
        )
    candidates = (
        Candidate(
            picture.name,
            picture.caption,
            picture.caption_source,
            partial(decode_picture, picture.path, config.min_side, config.max_megapixels),
        )
        for picture in source.pictures
    )
    return Offer(candidates, len(source.pictures), source.problems, source.ignored)


def sketchbook_offer(style: str, pictures: int, seed: int) -> Offer:
    """``pictures`` drawn in the held-out ``style``; the first n are the same whatever the number.

    Raises:
        ParamsError: the sketchbook has no such held-out style.
    """
    # Imported here: a folder of real pictures needs nothing of the drawn world.
    from nsync_pipeline.sketchbook import HELD_OUT_STYLES, SEEN_STYLES, draw_style_set

    if style not in HELD_OUT_STYLES:
        seen = ": the sketchbook was pretrained on it" if style in SEEN_STYLES else ""
        raise ParamsError(
            f"{SKETCHBOOK_PREFIX}{style} is not a style to learn{seen}; "
            f"its held-out styles are {', '.join(HELD_OUT_STYLES)}"
        )
    candidates = (
        Candidate(
            f"{style}_{drawn.index:05d}", drawn.caption, SKETCHBOOK, partial(_same, drawn.image)
        )
        for drawn in draw_style_set(style, pictures, seed)
    )
    return Offer(candidates, pictures)


def _same(image: Image.Image) -> Image.Image:
    return image
