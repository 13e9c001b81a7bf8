"""captions: what each picture shows, with no word of its style, short enough for the base model.

What a person wrote in the workspace (``by_hand``) goes before what came with the picture, and that
before a vision-language model, which describes the pictures that are left.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nsync_pipeline.captions.answers import caption_of
from nsync_pipeline.captions.by_hand import BY_HAND, read_by_hand
from nsync_pipeline.captions.config import CaptioningConfig, CaptionsSettings
from nsync_pipeline.captions.prompt_length import FittedCaption, fit
from nsync_pipeline.captions.style_words import ScrubbedCaption, own_names, scrub
from nsync_pipeline.drawing.prompts import styled_prompt
from nsync_pipeline.errors import CaptionError
from nsync_pipeline.families.prompt_counting import tokenizer_of
from nsync_pipeline.files import named_in_line, named_list
from nsync_pipeline.pictures.manifest import (
    BY_MODEL,
    CAPTIONS,
    MORE_CAPTIONS,
    STYLE_SET,
    read_manifest,
    write_manifest,
)
from nsync_pipeline.pictures.pixels import open_picture
from nsync_pipeline.pictures.sheets import CaptionedThumbnail, captioned_preview, evenly_spaced
from nsync_pipeline.stage import Preview, StageContext, StageResult
from nsync_pipeline.text import one_line, says_something, without_controls
from nsync_pipeline.workspace import MANIFEST_FILE, MORE_CAPTIONS_FILE

PREVIEW_ROWS = 12


@dataclass(frozen=True)
class ContentCaption:
    """One picture's caption on its way."""

    row: Mapping[str, Any]  # of STYLE_SET
    raw: str  # verbatim
    source: str  # as STYLE_SET.caption_source, ``BY_HAND`` or ``BY_MODEL``
    scrubbed: ScrubbedCaption
    fitted: FittedCaption
    final: str  # the fitted one, with what stands before and behind every caption


def run(context: StageContext[CaptionsSettings]) -> StageResult:
    """Make the captions of a style content-only.

    Raises:
        MissingArtifactError: the style set is missing.
        CaptionError: captions are missing and there is no model to ask, nothing is left of one
            without its style words, or one is too long and ``captioning.too_long`` is ``error``.
            All such pictures are in the one message. Or the file written by hand is damaged.
    """
    settings, workspace = context.settings, context.workspace
    style, config = settings.style, settings.captioning
    rows = read_manifest(workspace.style_set(context.style) / MANIFEST_FILE, STYLE_SET)
    given, captioner = _given(context, rows, config)

    counter = tokenizer_of(settings.base_model)
    most = counter.max_prompt_tokens

    def tokens(caption: str) -> int:
        """Of the longer of the two prompts a caption goes into."""
        whole = config.whole(caption)
        prompts = [styled_prompt(whole, s) for s in (style.placeholder, style.generic_style)]
        return max(counter.prompt_tokens(prompt) for prompt in prompts)

    names = own_names(
        context.style, style.placeholder, (*style.style_words, *filter(None, [style.known_as]))
    )
    captions: list[ContentCaption] = []  # the first of each picture
    more: list[ContentCaption] = []
    for row, (raw, text, source) in zip(rows, given, strict=True):
        own = []
        for part in _parts(text, config.several):
            scrubbed = scrub(part, config.style_words, names)
            fitted = fit(scrubbed.caption, tokens, most)
            final = config.whole(fitted.caption)
            own.append(ContentCaption(row, raw, source, scrubbed, fitted, final))
        first, *others = [one for one in own if one.scrubbed.caption] or own[:1]
        captions.append(first)
        more += others
        context.progress("captions", len(captions), len(rows))
    _refuse_nothing_left(captions, context)
    cut = [caption for caption in (*captions, *more) if caption.fitted.lost]
    _refuse_too_long(cut, tokens, most, context)

    write_manifest(context.folder / MANIFEST_FILE, map(_row, captions), CAPTIONS)
    if more:
        write_manifest(context.folder / MORE_CAPTIONS_FILE, _more_rows(more), MORE_CAPTIONS)
    shown = _preview(f"{context.style}: captions", captions, workspace.style_set(context.style))
    figures = _figures(context, captions, more, cut, most, captioner)
    return StageResult(figures, (shown,), by_model=captioner is not None)


