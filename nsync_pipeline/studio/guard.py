"""Who may talk to the studio: a browser on this machine that was given its link.

The page is on 127.0.0.1, where any program and any web page of the same browser can reach it too.
So the host must be this machine's own name (against DNS rebinding), whoever comes must have the
token of the printed link (kept as a cookie), and what changes something must come from the studio's
own pages (``Origin``, which browsers set and pages cannot).
"""

import hashlib
import re
import secrets

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost")
TOKEN = "token"
COOKIE_DAYS = 30
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'self'; base-uri 'none'; form-action 'self'"
)
OWN_PAGE_POLICY = (
    "default-src 'none'; img-src 'self' data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'"
)
"""Of pages that need nothing besides themselves: the report, the blind page."""


HOST = re.compile(r"([\w.-]+|\[[0-9a-f:.]+\])(?::\d+)?", re.IGNORECASE)


def name_of(host: str) -> str | None:
    """The name in a ``Host`` header, in lower case; None where it is not one name and a port."""
    found = HOST.fullmatch(host)
    return None if found is None else found[1].lower().strip("[]")


class Guard:
    """Lets through what comes from the studio's own pages, and answers the rest itself."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token
        # One for each studio: cookies do not tell ports apart.
        self._cookie = f"nsync_studio_{hashlib.sha256(token.encode()).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        answer = self._refusal(request)
        if answer is None:
            await self._app(scope, receive, send)
        else:
            await answer(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if name_of(host) not in HOSTS:
            return PlainTextResponse("The studio answers on this machine's own name only.", 400)
        changes = request.method not in ("GET", "HEAD")
        if changes and request.headers.get("origin") != f"http://{host}":
            return PlainTextResponse("Changes are taken from the studio's own pages only.", 403)
        given = request.query_params.get(TOKEN)
        if given is not None and not changes and self._is_token(given):
            entered = RedirectResponse(request.url.path, 303)
            entered.set_cookie(
                self._cookie, self._token, max_age=COOKIE_DAYS * 86400, httponly=True,
                samesite="strict",
            )  # fmt: skip
            return entered
        if not self._is_token(request.cookies.get(self._cookie, "")):
            text = "Open the link that `nsync studio` printed: it has the key to this page."
            return PlainTextResponse(text, 403)
        return None

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self._token.encode())
