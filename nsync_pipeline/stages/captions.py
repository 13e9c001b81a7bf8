"""captions: what each picture shows, with no word of its style, short enough for the base model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nsync_pipeline.artifacts import MANIFEST_FILE
from nsync_pipeline.captioning.prompt_length import FittedCaption, fit
from nsync_pipeline.captioning.style_words import ScrubbedCaption, scrub
from nsync_pipeline.errors import CaptionError
from nsync_pipeline.families.loading import tokenizer_of
from nsync_pipeline.generation.prompts import styled_prompt
from nsync_pipeline.image_sets.config import StyleConfig
from nsync_pipeline.image_sets.manifest import CAPTIONS, STYLE_SET, read_manifest, write_manifest
from nsync_pipeline.image_sets.problems import bullet_list, short_list
from nsync_pipeline.stages.context import StageContext, StageResult
from nsync_pipeline.stages.whole_folder import whole_folder


@dataclass(frozen=True)
class ContentCaption:
    """One picture's caption on its way."""

    row: Mapping[str, Any]  # of STYLE_SET
    scrubbed: ScrubbedCaption
    fitted: FittedCaption


def run(context: StageContext) -> StageResult:
    """Make the captions of a style content-only.

    Raises:
        MissingArtifactError: the style set is missing.
        CaptionError: captions are missing or empty, nothing is left of one without its style
            words, or one is too long and ``captioning.too_long`` is ``error``. All such pictures
            are in the one message.
    """
    params, workspace = context.params, context.workspace
    style, config = params.style(context.style), params.captioning
    rows = read_manifest(workspace.style_set(context.style) / MANIFEST_FILE, STYLE_SET)
    _refuse_missing(rows, context.style)

    counter = tokenizer_of(params.base_model)
    tokens = _longest_prompt(style, counter.prompt_tokens)
    most = counter.max_prompt_tokens
    words = (*config.style_words, *style.style_words)
    captions = []
    for done, row in enumerate(rows, start=1):
        scrubbed = scrub(row["caption"], words)
        captions.append(ContentCaption(row, scrubbed, fit(scrubbed.caption, tokens, most)))
        context.progress("captions", done, len(rows))
    _refuse_nothing_left(captions)
    cut = [caption for caption in captions if caption.fitted.lost]
    _refuse_too_long(cut, tokens, most, allowed=config.too_long == "cut")

    with whole_folder(workspace.captions(context.style)) as folder:
        write_manifest(folder / MANIFEST_FILE, map(_row, captions), CAPTIONS)
    return StageResult(figures=_figures(captions, cut, most))


def _longest_prompt(
    style: StyleConfig, prompt_tokens: Callable[[str], int]
) -> Callable[[str], int]:
    """The tokens of the longer of the two prompts a caption goes into."""
    names = (style.placeholder, style.generic_style)
    return lambda caption: max(prompt_tokens(styled_prompt(caption, name)) for name in names)


def _row(caption: ContentCaption) -> dict[str, Any]:
    return {
        "id": caption.row["id"],
        "caption": caption.fitted.caption,
        "raw_caption": caption.row["caption"],
        "source": caption.row["caption_source"],
        "removed_words": list(caption.scrubbed.removed),
    }


def _figures(
    captions: Sequence[ContentCaption], cut: Sequence[ContentCaption], most: int
) -> dict[str, int | float | str]:
    figures: dict[str, int | float | str] = {
        "captions": len(captions),
        "with_style_words_removed": sum(bool(c.scrubbed.removed) for c in captions),
        "cut": len(cut),
        "prompt_tokens_at_most": most,
    }
    if cut:
        lost = [f'{c.row["origin"]} (lost: "{c.fitted.lost}")' for c in cut]
        figures["cut_are"] = short_list(lost, most=20)
    return figures


def _refuse_missing(rows: Sequence[Mapping[str, Any]], style: str) -> None:
    missing = [f"{row['origin']} has no caption" for row in rows if row["caption"] is None]
    missing += [
        f"{row['origin']} has an empty caption ({row['caption_source']})"
        for row in rows
        if row["caption"] == ""
    ]
    if missing:
        raise CaptionError(
            f"style {style!r}: {len(missing)} of {len(rows)} pictures have no caption:\n"
            f"{bullet_list(missing)}\n"
            "Write what each shows, without its style: in a text file of the same name beside it "
            "(picture.jpg, picture.txt) or in metadata.jsonl "
            '({"file_name": "picture.jpg", "text": "a boat on a lake"}) in '
            f"sources/{style}. Or set style_set.uncaptioned to `skip` to leave them out."
        )


def _refuse_nothing_left(captions: Sequence[ContentCaption]) -> None:
    bare = [f'{c.row["origin"]}: "{c.row["caption"]}"' for c in captions if not c.scrubbed.caption]
    if bare:
        raise CaptionError(
            f"nothing is left of {len(bare)} captions once the words of style are taken out:\n"
            f"{bullet_list(bare)}\n"
            "Say what the pictures show, or take words out of captioning.style_words."
        )


def _refuse_too_long(
    cut: Sequence[ContentCaption], tokens: Callable[[str], int], most: int, allowed: bool
) -> None:
    hopeless = [c for c in cut if not c.fitted.caption]
    refused = hopeless if allowed else cut
    if refused:
        listed = [
            f"{c.row['origin']}: {tokens(c.scrubbed.caption)} tokens; "
            f'"{c.fitted.lost}" would be lost'
            for c in refused
        ]
        ways = "Shorten them" + ("." if hopeless else ", or set captioning.too_long to `cut`.")
        raise CaptionError(
            f"{len(refused)} captions are too long: with the style's words a prompt has more than "
            f"the {most} tokens the base model's text encoder takes:\n{bullet_list(listed)}\n{ways}"
        )
