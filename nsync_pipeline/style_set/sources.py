"""The two sources of a style's pictures: a folder, and the embedded sketchbook."""

from collections.abc import Iterator, Sequence
from functools import partial

from nsync_pipeline.errors import CaptionError, ParamsError, PictureError, short_list
from nsync_pipeline.files import named_list
from nsync_pipeline.pictures.decoding import decode_picture
from nsync_pipeline.style_set.config import StyleSetConfig, StyleSource
from nsync_pipeline.style_set.ingestion import TEST, TRAIN, Asked, Candidate, Offer
from nsync_pipeline.style_set.source_folder import SourceFolder
from nsync_pipeline.workspace import SKETCHBOOK, SKETCHBOOK_PREFIX, drawn_style


def folder_offer(
    source: SourceFolder, config: StyleSetConfig, asked: Asked, excluded: Sequence[str] = ()
) -> Offer:
    """The pictures of a folder that was read, without the files that are ``excluded`` by name.

    Raises:
        PictureError: an excluded file is not there.
        CaptionError: captions cannot be told; these stop the stage whatever ``on_bad_picture``
            says, because leaving them out would lose captions in silence.
    """
    if source.caption_problems:
        listing = asked.workspace.listing(asked.style, "captions")
        raise CaptionError(
            f"{asked.source}: captions cannot be told:\n"
            f"{named_list(source.caption_problems, listing)}"
        )
    there = [p.name for p in source.pictures] + [p.name for p in source.problems]
    _require_there(excluded, there, asked.source)
    limits = config.min_side, config.max_megapixels
    left_out = set(excluded)
    pictures = [picture for picture in source.pictures if picture.name not in left_out]
    candidates = (
        Candidate(
            p.name,
            p.caption,
            p.caption_source,
            partial(decode_picture, p.path, *limits),
            path=p.path,
        )
        for p in pictures
    )
    problems = tuple(problem for problem in source.problems if problem.name not in left_out)
    return Offer(candidates, len(pictures), problems, source.ignored)


def _require_there(excluded: Sequence[str], there: Sequence[str], where: str) -> None:
    if strangers := sorted({*excluded} - {*there}):
        raise PictureError(
            f"{where}: excluded in params.yaml, and not there: {short_list(strangers)}. Take it "
            "out of the style's `excluded`"
        )


def sketchbook_offer(source: StyleSource, seed: int) -> Offer:
    """``pictures`` drawn in a held-out style; the first n are the same whatever the number.

    With ``test_pictures`` these are all for training, and so many others for the test split; with a
    confound the former all share it, and the latter have nothing of it.

    Raises:
        ParamsError: the sketchbook has no such held-out style, or no such confound.
        PictureError: an excluded picture is none of these.
    """
    style, confound = drawn_style(source.source)
    pictures, test_pictures = source.pictures or 0, source.test_pictures
    # Imported here: a folder of real pictures needs nothing of the drawn world.
    from nsync_pipeline.sketchbook import HELD_OUT_STYLES, SEEN_STYLES
    from nsync_pipeline.sketchbook.confounds import CONFOUNDS, confounded, unconfounded
    from nsync_pipeline.sketchbook.world import draw_picture

    if style not in HELD_OUT_STYLES:
        seen = ": the sketchbook was pretrained on it" if style in SEEN_STYLES else ""
        raise ParamsError(
            f"{SKETCHBOOK_PREFIX}{style} is not a style to learn{seen}; "
            f"its held-out styles are {', '.join(HELD_OUT_STYLES)}"
        )
    if confound is not None and confound not in CONFOUNDS:
        raise ParamsError(
            f"{source.source}: {confound!r} is nothing a drawn set can share; there are: "
            f"{', '.join(CONFOUNDS)}"
        )
    parts = [(TRAIN if test_pictures else None, "style set", pictures, confounded)]
    if test_pictures:
        parts.append((TEST, "test set", test_pictures, unconfounded))
    asked = [
        (f"{style if split is None else f'{style}_{split}'}_{index:05d}", split, stream, index, of)
        for split, stream, count, of in parts
        for index in range(count)
    ]
    _require_there(source.excluded, [name for name, *_ in asked], source.source)
    left_out = set(source.excluded)
    taken = [one for one in asked if one[0] not in left_out]

    def drawn() -> Iterator[Candidate]:
        for name, split, stream, index, scenes_of in taken:
            scenes = None if confound is None else scenes_of(confound)
            picture = draw_picture(style, seed, stream, index, scenes)
            yield Candidate(name, picture.caption, SKETCHBOOK, picture.image.copy, split)

    return Offer(drawn(), len(taken))
