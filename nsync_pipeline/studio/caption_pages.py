"""A style's captions: written, changed all at once, taken in and out."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import (
    JSONResponse,
    Response,
)

from nsync_pipeline.captions.style_words import own_names
from nsync_pipeline.doctor.findings import captioner_finding
from nsync_pipeline.errors import UserError
from nsync_pipeline.files import parse_json
from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.graph.settings import write_settings
from nsync_pipeline.studio import caption_desk, jobs, sidecars
from nsync_pipeline.studio.caption_desk import CaptionCard, Change
from nsync_pipeline.studio.jobs import Kind
from nsync_pipeline.studio.page import (
    Desk,
    Form,
    cards_asked,
    go_to,
    source_asked,
    style_asked,
    tab_page,
    value_of,
    wants_json,
)


def captions_page(request: Request, desk: Desk) -> Response:
    graph, style, found, cards = cards_asked(request, desk)
    desk.tokens.prepare(graph.params.base_model)
    return tab_page(
        request, desk, "captions.html", "captions", graph=graph, found=found, cards=cards,
        content=_script_json(
            {
                "cards": [_caption_json(graph, desk, style, card) for card in cards],
                "chips": caption_desk.chips(cards),
            }
        ),
        own_words=graph.params.style(style).style_words,
        words=(*graph.params.captioning.style_words, *_names(graph, style)),
        captioner=captioner_finding(graph.params), model=graph.params.captioning.asked,
    )  # fmt: skip


def _names(graph: Graph, style: str) -> tuple[str, ...]:
    settings = graph.params.style(style)
    return own_names(style, settings.placeholder, settings.style_words)


def _caption_json(graph: Graph, desk: Desk, style: str, card: CaptionCard) -> dict[str, Any]:
    return {**asdict(card), "raw": card.raw, "outlook": _outlook_of(graph, desk, style, card.raw)}


def _outlook_of(graph: Graph, desk: Desk, style: str, text: str) -> dict[str, Any]:
    settings = graph.params.style(style)
    counter = desk.tokens.of(graph.params.base_model, settings.placeholder, settings.generic_style)
    tokens, most = counter or (None, 0)
    words, names = graph.params.captioning.style_words, _names(graph, style)
    found = caption_desk.outlook(text, words, names, tokens, most)
    return asdict(found) | {"nothing_left": found.nothing_left}


def _script_json(content: object) -> Markup:
    """JSON that may stand inside a <script>: no caption can end it."""
    text = json.dumps(content, ensure_ascii=True)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def save_captions(request: Request, desk: Desk, form: Form) -> Response:
    """One caption, or several: ``changes`` is a list of id, was, caption."""
    _, style, _, cards = cards_asked(request, desk)
    changes = _changes(value_of(form, "changes"))
    caption_desk.save(desk.workspace, style, cards, changes)
    return _captions_now(request, desk, [change.id for change in changes])


def _changes(text: str) -> list[Change]:
    try:
        return [Change(str(c["id"]), str(c["was"]), str(c["caption"])) for c in parse_json(text)]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"What was sent cannot be read: {error}") from error


def _captions_now(
    request: Request, desk: Desk, ids: list[str], undo: list[Change] | None = None
) -> Response:
    graph, style, _, cards = cards_asked(request, desk)
    return JSONResponse(
        {
            "cards": [_caption_json(graph, desk, style, card) for card in cards if card.id in ids],
            "chips": caption_desk.chips(cards),
            "undo": [asdict(change) for change in undo or ()],
        }
    )


def outlook(request: Request, desk: Desk, form: Form) -> Response:
    graph, style = style_asked(request)
    return JSONResponse(_outlook_of(graph, desk, style, value_of(form, "caption")))


def change_captions(request: Request, desk: Desk, form: Form) -> Response:
    """Something in all captions at once; gives how to undo it."""
    _, style, _, cards = cards_asked(request, desk)
    match value_of(form, "do"):
        case "replace":
            changes = caption_desk.replaced(
                cards,
                value_of(form, "find"),
                value_of(form, "by"),
                value_of(form, "whole_words") == "true",
            )
        case "remove_tag":
            changes = caption_desk.without_tag(cards, value_of(form, "tag"))
        case "add_tag":
            changes = caption_desk.with_tag(cards, value_of(form, "tag"))
        case other:
            raise UserError(f"{other!r} is nothing that can be done with captions.")
    if value_of(form, "try") == "true":
        return JSONResponse({"count": len(changes)})
    caption_desk.save(desk.workspace, style, cards, changes)
    undo = [Change(change.id, change.caption, change.was) for change in changes]
    return _captions_now(request, desk, [change.id for change in changes], undo)


def suggest(request: Request, desk: Desk, form: Form) -> Response:
    """Have the captions stage ask the model about pictures without a caption."""
    _, style = style_asked(request)
    command = (*jobs.NSYNC, "make", style, "--until", "captions")
    desk.jobs.start(Kind.MAKE, style, f"Suggestions for {style}", command)
    return go_to(f"/styles/{style}/captions", "The model looks at the pictures.")


def style_words(request: Request, desk: Desk, form: Form) -> Response:
    """Words that are taken out of this style's captions only."""
    _, style = style_asked(request)
    words = [w.strip() for w in value_of(form, "style_words").split(",") if w.strip()]
    write_settings(desk.workspace, {f"styles.{style}.style_words": words})
    return go_to(f"/styles/{style}/captions")


def export_sidecars(request: Request, desk: Desk) -> Response:
    _, style, _, cards = cards_asked(request, desk)
    name = f"{style}-captions.zip"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(sidecars.as_zip(cards), media_type="application/zip", headers=headers)


def import_sidecars(request: Request, desk: Desk, form: Form) -> Response:
    """Captions of text files that were dropped, or lie in a folder that is named."""
    _, style, _, cards = cards_asked(request, desk)
    source, dropped = source_asked(desk, form)
    try:
        changes, strangers = sidecars.read_from(Path(source).expanduser(), cards)
    finally:
        if dropped is not None:
            shutil.rmtree(dropped, ignore_errors=True)
    caption_desk.save(desk.workspace, style, cards, changes)
    said = f"{len(changes)} captions brought in."
    if strangers:
        said += f" No picture here for: {', '.join(strangers[:5])}"
        said += f" and {len(strangers) - 5} more." if len(strangers) > 5 else "."
    target = f"/styles/{style}/captions"
    if wants_json(request):
        return JSONResponse({"go": f"{target}?notice={quote(said)}"})
    return go_to(target, said)
