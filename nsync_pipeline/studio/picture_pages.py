"""The styles of a workspace, and a style's pictures: brought in, looked at, left out."""

import shutil
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    Response,
)

from nsync_pipeline.add_style import NewStyle, add_style
from nsync_pipeline.errors import UserError
from nsync_pipeline.graph.artefacts import Graph, State
from nsync_pipeline.graph.dvc import DVC_FILE, sync_dvc_file, version_source
from nsync_pipeline.graph.progress import running
from nsync_pipeline.graph.settings import write_settings
from nsync_pipeline.studio import caption_desk
from nsync_pipeline.studio.jobs import Kind
from nsync_pipeline.studio.page import (
    BATCH,
    LONG,
    MOST_UPLOADED,
    NOT_THERE,
    Desk,
    Form,
    batch_folder,
    found_pictures,
    go_to,
    rendered,
    source_asked,
    style_asked,
    tab_page,
    value_of,
    wants_json,
)
from nsync_pipeline.studio.picture_desk import PictureCard, Pictures, Standing


def styles_page(request: Request, desk: Desk) -> Response:
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
    return tab_page(request, desk, "home.html", "styles", graph=graph, cards=cards)


def job_line(request: Request, desk: Desk) -> Response:
    return rendered("job_line.html", job=desk.jobs.job(Kind.MAKE), lines=running(desk.workspace))


def adding(request: Request, desk: Desk) -> Response:
    return JSONResponse(desk.adding)


async def upload(request: Request) -> Response:
    """One file that was dropped on the page, into a folder of its batch."""
    desk: Desk = request.app.state.desk
    batch, name = request.path_params["batch"], request.path_params["name"]
    path = PurePosixPath(name.replace("\\", "/"))
    parts = path.parts
    if not BATCH.fullmatch(batch) or not parts or path.is_absolute() or "\0" in name:
        raise UserError(f"{name!r} is no name of a file.")
    if any(part == ".." or part.startswith(".") for part in parts):
        return JSONResponse({"skipped": name})
    place = batch_folder(desk, batch).joinpath(*parts)
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


def new_style(request: Request, desk: Desk, form: Form) -> Response:
    source, dropped = source_asked(desk, form)
    name = value_of(form, "name").strip()
    words = tuple(word.strip() for word in value_of(form, "style_words").split(",") if word.strip())
    asked = NewStyle(
        name, source, value_of(form, "placeholder").strip() or "sks",
        value_of(form, "generic_style").strip() or "painting", words, exclude_bad=True,
        caption_later=True,
    )  # fmt: skip
    said = _bring_in(desk, asked, dropped)
    target = f"/styles/{name}/pictures"
    if wants_json(request):
        return JSONResponse({"go": f"{target}?notice={quote(said)}"})
    return go_to(target, said)


def pictures_page(request: Request, desk: Desk) -> Response:
    graph, style, found = found_pictures(request, desk)
    return tab_page(
        request, desk, "pictures.html", "pictures", graph=graph, found=found,
        settings=graph.params.style(style), written=_written(desk, graph, style, found),
        Standing=Standing,
    )  # fmt: skip


def pictures_grid(request: Request, desk: Desk) -> Response:
    graph, style, found = found_pictures(request, desk)
    written = _written(desk, graph, style, found)
    return rendered(
        "pictures_grid.html", style=style, found=found, written=written, Standing=Standing
    )


def _written(desk: Desk, graph: Graph, style: str, found: Pictures) -> dict[str, str]:
    """The caption of each picture of the set that has one, by id."""
    cards = caption_desk.caption_cards(desk.workspace, graph.params, style, found.cards)
    return {card.id: card.raw for card in cards if card.raw}


def exclude(request: Request, desk: Desk, form: Form) -> Response:
    """Leave a picture out, or bring it back; its file stays where it is."""
    (graph, style), name = style_asked(request), value_of(form, "name")
    before = graph.params.style(style).excluded
    after = tuple(one for one in before if one != name)
    if value_of(form, "do") == "exclude":
        known = {card.name for card in desk.pictures.pictures(graph, style).cards}
        if name not in known:
            raise UserError(f"{name!r} is not among the pictures of {style!r}.")
        after = (*after, name)
    write_settings(
        desk.workspace, {f"styles.{style}.excluded": sorted(after)} if after != before else {}
    )
    if wants_json(request):
        return JSONResponse({"excluded": list(after)})
    return go_to(f"/styles/{style}/pictures")


def add_pictures(request: Request, desk: Desk, form: Form) -> Response:
    _, style = style_asked(request)
    source, dropped = source_asked(desk, form)
    asked = NewStyle(style, source, update=True, exclude_bad=True, caption_later=True)
    said = _bring_in(desk, asked, dropped)
    target = f"/styles/{style}/pictures"
    if wants_json(request):
        return JSONResponse({"go": f"{target}?notice={quote(said)}"})
    return go_to(target, said)


def _card(request: Request, desk: Desk) -> tuple[str, PictureCard | None]:
    _, style, found = found_pictures(request, desk)
    name = request.query_params.get("name", "")
    return style, next((card for card in found.cards if card.name == name), None)


def thumbnail(request: Request, desk: Desk) -> Response:
    style, card = _card(request, desk)
    return _picture(desk.pictures.thumbnail(style, card) if card else None)


def view(request: Request, desk: Desk) -> Response:
    style, card = _card(request, desk)
    return _picture(desk.pictures.view(style, card) if card else None)


def _picture(file: Path | None) -> Response:
    if file is None:
        return NOT_THERE
    is_png = file.read_bytes()[:4] == b"\x89PNG"
    kind = "image/png" if is_png else "image/jpeg"
    return FileResponse(file, media_type=kind, headers={"Cache-Control": LONG})
