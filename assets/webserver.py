"""Dagster's web server for the people at this machine: ``python -m assets.webserver``.

Dagster's own answers whoever asks. A page of somebody else's, open in the same browser, could have
it launch runs: by a form or a picture that asks for ``/graphql``, or under a name of its own that
it has pointed to this machine (DNS rebinding). Browsers say from where a request comes, and for
which name it is meant: here both must be this page's.
"""

import os
import sys
from urllib.parse import urlsplit

from dagster_webserver import app
from dagster_webserver.cli import main
from dagster_webserver.webserver import DagsterWebserver
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from nsync_pipeline.studio.guard import name_of

HOSTS = ("127.0.0.1", "localhost", "::1")
MORE_HOSTS = "NSYNC_PAGE_HOSTS"
"""In the environment: other names under which the page may be asked for, with commas between."""


class OwnPageOnly:
    """Refuses what another page asks for, or what is meant for another host."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        more = os.environ.get(MORE_HOSTS, "").split(",")
        self.hosts = {*HOSTS, *(name.strip().lower() for name in more if name.strip())}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or (why := self._refused(scope)) is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": why})
        else:
            await PlainTextResponse(f"{why}\n", status_code=403)(scope, receive, send)

    def _refused(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if name_of(host) not in self.hosts:
            return f"This page is {HOSTS[0]}'s; {MORE_HOSTS} can name other hosts."
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return "Another page asks for this."
        # Where a browser sends no origin, it says whether the page was another site's. A link to
        # the page itself may be anywhere.
        site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
        is_link = mode == "navigate" and "graphql" not in scope["path"]
        if site in ("cross-site", "same-site") and not is_link:
            return "Another page asks for this."
        return None


class OwnWebserver(DagsterWebserver):  # type: ignore[type-arg]
    """Dagster's, with the guard around everything it serves."""

    def build_middleware(self) -> list[Middleware]:
        return [Middleware(OwnPageOnly), *super().build_middleware()]


if __name__ == "__main__":
    app.DagsterWebserver = OwnWebserver  # type: ignore[attr-defined]
    sys.exit(main())  # type: ignore[no-untyped-call]
