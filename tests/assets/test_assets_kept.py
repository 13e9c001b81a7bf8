"""What a server starts ends with who started the server, and its port is free again."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SERVER = """\
import socket, subprocess, sys, time
if len(sys.argv) > 2:
    held = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    print("listening", flush=True)
    time.sleep(300)
subprocess.run([sys.executable, __file__, sys.argv[1], "worker"])
"""
STARTER = """\
import subprocess, sys
subprocess.Popen([sys.executable, "-m", "assets.kept", *sys.argv[1:]]).wait()
"""


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.05)


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of a parent's end on Linux")
@pytest.mark.parametrize("killed", ["who started it", "it is asked to end", "the server alone"])
def test_no_process_keeps_the_port(tmp_path: Path, killed: str) -> None:
    """A server whose worker listens, as MLflow's does."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = tmp_path / "server.py"
    program.write_text(SERVER)
    command = [sys.executable, "-c", STARTER, sys.executable, str(program), str(port)]
    starter = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "listening\n"
        assert is_taken(port)
        children = Path(f"/proc/{starter.pid}/task/{starter.pid}/children")
        kept = int(children.read_text())
        server = int(Path(f"/proc/{kept}/task/{kept}/children").read_text())
        if killed == "who started it":
            starter.kill()
        else:
            number = signal.SIGTERM if killed == "it is asked to end" else signal.SIGKILL
            os.kill(kept if killed == "it is asked to end" else server, number)
        until(lambda: not is_taken(port))
        until(lambda: not Path(f"/proc/{kept}").exists())
    finally:
        starter.kill()
        starter.wait()
