"""A Ray cluster on this machine: a head that runs nothing, and nodes of one core each.

All its processes end with the block, and with this process, however that ends.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import requests

from nsync_pipeline.graph.processes import die_with_parent

JOB = "nsync_pipeline.graph.remote.job"


@dataclass(frozen=True)
class Node:
    """What ``ray start --block`` holds together."""

    process: subprocess.Popen[bytes]

    def runs_job(self) -> bool:
        return any(JOB in " ".join(_command(child)) for child in self._children())

    def kill(self) -> None:
        """As a power cut would: nothing of the node's own can say goodbye."""
        for child in self._children():
            if _command(child)[:1] and Path(_command(child)[0]).name == "raylet":
                os.kill(child.pid, signal.SIGKILL)

    def _children(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


@dataclass(frozen=True)
class RayNodes:
    """The cluster: where it is, the nodes that run jobs, and what lets one in."""

    address: str
    nodes: tuple[Node, ...]
    environment: Mapping[str, str]


@contextmanager
def ray_nodes(count: int, environment: Mapping[str, str]) -> Iterator[RayNodes]:
    """``environment`` is what the jobs run in."""
    # A socket's path may have 107 characters: the folders of tests are too deep.
    temporary = tempfile.mkdtemp(prefix="ray-")
    only_us = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = {**environment, **only_us, "RAY_USAGE_STATS_ENABLED": "0"}
    port, dashboard, client, *agents = _free_ports(4 + count)
    head = [
        "--head", f"--port={port}", "--num-cpus=0", f"--temp-dir={temporary}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={client}",
    ]  # fmt: skip
    started: list[subprocess.Popen[bytes]] = []
    start = partial(_start, environment, Path(temporary), started)
    try:
        start(head, agents[0])
        _until_open(port)
        _until_open(dashboard)
        address = f"http://127.0.0.1:{dashboard}"
        nodes = []
        for there, agent in enumerate(agents[1:], start=1):  # at once, they get in each other's way
            _until(lambda: _alive(address, only_us["RAY_AUTH_TOKEN"]) == there)  # noqa: B023
            nodes.append(start([f"--address=127.0.0.1:{port}", "--num-cpus=1"], agent))
        _until(lambda: _alive(address, only_us["RAY_AUTH_TOKEN"]) == 1 + count)
        yield RayNodes(address, tuple(map(Node, nodes)), only_us)
    finally:
        _end(started)
        shutil.rmtree(temporary, ignore_errors=True)


def _start(
    environment: Mapping[str, str],
    temporary: Path,
    started: list[subprocess.Popen[bytes]],
    how: Sequence[str],
    agent_port: int,
) -> subprocess.Popen[bytes]:
    own = [f"--dashboard-agent-listen-port={agent_port}", "--object-store-memory=100000000"]
    ray = str(Path(sys.executable).with_name("ray"))
    log = (temporary / f"node-{len(started)}.log").open("wb")
    process = subprocess.Popen(
        [ray, "start", "--block", "--node-ip-address=127.0.0.1", "--num-gpus=0", *how, *own],
        env=environment, cwd=temporary, stdout=log, stderr=subprocess.STDOUT,
        preexec_fn=partial(die_with_parent, signal.SIGTERM),
    )  # fmt: skip
    started.append(process)
    return process


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    """End what was started, and what that started, the head last."""
    children = []
    for process in started:
        if psutil.pid_exists(process.pid):
            children += psutil.Process(process.pid).children(recursive=True)
    for process in reversed(started):
        process.terminate()
    for process in started:
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for child in children:
        try:
            child.kill()  # psutil: only where it is still the same process
        except psutil.NoSuchProcess:
            continue


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _until_open(port: int) -> None:
    def is_open() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            return False
        return True

    _until(is_open)


def _alive(address: str, token: str) -> int:
    """How many nodes there are."""
    try:
        headers = {"Authorization": f"Bearer {token}"}
        said = requests.get(f"{address}/api/v0/nodes", headers=headers, timeout=10).json()
        return sum(node["state"] == "ALIVE" for node in said["data"]["result"]["result"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + 300
    while not true():
        assert time.monotonic() < limit, "Ray did not start"
        time.sleep(0.5)
