"""The studio's pages: what each shows, and what each of its buttons does.

Whatever is decided is decided by the engine: this reads the workspace, calls the functions that the
commands call, and fills in templates.
"""

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl, quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from nsync_pipeline.add_style import NewStyle, add_style
from nsync_pipeline.captions.style_words import own_names
from nsync_pipeline.doctor.findings import captioner_finding
from nsync_pipeline.doctor.memory import CardPreset, card_presets
from nsync_pipeline.errors import BaseModelError, UserError
from nsync_pipeline.files import parse_json
from nsync_pipeline.graph.artefacts import Graph, State
from nsync_pipeline.graph.dvc import DVC_FILE, sync_dvc_file, version_source
from nsync_pipeline.graph.progress import running
from nsync_pipeline.report.trainings import shown_names
from nsync_pipeline.studio import caption_desk, home_desk, settings_form, sidecars, watch_desk
from nsync_pipeline.studio.caption_desk import CaptionCard, Change, ConflictError
from nsync_pipeline.studio.guard import OWN_PAGE_POLICY, POLICY, Guard
from nsync_pipeline.studio.jobs import NSYNC, Jobs, Kind, dagster_runs, making
from nsync_pipeline.studio.picture_desk import PictureCard, PictureDesk, Pictures, Standing
from nsync_pipeline.studio.tokens import TokenCounts
from nsync_pipeline.workspace import BASE, TrainingRun, Workspace

FOLDER = Path(__file__).parent
BATCH = re.compile(r"[0-9a-f]{16}")
MOST_UPLOADED = 512 * 2**20  # bytes of a file
MOST_SENT = 8 * 2**20  # bytes of a form
SAMPLE_ROWS = 8
LONG = "private, max-age=31536000, immutable"
CARDS_OF_PAGE = ("pictures", "captions", "train", "watch", "compare", "home")

Form = Mapping[str, list[str]]


@dataclass
class Desk:
    """All that the pages work with."""

    workspace: Workspace
    pictures: PictureDesk
    jobs: Jobs
    tokens: TokenCounts
    adding: dict[str, Any] = field(default_factory=dict)  # of pictures that are being brought in
    adding_lock: threading.Lock = field(default_factory=threading.Lock)

    def graph(self) -> Graph:
        return Graph.read(self.workspace)


def make_app(workspace: Workspace, token: str) -> Starlette:
    """The studio of ``workspace``, for who has ``token``."""
    desk = Desk(workspace, PictureDesk(workspace), Jobs(workspace), TokenCounts())
    app = Starlette(
        routes=_routes(),
        middleware=[Middleware(Guard, token=token)],
        exception_handlers={UserError: _mistake, 404: _not_there},
    )
    app.state.desk = desk
    return app


def _routes() -> list[BaseRoute]:
    style = "/styles/{style}"
    return [
        Mount("/static", StaticFiles(directory=FOLDER / "static")),
        Route("/", _shown(_home)),
        Route("/job", _shown(_job_line)),
        Route("/adding", _shown(_adding)),
        Route("/styles", _done(_add_style), methods=["POST"]),
        Route("/upload/{batch}/{name:path}", _upload, methods=["PUT"]),
        Route(f"{style}/pictures", _shown(_pictures)),
        Route(f"{style}/pictures", _done(_exclude), methods=["POST"]),
        Route(f"{style}/pictures/add", _done(_add_pictures), methods=["POST"]),
        Route(f"{style}/pictures/grid", _shown(_pictures_grid)),
        Route(f"{style}/thumbnail", _shown(_thumbnail)),
        Route(f"{style}/view", _shown(_view)),
        Route(f"{style}/captions", _shown(_captions)),
        Route(f"{style}/captions", _done(_save_captions), methods=["POST"]),
        Route(f"{style}/captions/outlook", _done(_outlook), methods=["POST"]),
        Route(f"{style}/captions/change", _done(_change_captions), methods=["POST"]),
        Route(f"{style}/captions/suggest", _done(_suggest), methods=["POST"]),
        Route(f"{style}/captions/words", _done(_style_words), methods=["POST"]),
        Route(f"{style}/captions/export", _shown(_export_sidecars)),
        Route(f"{style}/captions/import", _done(_import_sidecars), methods=["POST"]),
        Route(f"{style}/train", _shown(_train)),
        Route(f"{style}/train", _done(_start_training), methods=["POST"]),
        Route(f"{style}/settings", _done(_save_settings), methods=["POST"]),
        Route(f"{style}/presets", _shown(_presets)),
        Route("/stop", _done(_stop), methods=["POST"]),
        Route(f"{style}/watch", _shown(_watch)),
        Route(f"{style}/watch/live", _shown(_watch_live)),
        Route(f"{style}/look", _shown(_look)),
        Route(f"{style}/compare", _shown(_compare)),
        Route(f"{style}/compare", _done(_draw), methods=["POST"]),
        Route(f"{style}/compare/drawn", _shown(_drawn)),
        Route(f"{style}/drawn", _shown(_drawn_file)),
        Route(f"{style}/report", _shown(_report)),
        Route(f"{style}/blind", _shown(_blind)),
        Route(f"{style}/choices", _done(_take_choices), methods=["POST"]),
        Route(f"{style}/home", _shown(_take_home)),
        Route(f"{style}/home", _done(_export), methods=["POST"]),
        Route(f"{style}/home/file", _shown(_exported_file)),
    ]


