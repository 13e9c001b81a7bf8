"""Tell MLflow what is new in a workspace: a process beside the stages, and ``nsync deliver``.

One sender serves all runs of a workspace, and ends by itself when none has been under way for a
while. Whatever becomes of it, the artefacts stay: the next sender or ``nsync deliver`` tells of
them. A server that is slow, hangs or is down holds up the sender, and nothing else.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from nsync_pipeline.tracking.destination import Sent, configured_uri, masked, usable_uri
from nsync_pipeline.tracking.live import SWITCH, sender_lock
from nsync_pipeline.tracking.projection import sources
from nsync_pipeline.workspace import Workspace

if TYPE_CHECKING:
    from nsync_pipeline.tracking.server import Server

Connect = Callable[[], "Server"]
"""The server, which is connected to, and mlflow imported, only when there is something to say."""

POLL = 2.0  # seconds between passes
LONGEST_PAUSE = 30.0  # seconds, while the server does not answer
LINGER = 30.0  # seconds after the last run's end: most often the next stage begins meanwhile
NICENESS = 10
PATIENCE = 3  # artefacts in a row that do not get through, before the server is taken to be down


@dataclass(frozen=True)
class Outcome:
    """What one pass did."""

    sent: int  # values, files and pictures
    left: Mapping[str, str]  # the artefacts and runs that did not get through, by folder: why

    @property
    def problem(self) -> str | None:
        """Why the first of them did not."""
        return next(iter(self.left.values()), None)


def deliver(workspace: Workspace, to: str | None = None) -> Outcome:
    """Tell the configured server, or ``to``, all of the workspace that it does not have.

    Raises:
        UserError: it is the address of no server or database.
    """
    uri = configured_uri() if to is None else usable_uri(to)
    # Nothing else waits for it, so a slow server gets its time (seconds).
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    return send(workspace, uri, connected(workspace, uri), only_new=False)


def waiting(workspace: Workspace) -> list[str]:
    """The artefacts and runs, by folder, that the configured server is not known to have."""
    if os.environ.get(SWITCH) == "off":
        return []
    sent = Sent(workspace.tracking, configured_uri())
    return [
        one.key
        for one in sources(workspace)
        if not sent.has(one.experiment, one.key, one.signature())
    ]


def connected(workspace: Workspace, uri: str) -> Connect:
    @cache
    def server() -> "Server":
        from nsync_pipeline.tracking.server import Server

        return Server(workspace.tracking, uri)

    return server


def send(workspace: Workspace, uri: str, server: Connect, only_new: bool = True) -> Outcome:
    """One pass over the workspace; never raises for a server's or an artefact's sake.

    With ``only_new`` the server is not asked about what it is known to have.
    """
    workspace.tracking.mkdir(parents=True, exist_ok=True)
    sent, count, failed = Sent(workspace.tracking, uri), 0, 0
    left: dict[str, str] = {}
    for source in sources(workspace):
        try:
            signature = source.signature()
            if only_new and sent.has(source.experiment, source.key, signature):
                continue
            parts = source.parts()
        except (OSError, ValueError, KeyError) as error:
            left[source.key] = f"{source.folder} is damaged: {error!r}"
            continue
        if failed == PATIENCE:
            left[source.key] = "the server is taken to be down"
            continue
        try:
            # Two processes never tell of the same at once.
            with FileLock(workspace.tracking / "sending.lock").acquire(timeout=60):
                count += sum(server().tell(part) for part in parts)
                token = server().token(source.experiment)
                sent.note(source.experiment, token, source.key, signature)
            failed = 0
        except Exception as error:
            failed += 1
            left[source.key] = masked(" ".join(str(error).split()) or type(error).__name__)
    return Outcome(count, left)


def run_sender(workspace: Workspace, poll: float = POLL, linger: float = LINGER) -> None:
    """Tell what is new until no run has been under way, and nothing got through, for a while."""
    with suppress(Timeout):
        while True:
            with sender_lock(workspace).acquire(timeout=1):
                problem = _tell_meanwhile(workspace, poll, linger)
            # Who had something to tell just before the lock was let go has started no sender.
            if problem or not waiting(workspace):
                return


def _tell_meanwhile(workspace: Workspace, poll: float, linger: float) -> str | None:
    """Pass after pass; gives what kept the last one from telling all."""
    uri = configured_uri()
    server = connected(workspace, uri)
    busy, pause, last = time.monotonic(), poll, None
    while True:
        worked = time.process_time()
        outcome = send(workspace, uri, server)
        if outcome.problem not in (None, last):
            with (workspace.tracking / "sender.log").open("a", encoding="utf-8") as log:
                log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {outcome.problem}\n")
        last = outcome.problem
        pause = poll if last is None else min(2 * pause, LONGEST_PAUSE)
        if outcome.sent or any(one.status == "RUNNING" for one in sources(workspace)):
            busy = time.monotonic()
        left = busy + linger - time.monotonic()
        if left <= 0 or not workspace.tracking.is_dir():
            return last
        # A long history takes time to read: a sixth of a core's at most is spent on it.
        time.sleep(max(min(pause, left), 5 * (time.process_time() - worked)))


if __name__ == "__main__":
    os.nice(NICENESS)
    run_sender(Workspace(Path(sys.argv[1])))
