"""``nsync ui``: both addresses, one daemon, and nothing left when it ends."""

import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from assets import pages
from nsync_pipeline.graph.locks import sole_writer
from nsync_pipeline.tracking.destination import OWN
from nsync_pipeline.workspace import Workspace
from tests.support.demo_workspace import make_demo_workspace, processes_of

PAGES = """\
import sys
from assets import pages
pages.DAGSTER_PORT, pages.MLFLOW_PORT = map(int, sys.argv[1:])
sys.exit(pages.main())
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind((pages.HOST, 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{pages.HOST}:{port}/", timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.pipeline
@pytest.mark.timeout(600)
def test_pages_are_served_and_end_with_all_they_started(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    fake = make_demo_workspace(tmp_path)
    dagster, mlflow = free_ports(2)
    with sole_writer(fake.workspace.lock("dagster-daemon"), "a demo's daemon"):
        process = subprocess.Popen(
            [sys.executable, "-c", PAGES, str(dagster), str(mlflow)], cwd=fake.root, text=True,
            env=fake.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        request.addfinalizer(process.kill)
        limit = time.monotonic() + 300
        while not (answers(dagster) and answers(mlflow)):
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(1)
        commands = " ".join(processes_of(fake).values())
        assert "dagster-daemon" not in commands  # the demo has one
    while "dagster-daemon run" not in " ".join(processes_of(fake).values()):
        assert time.monotonic() < limit
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 0
    assert f"Dagster  http://{pages.HOST}:{dagster}\n" in said
    assert f"MLflow   http://{pages.HOST}:{mlflow}" in said
    limit = time.monotonic() + 60  # code servers end when they are asked nothing any more
    while processes_of(fake):
        assert time.monotonic() < limit, processes_of(fake)
        time.sleep(0.5)


def test_taken_port_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind((pages.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < pages._free(port) <= port + pages.TRIED


def test_printed_links_are_of_the_runs_of_each_style(place: Workspace) -> None:
    address = "http://127.0.0.1:5000"
    assert list(pages.mlflow_links(place, OWN, address)) == [address]
    place.tracking.mkdir(parents=True)
    with closing(sqlite3.connect(place.tracking / "mlflow.db")) as store, store:
        store.execute("CREATE TABLE experiments (name TEXT, experiment_id INTEGER)")
        store.execute("INSERT INTO experiments VALUES ('nsync/ink', 7), ('nsync/oil', 8)")
    (link,) = pages.mlflow_links(place, OWN, address)
    assert link == f"{address}/#/experiments/7/runs?workflowType=machine_learning  (ink)"
    assert list(pages.mlflow_links(place, "http://mlflow:80", "http://mlflow:80")) == [
        "http://mlflow:80"
    ]