Endpoint = Callable[[Request], Awaitable[Response]]


def _shown(page: Callable[[Request, Desk], Response]) -> Endpoint:
    """What is only looked at; apart from the server's own thread."""

    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(page, request, request.app.state.desk)

    return endpoint


def _done(action: Callable[[Request, Desk, Form], Response]) -> Endpoint:
    """What changes something, by the fields of a form or of a JSON object."""

    async def endpoint(request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_SENT:
                raise UserError("That is more than a form can hold.")
        text = body.decode("utf-8", "replace")
        if request.headers.get("content-type", "").startswith("application/json"):
            form = _json_fields(text)
        else:
            form = {}
            for name, value in parse_qsl(text, keep_blank_values=True):
                form.setdefault(name, []).append(value)
        return await run_in_threadpool(action, request, request.app.state.desk, form)

    return endpoint


def _json_fields(text: str) -> dict[str, list[str]]:
    try:
        content = parse_json(text)
        return {str(name): [str(value)] for name, value in content.items()}
    except (ValueError, AttributeError) as error:
        raise UserError(f"What was sent cannot be read: {error}") from error


def _one(form: Form, name: str) -> str:
    return form.get(name, [""])[0]


TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["inline"] = Markup  # our own charts
TEMPLATES.filters["code"] = lambda text: Markup(
    re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text)))
)
TEMPLATES.filters["gib"] = lambda count: f"{count / 2**30:.1f} GiB"


def _html(template: str, status: int = 200, **content: Any) -> HTMLResponse:
    text = TEMPLATES.get_template(template).render(**content)
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}
    return HTMLResponse(text, status, headers)


def _page(request: Request, desk: Desk, template: str, tab: str, **content: Any) -> HTMLResponse:
    graph = content.pop("graph", None) or desk.graph()
    style = request.path_params.get("style")
    if style is not None:
        graph.params.style(style)
    return _html(
        template, graph=graph, styles=list(graph.params.styles), style=style, tab=tab,
        notice=request.query_params.get("notice", ""),
        mistake=request.query_params.get("mistake", ""), job=desk.jobs.job(Kind.MAKE),
        tabs=CARDS_OF_PAGE, **content,
    )  # fmt: skip


def _back(url: str, notice: str = "", mistake: str = "") -> Response:
    said = f"?notice={quote(notice)}" if notice else f"?mistake={quote(mistake)}" if mistake else ""
    return RedirectResponse(f"{url}{said}", 303)


def _wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")


async def _mistake(request: Request, error: Exception) -> Response:
    """A person's mistake: its message, where the person was."""
    assert isinstance(error, UserError)
    if _wants_json(request):
        content: dict[str, Any] = {"error": str(error)}
        status = 400
        if isinstance(error, ConflictError):
            content["current"], status = error.current, 409
        return JSONResponse(content, status)
    return _html("mistake.html", 400, message=str(error), back=request.headers.get("referer", "/"))


