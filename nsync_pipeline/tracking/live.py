"""The record of a run under way, and the start of the process that tells MLflow of it.

This is all of tracking that a stage's process touches: small local files, no mlflow, no server.
"""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nsync_pipeline.errors import UserError
from nsync_pipeline.files import write_whole
from nsync_pipeline.tracking.destination import configured_uri
from nsync_pipeline.workspace import Workspace

logger = logging.getLogger(__name__)

SWITCH = "NSYNC_TRACKING"
"""In the environment: ``off`` records and sends nothing; ``later`` leaves the sending to
``nsync deliver``, for machines that reach no server."""

RUN_FILE = "run.json"
OPENS_A_RUN = ("training", "evaluation")
"""The stages whose MLflow run is there before their artefact is."""

Said = Mapping[str, Any]
"""What a ``made.json`` says, or a ``run.json``: the same of an artefact that is being made."""

_started: dict[Path, subprocess.Popen[bytes]] = {}  # the sender this process started, by root


@contextmanager
def recorded(workspace: Workspace, plan: Said, tags: Mapping[str, str]) -> Iterator[None]:
    """Around the making of an artefact, until it is in its place; never raises of its own.

    Args:
        workspace: of the ablation, where the artefact is one of it.
        plan: what ``made.json`` will say, without content, figures and previews.
        tags: more for its MLflow run, such as ``dagster.run_id``.
    """
    try:
        configured_uri()
    except UserError as error:
        logger.warning("%s", error)
    if os.environ.get(SWITCH) == "off" or plan["stage"] not in OPENS_A_RUN:
        yield
        notify(workspace)
        return
    folder, lock = live_folder(workspace, plan), _life(workspace, plan)
    with suppress(OSError, Timeout):  # the sender tries it for an instant now and then
        lock.acquire(timeout=5)
    of_dvc = {"dvc.stage": os.environ["DVC_STAGE"]} if "DVC_STAGE" in os.environ else {}
    record = {**plan, "started": now(), "tags": {**of_dvc, **tags}}
    last = read_said(folder / RUN_FILE)
    if last and last.get("status") != "FINISHED" and made_of(last) == made_of(plan):
        record["started"] = last["started"]  # it was interrupted, and goes on
    else:
        shutil.rmtree(folder, ignore_errors=True)
    _write(folder, record)
    notify(workspace)
    try:
        yield
        record["status"] = "FINISHED"
    except Exception as error:
        record["status"] = "FAILED"
        record["tags"]["error"] = f"{type(error).__name__}: {error}"[:500]
        raise
    except BaseException:  # KeyboardInterrupt, SystemExit
        record["status"] = "KILLED"
        raise
    finally:
        _write(folder, {**record, "ended": now()})
        lock.release()
        notify(workspace)


def notify(workspace: Workspace) -> None:
    """There is something new to tell: start the sender unless it runs; takes no time, never raises.

    A process, not a thread: importing mlflow and talking to a server take the interpreter's lock,
    and with it seconds from a training.
    """
    started = _started.get(workspace.root)
    if os.environ.get(SWITCH) in ("off", "later") or (started and started.poll() is None):
        return
    try:
        configured_uri()
        workspace.tracking.mkdir(parents=True, exist_ok=True)
        with sender_lock(workspace).acquire(blocking=False):
            pass
        command = [sys.executable, "-m", "nsync_pipeline.tracking.sender", str(workspace.root)]
        null = subprocess.DEVNULL
        # A process group of its own: Ctrl-C in the terminal ends the stage, not the sender.
        _started[workspace.root] = subprocess.Popen(
            command, stdin=null, stdout=null, stderr=null, process_group=0
        )
    except (Timeout, OSError, UserError):
        return


def sender_lock(workspace: Workspace) -> FileLock:
    """Held by the one sender of the workspace."""
    return FileLock(workspace.tracking / "sender.lock")


def live_folder(workspace: Workspace, said: Said) -> Path:
    """Where what can be watched of it lies while it is made."""
    if said["stage"] == "training":
        training = (said["variant"], str(said["training_seed"]))
        return workspace.scratch("live", said["style"], *training)
    return workspace.scratch("live", said["style"], said["stage"])


def live_status(workspace: Workspace, record: Said) -> str:
    """RUNNING, or how it ended; KILLED where its process is gone and nobody said."""
    if "status" in record:
        return str(record["status"])
    try:  # not at once: another process may be asking the same this instant
        with _life(workspace, record).acquire(timeout=0.1, poll_interval=0.02):
            return "KILLED"
    except Timeout:
        return "RUNNING"


def made_of(said: Said) -> str:
    """32 hex digits over all that the artefact is made of: its run is known by it before it is."""
    names = ("stage", "recipe", "style", "variant", "training_seed", "settings", "inputs")
    text = json.dumps([said.get(name) for name in names], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_said(file: Path) -> Said | None:
    """A ``made.json`` or ``run.json``; None where there is none that can be read."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and "stage" in content else None


def _write(folder: Path, record: Said) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / RUN_FILE, json.dumps(record))
    except OSError as error:
        logger.warning("MLflow: the %s is not shown as it runs: %s", record["stage"], error)


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def _life(workspace: Workspace, said: Said) -> FileLock:
    """Held while it is made: the kernel lets go of it when its process ends, however it ends."""
    parts = (said["stage"], said["style"], said["variant"], said["training_seed"])
    lock = workspace.lock("-".join(("live", *(str(part) for part in parts if part is not None))))
    lock.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(lock)
