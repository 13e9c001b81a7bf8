"""What the studio's pages are made with: the desk they read, forms, templates, answers.

The style of an address is looked up once, here, before any page of it is asked.
"""

import re
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)

from nsync_pipeline.errors import UserError
from nsync_pipeline.files import parse_json
from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.studio import caption_desk
from nsync_pipeline.studio.caption_desk import CaptionCard, ConflictError
from nsync_pipeline.studio.guard import POLICY
from nsync_pipeline.studio.jobs import Jobs, Kind
from nsync_pipeline.studio.picture_desk import PictureDesk, Pictures
from nsync_pipeline.studio.tokens import TokenCounts
from nsync_pipeline.workspace import TrainingRun, Workspace

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


Endpoint = Callable[[Request], Awaitable[Response]]


def shown(page: Callable[[Request, Desk], Response]) -> Endpoint:
    """What is only looked at; apart from the server's own thread."""

    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(_of_style, request, page, request.app.state.desk)

    return endpoint


def done(action: Callable[[Request, Desk, Form], Response]) -> Endpoint:
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
        return await run_in_threadpool(_of_style, request, action, request.app.state.desk, form)

    return endpoint


def _of_style(request: Request, answer: Callable[..., Response], *given: Any) -> Response:
    """``answer``, where the style of the address is one of the workspace's."""
    if (style := request.path_params.get("style")) is not None:
        request.state.graph = request.app.state.desk.graph()
        request.state.graph.params.style(style)
    return answer(request, *given)


def style_asked(request: Request) -> tuple[Graph, str]:
    """The workspace as it was when the request came, and the style, which is in it."""
    graph: Graph = request.state.graph
    return graph, request.path_params["style"]


def run_of(graph: Graph, name: str) -> TrainingRun:
    """The training that is called so; raises ``UserError`` where there is none."""
    run = next((run for run in graph.params.training_runs() if run.name == name), None)
    if run is None:
        raise UserError(f"{name!r} is not a training of params.yaml (any more).")
    return run


def _json_fields(text: str) -> dict[str, list[str]]:
    try:
        content = parse_json(text)
        return {str(name): [str(value)] for name, value in content.items()}
    except (ValueError, AttributeError) as error:
        raise UserError(f"What was sent cannot be read: {error}") from error


def value_of(form: Form, name: str) -> str:
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


def rendered(template: str, status: int = 200, **content: Any) -> HTMLResponse:
    text = TEMPLATES.get_template(template).render(**content)
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}
    return HTMLResponse(text, status, headers)


def tab_page(request: Request, desk: Desk, template: str, tab: str, **content: Any) -> HTMLResponse:
    graph = content.pop("graph", None) or desk.graph()
    style = request.path_params.get("style")
    return rendered(
        template, graph=graph, styles=list(graph.params.styles), style=style, tab=tab,
        notice=request.query_params.get("notice", ""),
        mistake=request.query_params.get("mistake", ""), job=desk.jobs.job(Kind.MAKE),
        tabs=CARDS_OF_PAGE, **content,
    )  # fmt: skip


def go_to(url: str, notice: str = "", mistake: str = "") -> Response:
    said = f"?notice={quote(notice)}" if notice else f"?mistake={quote(mistake)}" if mistake else ""
    return RedirectResponse(f"{url}{said}", 303)


def wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")


async def mistake(request: Request, error: Exception) -> Response:
    """A person's mistake: its message, where the person was."""
    assert isinstance(error, UserError)
    if wants_json(request):
        content: dict[str, Any] = {"error": str(error)}
        status = 400
        if isinstance(error, ConflictError):
            content["current"], status = error.current, 409
        return JSONResponse(content, status)
    return rendered(
        "mistake.html", 400, message=str(error), back=request.headers.get("referer", "/")
    )


async def not_there(request: Request, error: Exception) -> Response:
    if wants_json(request):
        return JSONResponse({"error": "That is not there (any more)."}, 404)
    return rendered("mistake.html", 404, message="That is not there (any more).", back="/")


NOT_THERE = PlainTextResponse("That is not there (any more).", 404)


def batch_folder(desk: Desk, batch: str) -> Path:
    return desk.workspace.state / "studio" / "incoming" / batch


def source_asked(desk: Desk, form: Form) -> tuple[str, Path | None]:
    """The folder that is named, or that of what was dropped; the latter is removed afterwards."""
    batch = value_of(form, "batch")
    if not batch:
        folder = value_of(form, "folder").strip()
        if not folder:
            raise UserError("Drop a folder of pictures here, or name one.")
        return folder, None
    if not BATCH.fullmatch(batch):
        raise UserError("What was dropped is not there (any more): drop it again.")
    dropped = batch_folder(desk, batch)
    inner = list(dropped.glob("*")) if dropped.is_dir() else []
    # A folder that was dropped whole: its pictures are one level down.
    source = inner[0] if len(inner) == 1 and inner[0].is_dir() else dropped
    return str(source), dropped


def found_pictures(request: Request, desk: Desk) -> tuple[Graph, str, Pictures]:
    graph, style = style_asked(request)
    return graph, style, desk.pictures.pictures(graph, style)


def cards_asked(request: Request, desk: Desk) -> tuple[Graph, str, Pictures, list[CaptionCard]]:
    graph, style, found = found_pictures(request, desk)
    cards = caption_desk.caption_cards(desk.workspace, graph.params, style, found.cards)
    return graph, style, found, cards


def place_of_form(form: Form, otherwise: str) -> str:
    """The page that a form was on, where it says which."""
    where = value_of(form, "back")
    return where if re.fullmatch(r"/styles/[a-z0-9_]+/[a-z]+", where) else otherwise


def file_or_not_there(path: Path) -> Response:
    return FileResponse(path) if path.is_file() else NOT_THERE
