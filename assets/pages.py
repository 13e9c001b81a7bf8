"""``make ui``: the Dagster and MLflow pages of this workspace, until Ctrl-C."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from nsync_pipeline.errors import UserError
from nsync_pipeline.graph.processes import die_with_parent
from nsync_pipeline.tracking.destination import configured_uri, is_remote, masked, resolved_uri
from nsync_pipeline.workspace import Workspace

from .daemon import end, environment_of, start_daemon

HOST = "127.0.0.1"
DAGSTER_PORT = 3000
MLFLOW_PORT = 5000
LOOK_EVERY = 1.0  # seconds


def main() -> int:
    """Start the servers, say where they are, and end all when one ends or on Ctrl-C.

    Where ``MLFLOW_TRACKING_URI`` names a server, that one's page is said instead of starting one.
    """
    try:
        uri = configured_uri()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    ports = (DAGSTER_PORT,) if is_remote(uri) else (DAGSTER_PORT, MLFLOW_PORT)
    taken = [port for port in ports if _is_taken(port)]
    if taken:
        print(f"Something already listens on port {taken[0]} of {HOST}: stop it first.")
        return 2
    workspace = Workspace(Path.cwd().resolve())
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ExitStack() as until_end:
            servers = [_dagster(workspace, until_end)]
            if not is_remote(uri):
                servers.append(_mlflow(workspace, uri, until_end))
            print(f"Dagster  http://{HOST}:{DAGSTER_PORT}")
            print(f"MLflow   {masked(uri) if is_remote(uri) else f'http://{HOST}:{MLFLOW_PORT}'}")
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


def _dagster(workspace: Workspace, until_end: ExitStack) -> "subprocess.Popen[bytes]":
    arguments = ["-w", "workspace.yaml", "--host", HOST, "--port", str(DAGSTER_PORT)]
    arguments += ["--log-level", "warning", "--dagster-log-level", "warning"]
    return _start(workspace, until_end, {}, "dagster-webserver", *arguments)


def _mlflow(workspace: Workspace, uri: str, until_end: ExitStack) -> "subprocess.Popen[bytes]":
    workspace.tracking.mkdir(parents=True, exist_ok=True)
    store = resolved_uri(uri, workspace.tracking)
    # The job workers that this server would start take a gigabyte, and nothing here uses them.
    own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    own["MLFLOW_BACKEND_STORE_URI"] = store  # as an argument everybody would see its password
    arguments = ["server", "--host", HOST, "--port", str(MLFLOW_PORT), "--workers", "1"]
    arguments += ["--default-artifact-root", str(workspace.tracking / "artifacts")]
    return _start(workspace, until_end, own, "mlflow", *arguments)


def _start(
    workspace: Workspace,
    until_end: ExitStack,
    own: Mapping[str, str],
    program: str,
    *arguments: str,
) -> "subprocess.Popen[bytes]":
    server = subprocess.Popen(
        [str(Path(sys.executable).with_name(program)), *arguments],
        cwd=workspace.root,
        env={**environment_of(workspace), **own},
        preexec_fn=die_with_parent,
    )
    until_end.callback(end, server)
    return server


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


if __name__ == "__main__":
    sys.exit(main())
