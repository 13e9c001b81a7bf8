"""Dagster's page answers the people at this machine, and no other page."""

import asyncio
from typing import Any

import pytest
from dagster_webserver.webserver import DagsterWebserver
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from assets.webserver import MORE_HOSTS, OwnPageOnly, OwnWebserver

OWN = "http://127.0.0.1:3000"


async def _page(request: object) -> PlainTextResponse:
    return PlainTextResponse("launched")


async def _socket(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("launched")
    await socket.close()


@pytest.fixture
def client() -> TestClient:
    methods = ["GET", "POST"]
    routes = [Route("/graphql", _page, methods=methods), Route("/runs", _page, methods=methods)]
    app = Starlette(routes=[*routes, WebSocketRoute("/graphql", _socket)])
    app.add_middleware(OwnPageOnly)
    return TestClient(app, base_url=OWN)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "localhost:3000"},
        {"host": "[::1]:3000"},
        {"origin": OWN, "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"},
        {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"},
    ],
)
def test_the_page_itself_is_answered(client: TestClient, headers: dict[str, str]) -> None:
    assert client.post("/graphql", headers=headers).text == "launched"
    assert client.get("/runs", headers=headers).text == "launched"


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example:3000"},
        {"host": ""},
        {"host": "[::1"},
        {"host": "localhost@evil.example"},
        {"host": "evil.example@localhost"},
        {"host": "evil.example\\@127.0.0.1"},
        {"host": "localhost:3000:4000"},
        {"origin": "http://evil.example"},
        {"origin": "http://localhost:3000"},  # not the page that is asked
        {"origin": "http://127.0.0.1:8000"},  # another program's page on this machine
        {"origin": "null"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},  # as a picture is
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},  # as a link or form is
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
    ],
)
def test_other_pages_launch_nothing(client: TestClient, headers: dict[str, str]) -> None:
    for answer in (
        client.post("/graphql", headers=headers),
        client.get("/graphql?query=mutation", headers=headers),
    ):
        assert answer.status_code == 403
        assert "launched" not in answer.text
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/graphql", headers=headers) as socket,
    ):
        socket.receive_text()


def test_a_link_to_the_page_may_be_anywhere(client: TestClient) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client.get("/runs", headers=headers).text == "launched"


def test_other_hosts_are_answered_where_they_are_named(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MORE_HOSTS, "studio.lan, Other.lan")
    assert client.get("/runs", headers={"host": "other.lan"}).text == "launched"
    assert client.get("/runs", headers={"host": "third.lan"}).status_code == 403


def test_dagsters_own_server_is_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its application, all routes, with the guard outermost."""
    monkeypatch.setattr(DagsterWebserver, "__init__", lambda self: None)
    first, *others = OwnWebserver().build_middleware()  # type: ignore[call-arg]
    assert str(first.cls) == str(OwnPageOnly)
    theirs = DagsterWebserver().build_middleware()  # type: ignore[call-arg]
    assert [one.cls for one in others] == [one.cls for one in theirs]


def test_what_is_no_request_goes_through() -> None:
    """As the start and end of the application do."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(OwnPageOnly(app)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]
