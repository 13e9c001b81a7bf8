"""The part of the hub's API that an upload talks to, on this machine."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN, OWNER = "hf_of_the_tests", "painter"


@dataclass
class Hub:
    """Its repositories: what is in them, and whether they are private."""

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    uri: str = ""


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"

    def do_HEAD(self) -> None:
        repo, _, file = self.path.strip("/").partition("/resolve/main/")
        there = file in self.server.hub.files.get(repo, {})
        self._answer(
            200 if there else 404, headers={} if there else {"X-Error-Code": "EntryNotFound"}
        )

    def do_POST(self) -> None:
        hub, path = self.server.hub, self.path.strip("/")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid credentials"})
        elif path == "api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization') or OWNER}/{asked['name']}"
            if not repo.startswith(f"{OWNER}/"):
                self._answer(403, {"error": "You don't have the rights to create a model there"})
            elif repo in hub.files:
                self._answer(409, {"error": "You already created this model repo"})
            else:
                hub.files[repo], hub.private[repo] = {}, asked.get("visibility") == "private"
                self._answer(200, {"url": f"{hub.uri}/{repo}", "name": repo})
        elif path == "api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            sent = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in sent
            ]
            self._answer(200, {"files": modes})
        elif path.endswith("/commit/main"):
            repo = path.removeprefix("api/models/").removesuffix("/commit/main")
            for line in map(json.loads, body.decode().splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    hub.files[repo][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "header":
                    hub.commits.append(value["summary"])
            oid = f"{len(hub.commits):040x}"
            url = f"{hub.uri}/{repo}/commit/{oid}"
            self._answer(200, {"success": True, "commitOid": oid, "commitUrl": url})
        else:
            self._answer(404, {"error": f"the fake hub has no {path}"})

    def _answer(
        self, status: int, content: Any = None, headers: dict[str, str] | None = None
    ) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        if self.command == "HEAD" and status == 200:
            self.send_header("ETag", '"1"')
            self.send_header("X-Repo-Commit", "1" * 40)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    hub: Hub


@contextmanager
def fake_hub() -> Iterator[Hub]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = Hub(uri=f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
