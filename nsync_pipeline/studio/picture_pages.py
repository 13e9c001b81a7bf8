"""The styles of a workspace, and a style's pictures: brought in, looked at, left out."""

import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from nsync_pipeline.add_style import NewStyle, add_style
from nsync_pipeline.errors import UserError
from nsync_pipeline.graph.artefacts import State
from nsync_pipeline.graph.dvc import DVC_FILE, sync_dvc_file, version_source
from nsync_pipeline.graph.progress import running
from nsync_pipeline.graph.settings import write_settings
from nsync_pipeline.studio.jobs import Kind
from nsync_pipeline.studio.page import (
    BATCH,
    LONG,
    MOST_UPLOADED,
    NOT_THERE,
    Desk,
    Visit,
    batch_folder,
    rendered,
)
from nsync_pipeline.studio.picture_desk import PictureCard, Standing


def styles_page(visit: Visit) -> Response:
    graph = visit.graph
    cards = []
    for style, settings in graph.params.styles.items():
        standings = graph.standings([style])
        fresh = [a for a, standing in standings.items() if standing.state is State.FRESH]
        found = visit.desk.pictures.pictures(graph, style)
        cards.append(
            {
                "name": style,
                "settings": settings,
                "pictures": found,
                "covers": found.in_set[:4],
                "trained": sum(artefact.stage.name == "training" for artefact in fresh),
                "fresh": len(fresh),
                "count": len(standings),
            }
        )
    return visit.tab("styles", "home.html", cards=cards)


def job_line(visit: Visit) -> Response:
    job, lines = visit.desk.jobs.job(Kind.MAKE), running(visit.workspace)
    return rendered("job_line.html", job=job, lines=lines)


def adding(visit: Visit) -> Response:
    return JSONResponse(visit.desk.adding)


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
    place = batch_folder(desk.workspace, batch).joinpath(*parts)
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


def new_style(visit: Visit) -> Response:
    source, dropped = visit.source()
    name = visit.given("name").strip()
    asked = NewStyle(
        name, source, visit.given("placeholder").strip() or "sks",
        visit.given("generic_style").strip() or "painting", tuple(visit.words("style_words")),
        exclude_bad=True, caption_later=True,
    )  # fmt: skip
    return visit.go_to(f"/styles/{name}/pictures", _bring_in(visit.desk, asked, dropped))


def pictures_page(visit: Visit) -> Response:
    return visit.tab("pictures", settings=visit.settings, **_pictures(visit))


def pictures_grid(visit: Visit) -> Response:
    return rendered("pictures_grid.html", style=visit.style, **_pictures(visit))


def _pictures(visit: Visit) -> dict[str, Any]:
    """What the grid shows: with the caption of each picture of the set that has one, by id."""
    written = {card.id: card.raw for card in visit.cards() if card.raw}
    return {"found": visit.pictures, "written": written, "Standing": Standing}


def exclude(visit: Visit) -> Response:
    """Leave a picture out, or bring it back; its file stays where it is."""
    name, before = visit.given("name"), visit.settings.excluded
    after = tuple(one for one in before if one != name)
    if visit.given("do") == "exclude":
        if name not in {card.name for card in visit.pictures.cards}:
            raise UserError(f"{name!r} is not among the pictures of {visit.style!r}.")
        after = (*after, name)
    key = f"styles.{visit.style}.excluded"
    write_settings(visit.workspace, {key: sorted(after)} if after != before else {})
    return JSONResponse({"excluded": list(after)}) if visit.wants_json else visit.go_to("pictures")


def add_pictures(visit: Visit) -> Response:
    source, dropped = visit.source()
    asked = NewStyle(visit.style, source, update=True, exclude_bad=True, caption_later=True)
    return visit.go_to("pictures", _bring_in(visit.desk, asked, dropped))


def _card(visit: Visit) -> PictureCard | None:
    name = visit.asked("name")
    return next((card for card in visit.pictures.cards if card.name == name), None)


def thumbnail(visit: Visit) -> Response:
    card = _card(visit)
    return _picture(visit.desk.pictures.thumbnail(visit.style, card) if card else None)


def view(visit: Visit) -> Response:
    card = _card(visit)
    return _picture(visit.desk.pictures.view(visit.style, card) if card else None)


def _picture(file: Path | None) -> Response:
    if file is None:
        return NOT_THERE
    is_png = file.read_bytes()[:4] == b"\x89PNG"
    kind = "image/png" if is_png else "image/jpeg"
    return FileResponse(file, media_type=kind, headers={"Cache-Control": LONG})
