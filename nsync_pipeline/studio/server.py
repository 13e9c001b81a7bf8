"""``nsync studio``: the page's server on this machine, and the link that opens it."""

import os
import secrets
import socket
import sys
import webbrowser
from contextlib import suppress
from pathlib import Path

import uvicorn

from nsync_pipeline.errors import UserError
from nsync_pipeline.files import write_whole
from nsync_pipeline.graph.run import require_own_engine
from nsync_pipeline.studio.app import make_app
from nsync_pipeline.studio.guard import TOKEN
from nsync_pipeline.workspace import Workspace

HOST = "127.0.0.1"


def serve(workspace: Workspace, port: int | None, open_browser: bool) -> None:
    """Serve the studio of ``workspace`` until Ctrl-C; what it has started goes on.

    Raises:
        UserError: the port that was asked for is taken, or the checkout is another engine's.
    """
    require_own_engine(workspace)
    folder = workspace.state / "studio"
    token = _kept_token(folder / "token")
    listening = _listen(port, folder / "port")
    link = f"http://{HOST}:{listening.getsockname()[1]}/?{TOKEN}={token}"
    print(f"The studio of {workspace.root}:\n\n    {link}\n\nCtrl-C ends it; trainings go on.")
    if open_browser and _has_screen():
        with suppress(webbrowser.Error):
            webbrowser.open(link)
    config = uvicorn.Config(
        make_app(workspace, token), log_level="warning", lifespan="off", timeout_graceful_shutdown=2
    )
    uvicorn.Server(config).run(sockets=[listening])


def _has_screen() -> bool:
    """Else a browser in the terminal would be opened, and hold it."""
    named = (os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME"))
    return sys.platform == "darwin" or any(named)


def _kept_token(file: Path) -> str:
    """The workspace's own, so that a page stays open over a restart; for this user's eyes only."""
    try:
        token = file.read_text(encoding="ascii").strip()
        if len(token) > 30:
            return token
    except (OSError, UnicodeDecodeError):
        pass
    token = secrets.token_urlsafe(32)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(token, encoding="ascii")
    return token


def _listen(asked: int | None, kept: Path) -> socket.socket:
    """A socket on the port asked for; else on that of last time, or on one that is free."""
    before = kept.read_text(encoding="ascii") if kept.is_file() else ""
    ports = [asked] if asked else [int(before), 0] if before.isdigit() else [0]
    for port in ports:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except OSError:
            listening.close()
            continue
        listening.listen(128)
        write_whole(kept, str(listening.getsockname()[1]))
        return listening
    raise UserError(f"port {asked} of {HOST} is taken: name another, or none for a free one")
