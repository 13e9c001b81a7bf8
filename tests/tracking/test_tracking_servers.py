"""Servers that answer, that are dead, and that accept and hang: real ones, on real sockets."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from nsync_pipeline.tracking import courier
from nsync_pipeline.tracking.hand_over import hand_over
from nsync_pipeline.tracking.run_log import LAST_WAIT, RunIdentity, open_run_log
from nsync_pipeline.tracking.spool import spool_files, undelivered
from nsync_pipeline.workspace import LORA_FILE, Workspace

RUN = RunIdentity("training", "ink", "nsync", "sketchbook", "inputs", 0, "orthogonal")


@pytest.fixture(autouse=True)
def no_courier_left() -> Iterator[None]:
    yield
    for process in courier._started:
        process.terminate()


def test_the_courier_ends_by_itself_when_no_run_is_alive(tmp_path: Path) -> None:
    began = time.monotonic()
    courier.run_courier(tmp_path, "", poll=0.05, linger=0.3)

    assert 0.3 <= time.monotonic() - began < 3


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def hanging_server() -> Iterator[str]:
    """Accepts connections, reads what is sent, and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    uri = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **quiet}, stdout=log, stderr=log
        )
    try:
        for _ in range(600):
            with suppress(OSError):
                urllib.request.urlopen(f"{uri}/health", timeout=1).close()
                break
            assert server.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.1)
        yield uri
    finally:
        server.terminate()
        server.wait(timeout=30)


def train(workspace: Workspace) -> float:
    """A training of 120 steps of no work; gives the seconds its slowest step took."""
    slowest = 0.0
    with open_run_log(workspace, RUN, {"seed": 0}) as log:
        for step in range(1, 121):
            began = time.perf_counter()
            log.metrics({f"loss_{i}": 1.0 for i in range(12)}, step)
            slowest = max(slowest, time.perf_counter() - began)
        model = workspace.model("ink", "nsync", 0)
        model.mkdir(parents=True)
        (model / LORA_FILE).write_text("a lora")
    return slowest


@pytest.mark.timeout(300)
def test_a_hanging_server_costs_a_short_wait_and_gets_everything_when_it_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path / "workspace")
    with hanging_server() as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        began = time.monotonic()
        slowest = train(workspace)
        whole = time.monotonic() - began
    spool = workspace.tracking / "spool"

    assert slowest < 0.5
    assert whole < LAST_WAIT + 5
    assert undelivered(spool) == 120 + 3  # steps; params, artefact, status

    with mlflow_server(tmp_path, int(uri.rpartition(":")[2])):
        outcome = hand_over(workspace.tracking)
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("nsync/ink")
        (run,) = client.search_runs([experiment.experiment_id])
        history = client.get_metric_history(run.info.run_id, "loss/0")

    assert outcome.problems == {}
    assert [metric.step for metric in history] == list(range(1, 121))
    assert run.info.status == "FINISHED"
    assert spool_files(spool) == []


@pytest.mark.timeout(300)
def test_a_dead_server_costs_a_short_wait_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path / "workspace")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    began = time.monotonic()
    slowest = train(workspace)

    assert slowest < 0.5
    assert time.monotonic() - began < LAST_WAIT + 5
    assert undelivered(workspace.tracking / "spool") == 120 + 3


@pytest.mark.timeout(300)
def test_the_courier_delivers_though_the_run_has_ended(tmp_path: Path) -> None:
    """Through the real courier process, into the workspace's own store."""
    workspace = Workspace(tmp_path)
    writer = [sys.executable, "-c", WRITE_FOR_A_WHILE, str(tmp_path)]
    subprocess.run(writer, check=True, timeout=60, env=clean_environment())
    deadline = time.monotonic() + 60
    while undelivered(workspace.tracking / "spool") and time.monotonic() < deadline:
        time.sleep(0.2)

    assert undelivered(workspace.tracking / "spool") == 0
    assert (workspace.tracking / "mlflow.db").is_file()


WRITE_FOR_A_WHILE = """
import sys, time
from pathlib import Path
from nsync_pipeline.workspace import Workspace
from nsync_pipeline.tracking.run_log import RunIdentity, open_run_log
with open_run_log(Workspace(Path(sys.argv[1])), RunIdentity(
    "training", "ink", "nsync", "sketchbook", "inputs"), {"seed": 0}) as log:
    log.metrics({"loss_positive": 0.5}, 1)
"""


def clean_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "NSYNC_"))}