def _given(
    context: StageContext[CaptionsSettings],
    rows: Sequence[Mapping[str, Any]],
    config: CaptioningConfig,
) -> tuple[list[tuple[str, str, str]], str | None]:
    """Of each of ``rows`` what was given, what it says, and its source; and who was asked."""
    by_hand = read_by_hand(context.workspace.captions_by_hand(context.style))
    given = [
        (one.caption, one.caption, BY_HAND)
        if (one := by_hand.get(row["id"]))
        else (row["caption"], row["caption"], row["caption_source"])
        for row in rows
    ]
    missing = [
        row for row, (raw, _, _) in zip(rows, given, strict=True) if not says_something(raw or "")
    ]
    if not missing:
        return given, None
    if config.tagger is not None:
        from nsync_pipeline.captions.tagger import tagger_captions

        answers, captioner = tagger_captions(context, missing, config.tagger)
        for number, row in enumerate(rows):
            if row["id"] in answers:
                tags = one_line(without_controls(answers[row["id"]]))
                given[number] = tags, tags, BY_MODEL
        _refuse_untagged(context, rows, given)
        return given, captioner
    if config.model is None:
        raise _uncaptioned(missing, len(rows), context)
    # Imported here: captions that came with the pictures need no model, and loading takes seconds.
    from nsync_pipeline.captions.vision_language_model import model_captions

    answers, captioner = model_captions(context, missing, config.model)
    for number, row in enumerate(rows):
        if row["id"] in answers:
            answer = without_controls(answers[row["id"]])
            given[number] = answer, one_line(caption_of(answer, config.model.max_words)), BY_MODEL
    return given, captioner


def _parts(text: str, several: str | None) -> list[str]:
    """The captions in ``text``, one or more."""
    parts = [text] if several is None else text.split(several)
    return [part for part in map(str.strip, parts) if part] or [text]


def _more_rows(more: Sequence[ContentCaption]) -> Iterator[dict[str, Any]]:
    number: Counter[str] = Counter()
    for caption in more:
        picture = caption.row["id"]
        number[picture] += 1
        name = f"{picture}_{number[picture]:04d}"
        yield {"id": name, "picture": picture, "caption": caption.final}


def _row(caption: ContentCaption) -> dict[str, Any]:
    return {
        "id": caption.row["id"],
        "caption": caption.final,
        "raw_caption": caption.raw,
        "source": caption.source,
        "removed_words": list(caption.scrubbed.removed),
        "lost": caption.fitted.lost or None,
    }


def _figures(
    context: StageContext[CaptionsSettings],
    captions: Sequence[ContentCaption],
    more: Sequence[ContentCaption],
    cut: Sequence[ContentCaption],
    most: int,
    captioner: str | None,
) -> dict[str, int | float | str]:
    figures: dict[str, int | float | str] = {
        "captions": len(captions),
        "with_style_words_removed": sum(bool(c.scrubbed.removed) for c in captions),
        "cut": len(cut),
        "prompt_tokens_at_most": most,
    }
    workspace, style = context.workspace, context.style
    named = [c for c in captions if c.scrubbed.naming]
    if named:
        listed = [f'{c.row["origin"]} ("{", ".join(c.scrubbed.naming)}")' for c in named]
        figures["with_the_style_s_name_removed"] = len(named)
        figures["with_the_style_s_name_removed_are"] = named_in_line(
            listed, workspace.listing(style, "named")
        )
    if more:
        figures["further_captions"] = len(more)
    if by_hand := sum(c.source == BY_HAND for c in captions):
        figures["by_hand"] = by_hand
    if captioner is not None:
        figures["by_the_model"] = sum(c.source == BY_MODEL for c in captions)
        figures["captioner"] = captioner
    if cut:
        lost = [f'{c.row["origin"]} (lost: "{c.fitted.lost}")' for c in cut]
        figures["cut_are"] = named_in_line(lost, workspace.listing(style, "cut"))
    return figures


