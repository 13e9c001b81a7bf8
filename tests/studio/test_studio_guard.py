"""Who may talk to the studio."""

from urllib.parse import quote

import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from nsync_pipeline.studio.app import make_app
from nsync_pipeline.workspace import Workspace
from tests.support.studio import BASE, TOKEN


@pytest.fixture
def stranger(workspace: Workspace) -> TestClient:
    return TestClient(make_app(workspace, TOKEN), base_url=BASE, follow_redirects=False)


@pytest.mark.parametrize("path", ["/", "/styles/hills/pictures", "/static/studio.css", "/nothing"])
def test_without_the_link_nothing_is_shown(stranger: TestClient, path: str) -> None:
    answer = stranger.get(path)
    assert answer.status_code == 403
    assert "nsync studio" in answer.text
    assert stranger.get(f"{path}?token=another").status_code == 403


def test_the_link_opens_the_page_and_leaves_the_address(stranger: TestClient) -> None:
    entered = stranger.get(f"/?token={TOKEN}")
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert stranger.get("/").status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example:4321", "evil.example:4321", "192.168.0.2", "", "[::1",
     "evil.example@localhost", "evil.example\\@127.0.0.1", "localhost:1:2"],
)  # fmt: skip
def test_another_name_is_not_answered(studio: TestClient, host: str) -> None:
    """A page of another name that resolves to this machine (DNS rebinding) gets nothing."""
    assert studio.get("/", headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("host", ["127.0.0.1:4321", "localhost:9", "localhost", "LOCALHOST:80"])
def test_the_machines_own_names_are(studio: TestClient, host: str) -> None:
    assert studio.get("/job", headers={"Host": host}).status_code in (200, 403)


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://127.0.0.1:8888", f"{BASE}.evil.example"]
)
def test_changes_come_from_the_studios_own_pages_only(
    studio: TestClient, workspace: Workspace, origin: str | None
) -> None:
    before = workspace.params_file.read_bytes()
    del studio.headers["origin"]
    headers = {} if origin is None else {"Origin": origin}
    form = {"name": "d.png", "do": "exclude"}
    answer = studio.post("/styles/hills/pictures", data=form, headers=headers)
    assert answer.status_code == 403
    assert studio.put("/upload/0123456789abcdef/x.png", content=b"x", headers=headers).is_error
    assert workspace.params_file.read_bytes() == before
    assert not (workspace.state / "studio" / "incoming").exists()
    assert studio.post(f"/stop?token={TOKEN}", headers=headers).status_code == 403


def test_a_token_kept_in_the_workspace_is_this_users_alone(workspace: Workspace) -> None:
    from nsync_pipeline.studio.server import _kept_token

    file = workspace.state / "studio" / "token"
    token = _kept_token(file)
    assert len(token) > 30
    assert _kept_token(file) == token
    assert file.stat().st_mode & 0o077 == 0


def test_what_pages_may_load_is_their_own(studio: TestClient) -> None:
    policy = studio.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy


@pytest.mark.parametrize("style", ["nothing", "..", "hills;x"])
def test_no_address_answers_for_a_style_that_is_not_there(studio: TestClient, style: str) -> None:
    app = studio.app
    assert isinstance(app, Starlette)
    asked = [
        (method, route.path.replace("{style}", quote(style, safe="")))
        for route in app.routes
        if isinstance(route, Route) and "{style}" in route.path
        for method in (route.methods or set()) - {"HEAD"}
    ]
    assert len(asked) > 30
    for method, path in asked:
        answer = studio.request(method, path.replace("/../", "/%2e%2e/"))
        assert answer.status_code in (400, 404), path
        assert "is not in params.yaml" in answer.text or answer.status_code == 404
