"""``make ui``: the Dagster and MLflow pages of this workspace, until Ctrl-C."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from nsync_pipeline.tracking.destination import configured_uri, is_remote, resolved_uri
from nsync_pipeline.workspace import Workspace

from .instance import write_home

HOST = "127.0.0.1"
DAGSTER_PORT = 3000
MLFLOW_PORT = 5000
PATIENCE = 20  # seconds a server is given to end by itself


def main() -> int:
    """Start the servers, say where they are, and end all when one ends or on Ctrl-C.

    Where ``MLFLOW_TRACKING_URI`` names a server, that one's page is said instead of starting one.
    """
    uri = configured_uri()
    ports = (DAGSTER_PORT,) if is_remote(uri) else (DAGSTER_PORT, MLFLOW_PORT)
    taken = [port for port in ports if _is_taken(port)]
    if taken:
        print(f"Something already listens on port {taken[0]} of {HOST}: stop it first.")
        return 2
    workspace = Workspace(Path.cwd().resolve())
    servers = [_dagster(workspace)]
    if not is_remote(uri):
        servers.append(_mlflow(workspace, uri))
    print(f"Dagster  http://{HOST}:{DAGSTER_PORT}")
    print(f"MLflow   {uri if is_remote(uri) else f'http://{HOST}:{MLFLOW_PORT}'}")
    print("They need a few seconds to start; Ctrl-C ends them.", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _until_one_ends(servers)
    except KeyboardInterrupt:
        return 0
    finally:
        _end(servers)
    print("A server ended by itself; its last lines above say why.")
    return 1


def _dagster(workspace: Workspace) -> subprocess.Popen[bytes]:
    environment = {"DAGSTER_HOME": os.environ.get("DAGSTER_HOME", str(write_home(workspace)))}
    return _start(
        workspace, environment, "dagster", "dev", "--host", HOST, "--port", str(DAGSTER_PORT)
    )


def _mlflow(workspace: Workspace, uri: str) -> subprocess.Popen[bytes]:
    workspace.tracking.mkdir(parents=True, exist_ok=True)
    store = resolved_uri(uri, workspace.tracking)
    # The job workers that this server would start take a gigabyte, and nothing here uses them.
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    arguments = ["server", "--host", HOST, "--port", str(MLFLOW_PORT)]
    arguments += ["--backend-store-uri", store, "--workers", "1"]
    arguments += ["--default-artifact-root", str(workspace.tracking / "artifacts")]
    return _start(workspace, environment, "mlflow", *arguments)


def _start(
    workspace: Workspace, environment: dict[str, str], program: str, *arguments: str
) -> subprocess.Popen[bytes]:
    beside = Path(sys.executable).parent
    path = f"{beside}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.Popen(
        [str(beside / program), *arguments],
        cwd=workspace.root,
        env={**os.environ, "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true", **environment},
    )


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _until_one_ends(servers: list[subprocess.Popen[bytes]]) -> None:
    while all(server.poll() is None for server in servers):
        try:
            servers[0].wait(timeout=1)
        except subprocess.TimeoutExpired:
            continue


def _end(servers: list[subprocess.Popen[bytes]]) -> None:
    for server in servers:
        server.terminate()
    for server in servers:
        try:
            server.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()


if __name__ == "__main__":
    sys.exit(main())
