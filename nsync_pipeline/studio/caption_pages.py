"""A style's captions: written, changed all at once, taken in and out."""

from dataclasses import asdict
from typing import Any

from starlette.responses import JSONResponse, Response

from nsync_pipeline.captions.style_words import own_names
from nsync_pipeline.doctor.findings import captioner_finding
from nsync_pipeline.errors import UserError
from nsync_pipeline.files import parse_json
from nsync_pipeline.graph.settings import write_settings
from nsync_pipeline.studio import caption_desk, jobs, sidecars
from nsync_pipeline.studio.caption_desk import CaptionCard, Change
from nsync_pipeline.studio.jobs import Kind
from nsync_pipeline.studio.page import Visit
from nsync_pipeline.templates import script_json


def captions_page(visit: Visit) -> Response:
    params, cards = visit.params, visit.cards()
    visit.desk.tokens.prepare(params.base_model)
    content = {
        "cards": [_caption_json(visit, card) for card in cards],
        "chips": caption_desk.chips(cards),
    }
    return visit.tab(
        "captions", found=visit.pictures, cards=cards, content=script_json(content),
        own_words=visit.settings.style_words,
        words=(*params.captioning.style_words, *_names(visit)),
        captioner=captioner_finding(params), model=params.captioning.asked,
    )  # fmt: skip


def _names(visit: Visit) -> tuple[str, ...]:
    return own_names(visit.style, visit.settings.placeholder, visit.settings.style_words)


def _caption_json(visit: Visit, card: CaptionCard) -> dict[str, Any]:
    return {**asdict(card), "raw": card.raw, "outlook": _outlook_of(visit, card.raw)}


def _outlook_of(visit: Visit, text: str) -> dict[str, Any]:
    settings, params = visit.settings, visit.params
    styles = settings.placeholder, settings.generic_style
    tokens, most = visit.desk.tokens.of(params.base_model, *styles) or (None, 0)
    words = params.captioning.style_words
    found = caption_desk.outlook(text, words, _names(visit), tokens, most)
    return asdict(found) | {"nothing_left": found.nothing_left}


def save_captions(visit: Visit) -> Response:
    """One caption, or several: ``changes`` is a list of id, was, caption."""
    try:
        said = parse_json(visit.given("changes"))
        changes = [Change(str(one["id"]), str(one["was"]), str(one["caption"])) for one in said]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"What was sent cannot be read: {error}") from error
    caption_desk.save(visit.workspace, visit.style, visit.cards(), changes)
    return _captions_now(visit, changes)


def _captions_now(
    visit: Visit, changes: list[Change], undo: list[Change] | None = None
) -> Response:
    cards, ids = visit.cards(), {change.id for change in changes}
    return JSONResponse(
        {
            "cards": [_caption_json(visit, card) for card in cards if card.id in ids],
            "chips": caption_desk.chips(cards),
            "undo": [asdict(change) for change in undo or ()],
        }
    )


def outlook(visit: Visit) -> Response:
    return JSONResponse(_outlook_of(visit, visit.given("caption")))


def change_captions(visit: Visit) -> Response:
    """Something in all captions at once; gives how to undo it."""
    cards = visit.cards()
    match visit.given("do"):
        case "replace":
            find, by = visit.given("find"), visit.given("by")
            whole_words = visit.given("whole_words") == "true"
            changes = caption_desk.replaced(cards, find, by, whole_words)
        case "remove_tag":
            changes = caption_desk.without_tag(cards, visit.given("tag"))
        case "add_tag":
            changes = caption_desk.with_tag(cards, visit.given("tag"))
        case other:
            raise UserError(f"{other!r} is nothing that can be done with captions.")
    if visit.given("try") == "true":
        return JSONResponse({"count": len(changes)})
    caption_desk.save(visit.workspace, visit.style, cards, changes)
    undo = [Change(change.id, change.caption, change.was) for change in changes]
    return _captions_now(visit, changes, undo)


def suggest(visit: Visit) -> Response:
    """Have the captions stage ask the model about pictures without a caption."""
    style = visit.style
    command = (*jobs.NSYNC, "make", style, "--until", "captions")
    visit.desk.jobs.start(Kind.MAKE, style, f"Suggestions for {style}", command)
    return visit.go_to("captions", "The model looks at the pictures.")


def style_words(visit: Visit) -> Response:
    """Words that are taken out of this style's captions only."""
    key = f"styles.{visit.style}.style_words"
    write_settings(visit.workspace, {key: visit.words("style_words")})
    return visit.go_to("captions")


def export_sidecars(visit: Visit) -> Response:
    name = f"{visit.style}-captions.zip"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    content = sidecars.as_zip(visit.cards())
    return Response(content, media_type="application/zip", headers=headers)


def import_sidecars(visit: Visit) -> Response:
    """Captions of text files that were dropped, or lie in a folder that is named."""
    cards = visit.cards()
    with visit.files_given() as folder:
        changes, strangers = sidecars.read_from(folder, cards)
    caption_desk.save(visit.workspace, visit.style, cards, changes)
    said = f"{len(changes)} captions brought in."
    if strangers:
        said += f" No picture here for: {', '.join(strangers[:5])}"
        said += f" and {len(strangers) - 5} more." if len(strangers) > 5 else "."
    return visit.go_to("captions", said)