async def _not_there(request: Request, error: Exception) -> Response:
    if _wants_json(request):
        return JSONResponse({"error": "That is not there (any more)."}, 404)
    return _html("mistake.html", 404, message="That is not there (any more).", back="/")


NOT_THERE = PlainTextResponse("That is not there (any more).", 404)


# Styles


def _home(request: Request, desk: Desk) -> Response:
    graph = desk.graph()
    cards = []
    for style, settings in graph.params.styles.items():
        standings = graph.standings([style])
        trained = [
            standing
            for artefact, standing in standings.items()
            if artefact.stage.name == "training" and standing.state is State.FRESH
        ]
        found = desk.pictures.pictures(graph, style)
        cards.append(
            {
                "name": style,
                "settings": settings,
                "pictures": found,
                "covers": found.in_set[:4],
                "trained": len(trained),
                "fresh": sum(s.state is State.FRESH for s in standings.values()),
                "count": len(standings),
            }
        )
    return _page(request, desk, "home.html", "styles", graph=graph, cards=cards)


def _job_line(request: Request, desk: Desk) -> Response:
    return _html("job_line.html", job=desk.jobs.job(Kind.MAKE), lines=running(desk.workspace))


def _adding(request: Request, desk: Desk) -> Response:
    return JSONResponse(desk.adding)


