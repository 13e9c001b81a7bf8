"""``make ui``: the Dagster and MLflow pages of this workspace, until Ctrl-C."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from nsync_pipeline.errors import ParamsError, UserError
from nsync_pipeline.graph.processes import ENDS_WITH_PARENT, die_with_parent
from nsync_pipeline.params import read_params
from nsync_pipeline.terminal import only_shown
from nsync_pipeline.tracking.destination import OWN, configured_uri, is_remote, masked, resolved_uri
from nsync_pipeline.tracking.projection import experiment_of
from nsync_pipeline.workspace import Workspace

from .daemon import end, environment_of, kept, start_daemon

HOST = "127.0.0.1"
DAGSTER_PORT = 3000
MLFLOW_PORT = 5000
TRIED = 20  # ports, where the first is taken
RUNS = "runs?workflowType=machine_learning"  # else MLflow shows its menu for agents
LINKS = 5  # of styles
LOOK_EVERY = 1.0  # seconds


def main() -> int:
    """Start the servers, say where they are, and end all when one ends or on Ctrl-C.

    Where ``MLFLOW_TRACKING_URI`` names a server, that one's page is said instead of starting one.
    """
    try:
        uri = configured_uri()
        dagster, mlflow = _free(DAGSTER_PORT), _free(MLFLOW_PORT)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if os.environ.pop(ENDS_WITH_PARENT, None):  # for this process; it ends the servers itself
        die_with_parent()
    workspace = Workspace(Path.cwd().resolve())
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ExitStack() as until_end:
            servers = [_dagster(workspace, dagster, until_end)]
            page = masked(uri) if is_remote(uri) else f"http://{HOST}:{mlflow}"
            if not is_remote(uri):
                servers.append(_mlflow(workspace, uri, mlflow, until_end))
            print(f"Dagster  http://{HOST}:{dagster}")
            for line in mlflow_links(workspace, uri, page):
                print(f"MLflow   {line}")
            print("They need a few seconds to start; Ctrl-C ends them.", flush=True)
            _until_one_ends(workspace, servers, until_end)
    except KeyboardInterrupt:
        return 0
    print("A server ended by itself; its last lines above say why.")
    return 1


def _until_one_ends(
    workspace: Workspace, servers: "list[subprocess.Popen[bytes]]", until_end: ExitStack
) -> None:
    daemon = None
    while all(server.poll() is None for server in servers):
        if daemon is None and (daemon := start_daemon(workspace, until_end)) is not None:
            servers.append(daemon)  # at once, or when the demo that had one has ended
        time.sleep(LOOK_EVERY)


def mlflow_links(workspace: Workspace, uri: str, page: str) -> Iterator[str]:
    """Where the runs of each style are, of the own store; else MLflow's page."""
    with suppress(ParamsError, sqlite3.Error):
        styles = read_params(workspace.params_file).styles if uri == OWN else ()
        database = f"file:{workspace.tracking / 'mlflow.db'}?mode=ro"
        with closing(sqlite3.connect(database, uri=True)) as store:
            known = dict(store.execute("SELECT name, experiment_id FROM experiments"))
        found = [(style, known.get(experiment_of(workspace, style))) for style in styles]
        links = [f"{page}/#/experiments/{of}/{RUNS}  ({style})" for style, of in found if of]
        if links:
            yield from links[:LINKS]
            return
    yield page


def _dagster(workspace: Workspace, port: int, until_end: ExitStack) -> "subprocess.Popen[bytes]":
    arguments = ["-w", "workspace.yaml", "--host", HOST, "--port", str(port)]
    arguments += ["--log-level", "warning", "--dagster-log-level", "warning"]
    command = [sys.executable, "-m", f"{__package__}.webserver", *arguments]
    return _start(workspace, until_end, {}, *command)


def _mlflow(
    workspace: Workspace, uri: str, port: int, until_end: ExitStack
) -> "subprocess.Popen[bytes]":
    workspace.tracking.mkdir(parents=True, exist_ok=True)
    store = resolved_uri(uri, workspace.tracking)
    # The job workers that this server would start take a gigabyte, and nothing here uses them.
    own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    own["MLFLOW_BACKEND_STORE_URI"] = store  # as an argument everybody would see its password
    arguments = ["server", "--host", HOST, "--port", str(port), "--workers", "1"]
    arguments += ["--default-artifact-root", str(workspace.tracking / "artifacts")]
    program = str(Path(sys.executable).with_name("mlflow"))
    return _start(workspace, until_end, own, program, *arguments)


def _start(
    workspace: Workspace,
    until_end: ExitStack,
    own: Mapping[str, str],
    *command: str,
) -> "subprocess.Popen[bytes]":
    server = subprocess.Popen(
        kept(*command), cwd=workspace.root, env={**environment_of(workspace), **own}
    )
    until_end.callback(end, server)
    return server


def _free(port: int) -> int:
    """The first port from ``port`` on that nothing listens on."""
    for other in range(port, port + TRIED):
        with socket.socket() as probe:
            if probe.connect_ex((HOST, other)) != 0:
                return other
    raise UserError(f"something listens on each of the ports {port} to {port + TRIED - 1}")


if __name__ == "__main__":
    with only_shown():
        sys.exit(main())
