"""A real MLflow server, and a proxy in front of it that can be slow, silent, angry or away."""

import http.client
import os
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import create_server
from typing import Any


def free_port() -> int:
    with create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class MlflowServer:
    """``mlflow server`` with its database and files in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
            "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}",
            "--artifacts-destination", str(self._folder / "artifacts"),
        ]  # fmt: skip
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        log_file = self._folder / "server.log"
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env={**os.environ, **quiet}, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 240
        while True:
            with suppress(OSError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=1).close()
                return
            assert self._process.poll() is None, log_file.read_text()
            assert time.monotonic() < deadline, log_file.read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=60)


class Proxy(ThreadingHTTPServer):
    """Hands requests on to the server ``behind`` it, in the way that ``mood`` says."""

    def __init__(self, behind: MlflowServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = behind.port
        self.mood = "well"  # or slow, hangs, gone, forgets to answer, done but 500, 401, 500
        self.writes = 0  # requests that change something, so far
        self.falls_ill: tuple[int, str] | None = None  # after so many writes: the next mood
        self.released = threading.Event()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def _hand_on(self) -> None:
        proxy = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        writes = self.command == "PUT" or "log-batch" in self.path or "runs/create" in self.path
        proxy.writes += writes
        if proxy.falls_ill and proxy.writes > proxy.falls_ill[0]:
            proxy.mood, proxy.falls_ill = proxy.falls_ill[1], None
        if proxy.mood == "hangs":
            proxy.released.wait(60)
        if proxy.mood in ("hangs", "gone"):
            self.close_connection = True
            return
        if proxy.mood == "slow":
            time.sleep(0.1)
        if proxy.mood in ("401", "500"):
            self._answer(int(proxy.mood), {}, b"no")
            return
        behind = http.client.HTTPConnection("127.0.0.1", proxy.behind, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
        try:
            behind.request(self.command, self.path, body, headers)
            answer = behind.getresponse()
            content = answer.read()
        except OSError:  # it is being started again
            self.close_connection = True
            return
        if proxy.mood == "forgets to answer":  # it has done what was asked
            self.close_connection = True
            return
        if proxy.mood == "done but 500":
            self._answer(500, {}, b"no")
            return
        kind = {"Content-Type": answer.headers.get("Content-Type", "application/json")}
        self._answer(answer.status, kind, content)

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        with suppress(OSError):  # the other end may have been killed
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None: ...

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _hand_on  # noqa: N815
