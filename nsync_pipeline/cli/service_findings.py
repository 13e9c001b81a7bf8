"""The doctor on what keeps records: DVC, MLflow, Dagster."""

import configparser
import os
import re
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from nsync_pipeline.artifacts import Workspace
from nsync_pipeline.cli.findings import Finding, State
from nsync_pipeline.tracking.destination import OWN, configured_uri, is_remote
from nsync_pipeline.tracking.sweep import events_left

ANSWER_WITHIN = 1.0  # seconds


def service_findings(workspace: Workspace) -> Iterator[Finding]:
    yield _dvc(workspace)
    yield _mlflow()
    yield from _spool(workspace)
    if find_spec("dagster") is not None:
        yield _dagster(workspace)


def _dvc(workspace: Workspace) -> Finding:
    config = workspace.root / ".dvc" / "config"
    if not config.parent.is_dir():
        advice = "git init && dvc init; `nsync run` works without"
        return Finding(State.WARN, "DVC", f"{workspace.root} is no DVC repository", advice)
    parser = configparser.ConfigParser()
    parser.read([config, config.with_name("config.local")])
    remotes = re.findall(r'remote "(.+?)"', " ".join(parser.sections()))
    if not remotes:
        advice = "dvc remote add -d <name> <url>, to share artefacts"
        return Finding(State.OK, "DVC", "repository without a remote", advice)
    return Finding(State.OK, "DVC", f"remote {', '.join(remotes)}")


def _mlflow() -> Finding:
    uri = configured_uri()
    if uri == OWN:
        return Finding(State.OK, "MLflow", "the workspace's own store")
    parts = urlsplit(uri)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # no password
    if is_remote(uri) and not _answers(parts.hostname or "", parts.port or _default_port(uri)):
        advice = "nothing is lost: `nsync deliver` sends it when the server answers"
        return Finding(State.WARN, "MLflow", f"{shown} does not answer", advice)
    return Finding(State.OK, "MLflow", f"{shown} (MLFLOW_TRACKING_URI)")


def _default_port(uri: str) -> int:
    return 443 if uri.startswith("https") else 80


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=ANSWER_WITHIN).close()
    except OSError:
        return False
    return True


def _spool(workspace: Workspace) -> Iterator[Finding]:
    left = events_left(workspace.tracking)
    refused = workspace.tracking / "refused.jsonl"
    if left:
        advice = "nsync deliver; a run that goes on delivers by itself"
        yield Finding(State.WARN, "MLflow", f"{left} events not delivered yet", advice)
    if refused.is_file():
        advice = f"MLflow refused them; {refused} says why, and can be deleted"
        lines = len(refused.read_text(encoding="utf-8").splitlines())
        yield Finding(State.WARN, "MLflow", f"{lines} events refused", advice)


def _dagster(workspace: Workspace) -> Finding:
    home = os.environ.get("DAGSTER_HOME") or _from_dotenv(workspace.root / ".env")
    if not home:
        advice = "make setup writes it to .env; without it Dagster forgets its history"
        return Finding(State.WARN, "Dagster", "DAGSTER_HOME is not set", advice)
    if not (Path(home) / "dagster.yaml").is_file():
        advice = "make setup writes it: run monitoring, the gpu pool, telemetry off"
        return Finding(State.WARN, "Dagster", f"{home} has no dagster.yaml", advice)
    return Finding(State.OK, "Dagster", f"home {home}")


def _from_dotenv(path: Path) -> str:
    if not path.is_file():
        return ""
    found = re.search(r"^\s*DAGSTER_HOME\s*=\s*(.+?)\s*$", path.read_text(encoding="utf-8"), re.M)
    return found[1].strip("'\"") if found else ""
