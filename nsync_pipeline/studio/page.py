"""What the studio's pages are made with: the desk they read, forms, templates, answers.

The style of an address is looked up here, before any page of it is asked.
"""

import re
import shutil
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

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
from nsync_pipeline.files import parse_json, refusal
from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.params import Params
from nsync_pipeline.studio import caption_desk
from nsync_pipeline.studio.caption_desk import CaptionCard, ConflictError
from nsync_pipeline.studio.guard import POLICY
from nsync_pipeline.studio.jobs import Jobs, Kind
from nsync_pipeline.studio.picture_desk import PictureDesk, Pictures
from nsync_pipeline.studio.tokens import TokenCounts
from nsync_pipeline.style_set.config import StyleConfig
from nsync_pipeline.templates import templates_in
from nsync_pipeline.text import printable_lines
from nsync_pipeline.workspace import TrainingRun, Workspace

FOLDER = Path(__file__).parent
BATCH = re.compile(r"[0-9a-f]{16}")
MOST_UPLOADED = 512 * 2**20  # bytes of a file
MOST_SENT = 8 * 2**20  # bytes of a form
SAMPLE_ROWS = 8
LONG = "private, max-age=31536000, immutable"

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


class Visit:
    """One request: what it asks for, and the workspace as it was when it came."""

    def __init__(self, request: Request, form: Form | None = None) -> None:
        self.request, self.form = request, form or {}
        self.desk: Desk = request.app.state.desk
        self.workspace = self.desk.workspace
        self.style: str = request.path_params.get("style", "")
        if self.style:
            self.params.style(self.style)  # it is one of the workspace's

    @cached_property
    def graph(self) -> Graph:
        return self.desk.graph()

    @property
    def params(self) -> Params:
        return self.graph.params

    @property
    def settings(self) -> StyleConfig:
        """Those of the style."""
        return self.params.style(self.style)

    def asked(self, name: str) -> str:
        """What stands in the address."""
        return self.request.query_params.get(name, "")

    def given(self, name: str) -> str:
        """What stands in the form, the first of that name."""
        return self.form.get(name, [""])[0]

    def words(self, name: str) -> list[str]:
        """What is given with commas between."""
        return [word.strip() for word in self.given(name).split(",") if word.strip()]

    @property
    def wants_json(self) -> bool:
        return wants_json(self.request)

    @cached_property
    def pictures(self) -> Pictures:
        return self.desk.pictures.pictures(self.graph, self.style)

    def cards(self) -> list[CaptionCard]:
        """The pictures of the set with their captions."""
        cards = self.pictures.cards
        return caption_desk.caption_cards(self.workspace, self.params, self.style, cards)

    def run(self, name: str) -> TrainingRun:
        """The training that is called so; raises ``UserError`` where there is none."""
        run = next((run for run in self.params.training_runs() if run.name == name), None)
        if run is None:
            raise UserError(f"{name!r} is not a training of params.yaml (any more).")
        return run

    def tab(self, name: str, template: str = "", **content: Any) -> HTMLResponse:
        """One of the style's tabs, or the page of all styles."""
        return rendered(
            template or f"{name}.html", graph=self.graph, styles=list(self.params.styles),
            style=self.style or None, tab=name, notice=self.asked("notice"),
            job=self.desk.jobs.job(Kind.MAKE), **content,
        )  # fmt: skip

    def go_to(self, tab: str, notice: str = "") -> Response:
        """The tab of the style, or the address; with what there is to say of what was done."""
        url = tab if tab.startswith("/") else f"/styles/{self.style}/{tab}"
        url += f"?notice={quote(printable_lines(notice))}" if notice else ""
        return JSONResponse({"go": url}) if self.wants_json else RedirectResponse(url, 303)

    def go_back(self, otherwise: str, notice: str) -> Response:
        """To the page that the form was on, where it says which."""
        where = self.given("back")
        was_on = re.fullmatch(r"/styles/[a-z0-9_]+/[a-z]+", where)
        return self.go_to(where if was_on else otherwise, notice)

    def source(self) -> tuple[str, Path | None]:
        """The folder that is named, or that of what was dropped, to be removed afterwards."""
        batch = self.given("batch")
        if not batch:
            folder = self.given("folder").strip()
            if not folder:
                raise UserError("Drop a folder of pictures here, or name one.")
            return folder, None
        if not BATCH.fullmatch(batch):
            raise UserError("What was dropped is not there (any more): drop it again.")
        dropped = batch_folder(self.workspace, batch)
        inner = list(dropped.glob("*")) if dropped.is_dir() else []
        # A folder that was dropped whole: its pictures are one level down.
        source = inner[0] if len(inner) == 1 and inner[0].is_dir() else dropped
        return str(source), dropped

    @contextmanager
    def files_given(self) -> Iterator[Path]:
        """The same; what was dropped is removed in the end."""
        source, dropped = self.source()
        try:
            yield Path(source).expanduser()
        finally:
            if dropped is not None:
                shutil.rmtree(dropped, ignore_errors=True)


Endpoint = Callable[[Request], Awaitable[Response]]
Answer = Callable[[Visit], Response]


def shown(page: Answer) -> Endpoint:
    """What is only looked at; apart from the server's own thread."""

    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(lambda: page(Visit(request)))

    return endpoint


def done(action: Answer) -> Endpoint:
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
        return await run_in_threadpool(lambda: action(Visit(request, form)))

    return endpoint


def _json_fields(text: str) -> dict[str, list[str]]:
    try:
        content = parse_json(text)
        return {str(name): [str(value)] for name, value in content.items()}
    except (ValueError, AttributeError) as error:
        raise UserError(f"What was sent cannot be read: {error}") from error


TEMPLATES = templates_in(FOLDER / "templates")
TEMPLATES.filters["inline"] = Markup  # our own charts
TEMPLATES.filters["code"] = lambda text: Markup(
    re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text)))
)
TEMPLATES.filters["gib"] = lambda count: f"{count / 2**30:.1f} GiB"


def rendered(template: str, status: int = 200, **content: Any) -> HTMLResponse:
    text = TEMPLATES.get_template(template).render(**content)
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}
    return HTMLResponse(text, status, headers)


def wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")


async def mistake(request: Request, error: Exception) -> Response:
    """A person's mistake, or what the machine refuses: its message, where the person was."""
    told = printable_lines(refusal(error) if isinstance(error, OSError) else str(error))
    if wants_json(request):
        content: dict[str, Any] = {"error": told}
        status = 400
        if isinstance(error, ConflictError):
            content["current"], status = error.current, 409
        return JSONResponse(content, status)
    return rendered("mistake.html", 400, message=told, back=request.headers.get("referer", "/"))


async def not_there(request: Request, error: Exception) -> Response:
    if wants_json(request):
        return JSONResponse({"error": "That is not there (any more)."}, 404)
    return rendered("mistake.html", 404, message="That is not there (any more).", back="/")


NOT_THERE = PlainTextResponse("That is not there (any more).", 404)


def batch_folder(workspace: Workspace, batch: str) -> Path:
    return workspace.state / "studio" / "incoming" / batch


def file_or_not_there(path: Path) -> Response:
    return FileResponse(path) if path.is_file() else NOT_THERE