async def _upload(request: Request) -> Response:
    """One file that was dropped on the page, into a folder of its batch."""
    desk: Desk = request.app.state.desk
    batch, name = request.path_params["batch"], request.path_params["name"]
    path = PurePosixPath(name.replace("\\", "/"))
    parts = path.parts
    if not BATCH.fullmatch(batch) or not parts or path.is_absolute() or "\0" in name:
        raise UserError(f"{name!r} is no name of a file.")
    if any(part == ".." or part.startswith(".") for part in parts):
        return JSONResponse({"skipped": name})
    place = _batch_folder(desk, batch).joinpath(*parts)
    place.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    try:
        with place.open("wb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size > MOST_UPLOADED:
                    raise UserError(f"{name} is larger than {MOST_UPLOADED // 2**20} MiB.")
                file.write(chunk)
    except BaseException:
        place.unlink(missing_ok=True)
        raise
    return JSONResponse({"taken": name})


def _batch_folder(desk: Desk, batch: str) -> Path:
    return desk.workspace.state / "studio" / "incoming" / batch


def _source_asked(desk: Desk, form: Form) -> tuple[str, Path | None]:
    """The folder that is named, or that of what was dropped; the latter is removed afterwards."""
    batch = _one(form, "batch")
    if not batch:
        folder = _one(form, "folder").strip()
        if not folder:
            raise UserError("Drop a folder of pictures here, or name one.")
        return folder, None
    if not BATCH.fullmatch(batch):
        raise UserError("What was dropped is not there (any more): drop it again.")
    dropped = _batch_folder(desk, batch)
    inner = list(dropped.glob("*")) if dropped.is_dir() else []
    # A folder that was dropped whole: its pictures are one level down.
    source = inner[0] if len(inner) == 1 and inner[0].is_dir() else dropped
    return str(source), dropped


def _bring_in(desk: Desk, asked: NewStyle, dropped: Path | None) -> str:
    """Bring pictures in; gives what there is to say of it."""

    def tell(what: str, done: int, total: int) -> None:
        desk.adding = {"done": done, "total": total}

    if not desk.adding_lock.acquire(blocking=False):
        raise UserError("Pictures are being brought in: wait until that is done.")
    try:
        desk.adding = {"done": 0, "total": 0}
        added = add_style(desk.workspace, asked, tell)
    finally:
        desk.adding = {}
        desk.adding_lock.release()
    if dropped is not None:
        shutil.rmtree(dropped, ignore_errors=True)
    said = [f"{added.copied} files brought in."]
    if bad := added.figures.get("bad_files_are"):
        said.append(f"Cannot be used: {bad}.")
    if (desk.workspace.root / DVC_FILE).is_file():
        sync_dvc_file(desk.workspace)
    try:
        version_source(desk.workspace, added.folder)
    except UserError as error:
        said.append(str(error))
    return " ".join(said)


def _add_style(request: Request, desk: Desk, form: Form) -> Response:
    source, dropped = _source_asked(desk, form)
    name = _one(form, "name").strip()
    words = tuple(word.strip() for word in _one(form, "style_words").split(",") if word.strip())
    asked = NewStyle(
        name, source, _one(form, "placeholder").strip() or "sks",
        _one(form, "generic_style").strip() or "painting", words, exclude_bad=True,
        caption_later=True,
    )  # fmt: skip
    said = _bring_in(desk, asked, dropped)
    target = f"/styles/{name}/pictures"
    if _wants_json(request):
        return JSONResponse({"go": f"{target}?notice={quote(said)}"})
    return _back(target, said)


# Pictures


def _pictures(request: Request, desk: Desk) -> Response:
    graph, style, found = _found(request, desk)
    return _page(
        request, desk, "pictures.html", "pictures", graph=graph, found=found,
        settings=graph.params.style(style), written=_written(desk, graph, style, found),
        Standing=Standing,
    )  # fmt: skip


def _pictures_grid(request: Request, desk: Desk) -> Response:
    graph, style, found = _found(request, desk)
    written = _written(desk, graph, style, found)
    return _html("pictures_grid.html", style=style, found=found, written=written, Standing=Standing)


def _found(request: Request, desk: Desk) -> tuple[Graph, str, Pictures]:
    graph, style = desk.graph(), request.path_params["style"]
    graph.params.style(style)
    return graph, style, desk.pictures.pictures(graph, style)


def _written(desk: Desk, graph: Graph, style: str, found: Pictures) -> dict[str, str]:
    """The caption of each picture of the set that has one, by id."""
    cards = caption_desk.caption_cards(desk.workspace, graph.params, style, found.cards)
    return {card.id: card.raw for card in cards if card.raw}


def _exclude(request: Request, desk: Desk, form: Form) -> Response:
    """Leave a picture out, or bring it back; its file stays where it is."""
    style, name = request.path_params["style"], _one(form, "name")
    graph = desk.graph()
    before = graph.params.style(style).excluded
    after = tuple(one for one in before if one != name)
    if _one(form, "do") == "exclude":
        known = {card.name for card in desk.pictures.pictures(graph, style).cards}
        if name not in known:
            raise UserError(f"{name!r} is not among the pictures of {style!r}.")
        after = (*after, name)
    settings_form.write_settings(
        desk.workspace, {f"styles.{style}.excluded": sorted(after)} if after != before else {}
    )
    if _wants_json(request):
        return JSONResponse({"excluded": list(after)})
    return _back(f"/styles/{style}/pictures")


def _add_pictures(request: Request, desk: Desk, form: Form) -> Response:
    style = request.path_params["style"]
    source, dropped = _source_asked(desk, form)
    asked = NewStyle(style, source, update=True, exclude_bad=True, caption_later=True)
    said = _bring_in(desk, asked, dropped)
    target = f"/styles/{style}/pictures"
    if _wants_json(request):
        return JSONResponse({"go": f"{target}?notice={quote(said)}"})
    return _back(target, said)


def _card(request: Request, desk: Desk) -> tuple[str, PictureCard | None]:
    _, style, found = _found(request, desk)
    name = request.query_params.get("name", "")
    return style, next((card for card in found.cards if card.name == name), None)


def _thumbnail(request: Request, desk: Desk) -> Response:
    style, card = _card(request, desk)
    return _picture(desk.pictures.thumbnail(style, card) if card else None)


def _view(request: Request, desk: Desk) -> Response:
    style, card = _card(request, desk)
    return _picture(desk.pictures.view(style, card) if card else None)


def _picture(file: Path | None) -> Response:
    if file is None:
        return NOT_THERE
    is_png = file.read_bytes()[:4] == b"\x89PNG"
    kind = "image/png" if is_png else "image/jpeg"
    return FileResponse(file, media_type=kind, headers={"Cache-Control": LONG})


# Captions


def _caption_cards(request: Request, desk: Desk) -> tuple[Graph, str, Pictures, list[CaptionCard]]:
    graph, style, found = _found(request, desk)
    cards = caption_desk.caption_cards(desk.workspace, graph.params, style, found.cards)
    return graph, style, found, cards


def _captions(request: Request, desk: Desk) -> Response:
    graph, style, found, cards = _caption_cards(request, desk)
    desk.tokens.prepare(graph.params.base_model)
    return _page(
        request, desk, "captions.html", "captions", graph=graph, found=found, cards=cards,
        content=_script_json(
            {
                "cards": [_caption_json(graph, desk, style, card) for card in cards],
                "chips": caption_desk.chips(cards),
            }
        ),
        own_words=graph.params.style(style).style_words,
        words=(*graph.params.captioning.style_words, *_names(graph, style)),
        captioner=captioner_finding(graph.params), model=graph.params.captioning.model,
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


def _save_captions(request: Request, desk: Desk, form: Form) -> Response:
    """One caption, or several: ``changes`` is a list of id, was, caption."""
    _, style, _, cards = _caption_cards(request, desk)
    changes = _changes(_one(form, "changes"))
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
    graph, style, _, cards = _caption_cards(request, desk)
    return JSONResponse(
        {
            "cards": [_caption_json(graph, desk, style, card) for card in cards if card.id in ids],
            "chips": caption_desk.chips(cards),
            "undo": [asdict(change) for change in undo or ()],
        }
    )


def _outlook(request: Request, desk: Desk, form: Form) -> Response:
    graph, style = desk.graph(), request.path_params["style"]
    return JSONResponse(_outlook_of(graph, desk, style, _one(form, "caption")))


def _change_captions(request: Request, desk: Desk, form: Form) -> Response:
    """Something in all captions at once; gives how to undo it."""
    _, style, _, cards = _caption_cards(request, desk)
    match _one(form, "do"):
        case "replace":
            changes = caption_desk.replaced(
                cards, _one(form, "find"), _one(form, "by"), _one(form, "whole_words") == "true"
            )
        case "remove_tag":
            changes = caption_desk.without_tag(cards, _one(form, "tag"))
        case "add_tag":
            changes = caption_desk.with_tag(cards, _one(form, "tag"))
        case other:
            raise UserError(f"{other!r} is nothing that can be done with captions.")
    if _one(form, "try") == "true":
        return JSONResponse({"count": len(changes)})
    caption_desk.save(desk.workspace, style, cards, changes)
    undo = [Change(change.id, change.caption, change.was) for change in changes]
    return _captions_now(request, desk, [change.id for change in changes], undo)


def _suggest(request: Request, desk: Desk, form: Form) -> Response:
    """Have the captions stage ask the model about pictures without a caption."""
    style = request.path_params["style"]
    graph = desk.graph()
    graph.params.style(style)
    command = (*NSYNC, "make", style, "--until", "captions")
    desk.jobs.start(Kind.MAKE, style, f"Suggestions for {style}", command)
    return _back(f"/styles/{style}/captions", "The model looks at the pictures.")


def _style_words(request: Request, desk: Desk, form: Form) -> Response:
    """Words that are taken out of this style's captions only."""
    style = request.path_params["style"]
    words = [w.strip() for w in _one(form, "style_words").split(",") if w.strip()]
    settings_form.write_settings(desk.workspace, {f"styles.{style}.style_words": words})
    return _back(f"/styles/{style}/captions")


def _export_sidecars(request: Request, desk: Desk) -> Response:
    _, style, _, cards = _caption_cards(request, desk)
    name = f"{style}-captions.zip"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(sidecars.as_zip(cards), media_type="application/zip", headers=headers)


def _import_sidecars(request: Request, desk: Desk, form: Form) -> Response:
    """Captions of text files that were dropped, or lie in a folder that is named."""
    _, style, _, cards = _caption_cards(request, desk)
    source, dropped = _source_asked(desk, form)
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
    if _wants_json(request):
        return JSONResponse({"go": f"{target}?notice={quote(said)}"})
    return _back(target, said)


# Training


def _train(request: Request, desk: Desk) -> Response:
    graph, style, found, cards = _caption_cards(request, desk)
    groups = settings_form.settings_groups(graph.params, style)
    settings = {setting.key: setting for group in groups for setting in group.settings}
    standings = graph.standings([style])
    return _page(
        request, desk, "train.html", "train", graph=graph, found=found, groups=groups,
        main=[settings[key] for key in settings_form.MAIN if key in settings],
        uncaptioned=sum(not card.raw for card in cards), count=len(cards),
        captioner=captioner_finding(graph.params),
        queue=watch_desk.queue(graph, standings, running(desk.workspace)),
        by_dagster=dagster_runs(desk.workspace), on_sketchbook=_on_sketchbook(graph),
    )  # fmt: skip


def _on_sketchbook(graph: Graph) -> bool:
    return graph.params.base_model.name == "sketchbook"


def _save_settings(request: Request, desk: Desk, form: Form) -> Response:
    style = request.path_params["style"]
    groups = settings_form.settings_groups(desk.graph().params, style)
    answers = {name: values[-1] for name, values in form.items()}
    scope = _one(form, "only").split()
    if scope:  # a form with some of the settings, none of them a switch
        answers = {name: value for name, value in answers.items() if name in scope}
    values = settings_form.asked_values(groups, answers, switches_shown=not scope)
    settings_form.write_settings(desk.workspace, values)
    said = f"Saved in params.yaml: {', '.join(values)}." if values else "Nothing was changed."
    return _back(_place(form, f"/styles/{style}/train"), said)


def _place(form: Form, otherwise: str) -> str:
    """The page that a form was on, where it says which."""
    where = _one(form, "back")
    return where if re.fullmatch(r"/styles/[a-z0-9_]+/[a-z]+", where) else otherwise


def _presets(request: Request, desk: Desk) -> Response:
    graph = desk.graph()
    presets: list[CardPreset] | None = None
    problem = ""
    try:
        presets = card_presets(graph.params)
    except BaseModelError as error:
        problem = str(error)
    return _html(
        "presets.html", style=request.path_params["style"], presets=presets, problem=problem,
        base=graph.params.base_model.name,
    )  # fmt: skip


def _start_training(request: Request, desk: Desk, form: Form) -> Response:
    graph, style = desk.graph(), request.path_params["style"]
    graph.params.style(style)
    variants = form.get("variant", [])
    if not variants:
        raise UserError("Choose at least one variant to train.")
    for variant in variants:
        graph.params.variant(variant)
    seeds = _seeds(_one(form, "training_seeds"), graph)
    if tuple(seeds) != graph.params.training_seeds:
        every = sorted({*graph.params.training_seeds, *seeds})
        settings_form.write_settings(desk.workspace, {"training_seeds": every})
        graph = desk.graph()
    all_variants = set(variants) == set(graph.params.variants)
    all_seeds = set(seeds) == set(graph.params.training_seeds)
    command = making(
        desk.workspace, style, () if all_variants else variants, () if all_seeds else seeds
    )
    desk.jobs.start(Kind.MAKE, style, f"Training {style}", command)
    return _back(f"/styles/{style}/watch")


def _seeds(text: str, graph: Graph) -> list[int]:
    if not text.strip():
        return list(graph.params.training_seeds)
    try:
        seeds = [int(part) for part in re.split(r"[\s,]+", text.strip())]
    except ValueError as error:
        raise UserError("Training seeds are whole numbers with commas between: 0, 1, 2") from error
    return list(dict.fromkeys(seeds))


def _stop(request: Request, desk: Desk, form: Form) -> Response:
    kind = Kind.DRAW if _one(form, "kind") == Kind.DRAW else Kind.MAKE
    stopped = desk.jobs.stop(kind)
    desk.jobs.wait(kind, 5.0)
    said = "Stopped. Start it again to go on from there." if stopped else "Nothing was running."
    return _back(_place(form, "/"), said)


# Watching


def _watching(request: Request, desk: Desk) -> dict[str, Any]:
    graph, style = desk.graph(), request.path_params["style"]
    graph.params.style(style)
    standings, lines = graph.standings([style]), running(desk.workspace)
    trainings = watch_desk.watched(graph, style, standings, lines)
    names = shown_names(graph.params.training_runs())
    return {
        "graph": graph, "style": style, "trainings": trainings, "names": names,
        "curves": watch_desk.curves(trainings, names),
        "queue": watch_desk.queue(graph, standings, lines), "job": desk.jobs.job(Kind.MAKE),
        "watch_every": graph.params.training.watch.every,
    }  # fmt: skip


def _watch(request: Request, desk: Desk) -> Response:
    content = _watching(request, desk)
    del content["job"], content["style"]
    return _page(request, desk, "watch.html", "watch", **content)


def _watch_live(request: Request, desk: Desk) -> Response:
    return _html("watch_live.html", **_watching(request, desk))


def _look(request: Request, desk: Desk) -> Response:
    graph, style, query = desk.graph(), request.path_params["style"], request.query_params
    graph.params.style(style)
    run = next((r for r in graph.params.training_runs() if r.name == query.get("run")), None)
    step = query.get("step", "")
    if run is None or not step.isdigit():
        return NOT_THERE
    where = watch_desk.LIVE if query.get("where") == watch_desk.LIVE else watch_desk.OF_ARTEFACT
    folder = watch_desk.folder_of(desk.workspace, style, run, where)
    file = folder / "looks" / f"{int(step):08d}.jpg"
    return FileResponse(file, media_type="image/jpeg") if file.is_file() else NOT_THERE


# Comparing


def _compare(request: Request, desk: Desk) -> Response:
    graph, style = desk.graph(), request.path_params["style"]
    graph.params.style(style)
    columns, rows = home_desk.sample_rows(graph, style, SAMPLE_ROWS)
    return _page(
        request, desk, "compare.html", "compare", graph=graph, columns=columns, rows=rows,
        loras=home_desk.trained_loras(graph, style), prompts=request.query_params.get("p", ""),
        has_report=(desk.workspace.report(style) / "report.html").is_file(), base=BASE,
        preferred=_preferred(desk, graph, style), **_drawings(desk, style),
    )  # fmt: skip


def _preferred(desk: Desk, graph: Graph, style: str) -> list[Any]:
    params = graph.params
    if not any(desk.workspace.choices(style).glob("*.json")):
        return []
    from nsync_pipeline.blind.choices import preferences, read_choices  # torch: seconds

    try:
        kept = read_choices(desk.workspace, style, list(params.variants), params.training_seeds)
    except UserError:
        return []
    return list(preferences(kept, style, params.seed, params.evaluation.bootstrap_draws))


def _drawings(desk: Desk, style: str) -> dict[str, Any]:
    folder = desk.workspace.root / "comparisons"
    files = sorted(folder.glob(f"{style}_[0-9]*.png"), reverse=True)
    return {"drawings": [file.name for file in files], "draw_job": desk.jobs.job(Kind.DRAW)}


def _drawn(request: Request, desk: Desk) -> Response:
    style = request.path_params["style"]
    return _html("drawn.html", style=style, **_drawings(desk, style))


def _draw(request: Request, desk: Desk, form: Form) -> Response:
    graph, style = desk.graph(), request.path_params["style"]
    graph.params.style(style)
    prompts = [line.strip() for line in _one(form, "prompts").splitlines() if line.strip()]
    if not prompts:
        raise UserError("Write at least one prompt: what the picture shows, without the style.")
    command = [*NSYNC, "compare", "--style", style, "--seeds", _one(form, "seeds") or "1"]
    if seed := _one(form, "seed").strip():
        command += ["--seed", seed]
    if columns := form.get("column"):
        command += ["--variants", ",".join(columns)]
    if run_seed := _one(form, "training_seed"):
        command += ["--training-seed", run_seed]
    command += [part for prompt in prompts for part in ("--prompt", prompt)]
    desk.jobs.start(Kind.DRAW, style, f"Pictures of {style}", command)
    return _back(f"/styles/{style}/compare")


def _drawn_file(request: Request, desk: Desk) -> Response:
    """A picture of a comparison, or one that a stage drew."""
    style, name = request.path_params["style"], request.query_params.get("file", "")
    if name.count("/") == 0 and re.fullmatch(rf"{re.escape(style)}_\d+\.png", name):
        return _file(desk.workspace.root / "comparisons" / name)
    wanted = PurePosixPath(name)
    inside = wanted.parts[:2] in (("samples", style), ("data", style)) and ".." not in wanted.parts
    if not inside or wanted.suffix not in (".png", ".jpg"):
        return NOT_THERE
    return _file(desk.workspace.root / wanted)


def _file(path: Path) -> Response:
    return FileResponse(path) if path.is_file() else NOT_THERE


def _own_page(text: str) -> Response:
    return HTMLResponse(text, headers={"Content-Security-Policy": OWN_PAGE_POLICY})


def _report(request: Request, desk: Desk) -> Response:
    file = desk.workspace.report(request.path_params["style"]) / "report.html"
    return _own_page(file.read_text(encoding="utf-8")) if file.is_file() else NOT_THERE


def _blind(request: Request, desk: Desk) -> Response:
    from nsync_pipeline.blind.page import blind_page, render_blind_page  # torch: seconds

    graph, style = desk.graph(), request.path_params["style"]
    graph.params.style(style)
    names = [request.query_params.get(side, "") for side in ("a", "b")]
    for name in names:
        if name != BASE:
            graph.params.variant(name)
    seed = graph.params.training_seed(None)
    return _own_page(
        render_blind_page(blind_page(desk.workspace, style, names[0], names[1], 40, seed))
    )


def _take_choices(request: Request, desk: Desk, form: Form) -> Response:
    """Files that the blind page saved, dropped here."""
    from nsync_pipeline.blind.choices import take_choices  # torch: seconds

    params = desk.graph().params
    source, dropped = _source_asked(desk, form)
    taken = 0
    try:
        for file in sorted(Path(source).rglob("*.json")):
            found = take_choices(
                desk.workspace, file, params.styles, list(params.variants), params.training_seeds
            )
            taken += found.choices
    finally:
        if dropped is not None:
            shutil.rmtree(dropped, ignore_errors=True)
    style = request.path_params["style"]
    target = f"/styles/{style}/compare?notice={quote(f'{taken} choices taken in.')}"
    return JSONResponse({"go": target}) if _wants_json(request) else RedirectResponse(target, 303)


# Taking home


def _take_home(request: Request, desk: Desk) -> Response:
    graph, style = desk.graph(), request.path_params["style"]
    graph.params.style(style)
    return _page(
        request, desk, "take_home.html", "home", graph=graph,
        loras=home_desk.trained_loras(graph, style), settings=graph.params.style(style),
    )  # fmt: skip


def _run_of(graph: Graph, name: str) -> TrainingRun:
    run = next((run for run in graph.params.training_runs() if run.name == name), None)
    if run is None:
        raise UserError(f"{name!r} is not a training of params.yaml (any more).")
    return run


def _export(request: Request, desk: Desk, form: Form) -> Response:
    """``nsync export`` does it, in a process of its own: it takes torch."""
    graph, style = desk.graph(), request.path_params["style"]
    run = _run_of(graph, _one(form, "run"))
    folder = home_desk.export_folder(desk.workspace, style, run)
    command = [*NSYNC, "export", style, "--variant", run.variant]
    command += ["--training-seed", str(run.training_seed), "--output", str(folder)]
    ended = subprocess.run(
        command, cwd=desk.workspace.root, capture_output=True, text=True, check=False
    )
    if ended.returncode != 0:
        lines = ended.stderr.strip().splitlines() or ["nsync export failed"]
        raise UserError(lines[-1].removeprefix("nsync: "))
    return _back(f"/styles/{style}/home", f"Written to {folder}")


def _exported_file(request: Request, desk: Desk) -> Response:
    graph, style, query = desk.graph(), request.path_params["style"], request.query_params
    graph.params.style(style)
    run, name = _run_of(graph, query.get("run", "")), query.get("name", "")
    files = {
        file.name: lora.exported
        for lora in home_desk.trained_loras(graph, style)
        if lora.run == run and lora.exported is not None
        for file in lora.files
    }
    if name not in files:
        return NOT_THERE
    return FileResponse(files[name] / name, filename=name)