def _preview(title: str, captions: Sequence[ContentCaption], folder: Path) -> Preview:
    """Some pictures with their captions, and what was lost of them; those that lost words first."""
    shown = [caption for caption in captions if caption.fitted.lost][:PREVIEW_ROWS]
    whole = [caption for caption in captions if not caption.fitted.lost]
    shown += [whole[i] for i in evenly_spaced(len(whole), PREVIEW_ROWS - len(shown))]
    rows = [
        CaptionedThumbnail(
            open_picture(folder / caption.row["file"]),
            caption.final,
            f"lost: {caption.fitted.lost}" if caption.fitted.lost else "",
        )
        for caption in shown
    ]
    return Preview(title, captioned_preview(f"{title} ({len(rows)} of {len(captions)})", rows))


def _uncaptioned(
    missing: Sequence[Mapping[str, Any]], count: int, context: StageContext[CaptionsSettings]
) -> CaptionError:
    named, style = [f"{row['origin']} has no caption" for row in missing], context.style
    listing = context.workspace.listing(style, "without_caption")
    return CaptionError(
        f"style {style!r}: {len(missing)} of {count} pictures have no caption:\n"
        f"{named_list(named, listing)}\n"
        "Write what each shows, without its style: in `nsync studio`; in a text file of the same "
        "name beside it, or in a metadata.jsonl "
        '({"file_name": "picture.jpg", "text": "a boat on a lake"}) in '
        f"sources/{style}. Or set captioning.model to have a model describe them, or "
        "style_set.uncaptioned to `skip` to leave them out."
    )


def _refuse_untagged(
    context: StageContext[CaptionsSettings],
    rows: Sequence[Mapping[str, Any]],
    given: Sequence[tuple[str, str, str]],
) -> None:
    untagged = [row["origin"] for row, (raw, _, _) in zip(rows, given, strict=True) if not raw]
    if untagged:
        listing = context.workspace.listing(context.style, "without_tags")
        raise CaptionError(
            f"the tagger is sure of nothing on {len(untagged)} pictures "
            f"({named_in_line(untagged, listing, most=3)}): lower captioning.tagger.threshold, or "
            "caption them yourself"
        )


def _refuse_nothing_left(
    captions: Sequence[ContentCaption], context: StageContext[CaptionsSettings]
) -> None:
    bare = [f'{c.row["origin"]}: "{c.raw}"' for c in captions if not c.scrubbed.caption]
    if bare:
        listing = context.workspace.listing(context.style, "nothing_left")
        raise CaptionError(
            f"nothing is left of {len(bare)} captions once the words of style are taken out:\n"
            f"{named_list(bare, listing)}\n"
            "Say what the pictures show (in picture.txt beside picture.jpg). Taken out are "
            "captioning.style_words, the style's own style_words, its placeholder "
            f"({context.settings.style.placeholder}) and its name ({context.style})."
        )


def _refuse_too_long(
    cut: Sequence[ContentCaption],
    tokens: Callable[[str], int],
    most: int,
    context: StageContext[CaptionsSettings],
) -> None:
    hopeless = [c for c in cut if not c.fitted.caption]
    refused = hopeless if context.settings.captioning.too_long == "cut" else cut
    if refused:
        listed = [
            f"{c.row['origin']}: {tokens(c.scrubbed.caption)} tokens; "
            f'"{c.fitted.lost}" would be lost'
            for c in refused
        ]
        listing = context.workspace.listing(context.style, "too_long")
        ways = "Shorten them" + ("." if hopeless else ", or set captioning.too_long to `cut`.")
        raise CaptionError(
            f"{len(refused)} captions are too long: with the style's words a prompt has more than "
            f"the {most} tokens the base model's text encoder takes:\n"
            f"{named_list(listed, listing)}\n{ways}"
        )
