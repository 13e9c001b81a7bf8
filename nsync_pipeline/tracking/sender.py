"""Tell MLflow what is new in a workspace: a process beside the stages, and ``nsync deliver``.

A stage's process writes small local files and starts that process: no mlflow, no server, no
waiting. What a run has is asked of the server before anything is added: telling twice adds nothing.
"""

import json
import logging
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

from filelock import FileLock, Timeout

from nsync_pipeline.errors import UserError
from nsync_pipeline.files import write_whole
from nsync_pipeline.tracking import destination
from nsync_pipeline.tracking.destination import configured_uri, masked
from nsync_pipeline.tracking.projection import (
    ARTEFACT,
    Run,
    Said,
    life,
    live_folder,
    made_of,
    read_said,
    sources,
)
from nsync_pipeline.workspace import Workspace

logger = logging.getLogger(__name__)

SWITCH = "NSYNC_TRACKING"
"""In the environment: ``off`` records and sends nothing; ``later`` leaves it to ``deliver``."""

REQUESTS = {"TIMEOUT": "15", "MAX_RETRIES": "1", "BACKOFF_FACTOR": "1"}  # of MLflow's client
MOST = {"params": 100, "metrics": 1000, "tags": 100}  # of one log_batch
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE")
PATIENCE = 3  # artefacts in a row that do not get through, before the server is taken to be down

_started: dict[Path, subprocess.Popen[bytes]] = {}  # the sender this process started, by root


@contextmanager
def recorded(workspace: Workspace, plan: Said, tags: Mapping[str, str]) -> Iterator[None]:
    """Around the making of an artefact, until it is in its place; never raises of its own.

    ``plan`` is what ``made.json`` will say; ``tags`` are more for the MLflow run.
    """
    try:
        configured_uri()
    except UserError as error:
        logger.warning("%s", error)
    if os.environ.get(SWITCH) == "off" or plan["stage"] not in ("training", "evaluation"):
        yield
        notify(workspace)
        return
    folder, lock = live_folder(workspace, plan), life(workspace, plan)
    of_dvc = {"dvc.stage": os.environ["DVC_STAGE"]} if "DVC_STAGE" in os.environ else {}
    record = {**plan, "started": _now(), "tags": {**of_dvc, **tags}}
    with suppress(OSError, Timeout):  # the sender tries it for an instant now and then
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=5)
    last = read_said(folder / "run.json")
    if last and last.get("status") != "FINISHED" and made_of(last) == made_of(plan):
        record["started"] = last["started"]  # it was interrupted, and goes on
    else:
        shutil.rmtree(folder, ignore_errors=True)
    _write(workspace, record)
    try:
        yield
        record["status"] = "FINISHED"
    except BaseException as error:
        record["status"] = "FAILED" if isinstance(error, Exception) else "KILLED"
        record["tags"]["error"] = f"{type(error).__name__}: {error}"[:500]
        raise
    finally:
        _write(workspace, {**record, "ended": _now()})
        lock.release()


def _write(workspace: Workspace, record: Said) -> None:
    try:
        write_whole(live_folder(workspace, record) / "run.json", json.dumps(record))
    except OSError as error:
        logger.warning("MLflow: the %s is not shown as it runs: %s", record["stage"], error)
    notify(workspace)


def _now() -> int:
    return time.time_ns() // 1_000_000


def notify(workspace: Workspace) -> None:
    """There is something new to tell: start the sender unless it runs; takes no time, never raises.

    A process, not a thread: mlflow would take the interpreter's lock from a training for seconds.
    """
    started = _started.get(workspace.root)
    if os.environ.get(SWITCH) in ("off", "later") or (started and started.poll() is None):
        return
    with suppress(Timeout, OSError, UserError):
        configured_uri()
        workspace.tracking.mkdir(parents=True, exist_ok=True)
        with _sender_lock(workspace).acquire(blocking=False):
            pass
        command = [sys.executable, "-m", "nsync_pipeline.tracking.sender", str(workspace.root)]
        null = subprocess.DEVNULL
        _started[workspace.root] = subprocess.Popen(  # Ctrl-C ends the stage, not the sender
            command, stdin=null, stdout=null, stderr=null, process_group=0
        )


def _sender_lock(workspace: Workspace) -> FileLock:
    return FileLock(workspace.tracking / "sender.lock")


@dataclass
class Server:
    """One MLflow server, asked what it has and told the rest; raises as mlflow does."""

    tracking: Path
    uri: str
    steps: dict[str, dict[str, set[int]]] = field(default_factory=dict)  # of runs under way, told

    @cached_property
    def client(self) -> Any:
        """Connected to, and mlflow imported, only when there is something to say."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for name, value in REQUESTS.items():
            os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
        from mlflow import MlflowClient

        logging.getLogger("alembic").setLevel(logging.WARNING)  # each migration of a new store
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        return MlflowClient(tracking_uri=destination.resolved_uri(self.uri, self.tracking))

    def tell(self, part: Run) -> int:
        """Add what the run does not have; gives the number of values, files and pictures."""
        client = self.client
        from mlflow.entities import Metric, Param, RunTag

        run = self._found(part)
        if run is None or (part.mark and part.mark.items() <= run.data.tags.items()):
            return 0
        run_id, data = run.info.run_id, run.data
        params = {_allowed(name): value[:5000] for name, value in part.params.items()}
        new = self._new_metrics(part, run)
        steps = self.steps.pop(run_id, {})  # where anything goes wrong, they are asked again
        tags = {_allowed(k): v[:5000] for k, v in {**part.tags, **part.match}.items()}
        tags = {name: value for name, value in tags.items() if data.tags.get(name) != value}
        count = self._log(
            run, "params", [Param(k, v) for k, v in params.items() if k not in data.params]
        )
        count += self._log(run, "metrics", [Metric(*one) for one in new])
        count += self._log(run, "tags", [RunTag(*tag) for tag in tags.items()])
        if part.datasets and not (run.inputs and run.inputs.dataset_inputs):
            self._add_datasets(part, run_id)
        count += self._add_files(part, run)
        if part.status == "RUNNING":
            if part.status != run.info.status:
                client.update_run(run_id, part.status)
            for name, _, _, step in new:
                steps.setdefault(name, set()).add(step)
            self.steps[run_id] = steps
        elif part.status and part.status != run.info.status:
            client.set_terminated(run_id, part.status, part.ended)
        self._log(run, "tags", [RunTag(*tag) for tag in part.mark.items()])
        return count

    def _found(self, part: Run) -> Any:
        """Its run, found or made; None where what is not done yet has been done before."""
        experiment = self.client.get_experiment_by_name(part.experiment)
        if experiment is None:
            location = destination.artifact_location(self.uri, self.tracking)
            view = {"mlflow.experimentKind": "custom_model_development"}  # runs and curves
            of = self.client.create_experiment(part.experiment, location, view)
        else:
            of = experiment.experiment_id
            if experiment.lifecycle_stage == "deleted":
                self.client.restore_experiment(of)
        made = part.match.get(ARTEFACT)
        for tag, value in part.match.items():
            found = self.client.search_runs(
                [of], f"tags.`{tag}` = '{value}'", order_by=["attributes.start_time DESC"]
            )
            for run in found:
                if run.data.tags.get(ARTEFACT) in (None, made):
                    return run
            if found and made is None:
                return None
        tag, value = list(part.match.items())[-1]
        run = self.client.create_run(of, part.started, {tag: value}, part.name)
        if part.status is None:  # nobody else would end it
            self.client.set_terminated(run.info.run_id, "FINISHED", part.started)
        return run

    def _new_metrics(self, part: Run, run: Any) -> list[tuple[str, float, int, int]]:
        """Name, value, time and step: a step has one value, and what is added to a run its last."""
        there, run_id = run.data.metrics, run.info.run_id
        metrics = {(_allowed(name), step): value for (name, step), value in part.metrics.items()}
        if part.status is None:
            return [
                (*key[:1], v, _now(), 0) for key, v in metrics.items() if there.get(key[0]) != v
            ]
        steps = self.steps.setdefault(run_id, {})
        for name in {name for name, _ in metrics} - steps.keys():
            history = self.client.get_metric_history(run_id, name) if name in there else []
            steps[name] = {metric.step for metric in history}
        # Spread evenly over the time it took.
        pace = (part.ended - part.started) / max((1, *(step for _, step in metrics)))
        return [
            (name, value, part.started + int(step * pace), step)
            for (name, step), value in metrics.items()
            if step not in steps[name]
        ]

    def _log(self, run: Any, kind: str, values: Sequence[Any]) -> int:
        """In as many requests as are needed; what the server refuses for good is put aside."""
        from mlflow.exceptions import MlflowException

        run_id, most = run.info.run_id, MOST[kind]
        for batch in (values[i : i + most] for i in range(0, len(values), most)):
            try:
                self.client.log_batch(run_id, **{kind: batch}, synchronous=True)
            except MlflowException as error:
                refused = error.error_code in REFUSALS  # and not as the run was deleted meanwhile
                if not refused or self.client.get_run(run_id).info.lifecycle_stage != "active":
                    raise
                told = {"run": run.info.run_name, "kind": kind, "names": [v.key for v in batch]}
                line = json.dumps({**told, "reason": masked(str(error))}) + "\n"
                with (self.tracking / "refused.jsonl").open("a+", encoding="utf-8") as file:
                    file.seek(0)
                    file.write("" if line in file.read() else line)
        return len(values)

    def _add_datasets(self, part: Run, run_id: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for path, (digest, context) in part.datasets.items():
            source, tags = json.dumps({"uri": path}), [InputTag("mlflow.data.context", context)]
            name = path.rpartition("/")[2]
            inputs.append(DatasetInput(Dataset(name, digest[:36], "local", source), tags))
        self.client.log_inputs(run_id, inputs)

    def _add_files(self, part: Run, run: Any) -> int:
        """By names that are always the same: what is sent twice is there once."""
        run_id, start = run.info.run_id, run.info.start_time
        images = self.client.list_artifacts(run_id, "images") if part.looks else []
        there, count = {item.path for item in images}, len(part.files)
        with tempfile.TemporaryDirectory() as folder:
            for name, file in part.files.items():
                shutil.copyfile(file, Path(folder, name))
            for step, file in part.looks.items():  # named as by log_image, but for good
                name = f"images/looks+step+{step}+timestamp+{start + step}+{UUID(int=step)}"
                if not {f"{name}.png", f"{name}+compressed.webp"} <= there:
                    _save_look(file, Path(folder, name))
                    count += 1
            if count:
                self.client.log_artifacts(run_id, folder)
        return count


def _save_look(file: Path, place: Path) -> None:
    from PIL import Image

    place.parent.mkdir(exist_ok=True)
    with Image.open(file) as picture:
        shown = picture.convert("RGB")
    shown.save(f"{place}.png")
    shown.thumbnail((256, 256))
    shown.save(f"{place}+compressed.webp")


def _allowed(name: str) -> str:
    """``name`` as MLflow takes it."""
    return posixpath.normpath(re.sub(r"[^\w\-. :/]", "", name)).strip("/.")[:250]


@dataclass(frozen=True)
class Outcome:
    """What one pass did."""

    sent: int  # values, files and pictures
    left: Mapping[str, str]  # the artefacts and runs that did not get through, by folder: why

    @property
    def problem(self) -> str | None:
        return next(iter(self.left.values()), None)


def deliver(workspace: Workspace, to: str | None = None) -> Outcome:
    """Tell the configured server, or ``to``, all of the workspace that it does not have.

    Raises:
        UserError: it is the address of no server or database.
    """
    uri = configured_uri() if to is None else destination.usable_uri(to)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # seconds: nothing else waits
    return send(workspace, Server(workspace.tracking, uri), {})


def send(workspace: Workspace, server: Server, told: dict[str, str]) -> Outcome:
    """One pass over what is new since ``told``; never raises for a server's or artefact's sake."""
    workspace.tracking.mkdir(parents=True, exist_ok=True)
    count, failed = 0, 0
    left: dict[str, str] = {}
    for source in sources(workspace):
        try:
            state = source.state()
            if told.get(source.key) == state:
                continue
            runs = list(source.runs())
        except (OSError, ValueError, KeyError) as error:
            left[source.key] = f"{source.folder} is damaged: {error!r}"
            continue
        if failed == PATIENCE:
            left[source.key] = "the server is taken to be down"
            continue
        try:  # two processes never tell of the same at once
            with FileLock(workspace.tracking / "sending.lock").acquire(timeout=60):
                count += sum(server.tell(run) for run in runs)
            told[source.key], failed = state, 0
        except Exception as error:
            failed += 1
            left[source.key] = masked(" ".join(str(error).split()) or type(error).__name__)
    return Outcome(count, left)


def run_sender(workspace: Workspace, poll: float = 2.0, linger: float = 30.0) -> None:
    """Tell what is new until no run has been under way, and nothing got through, for a while."""
    server, told = Server(workspace.tracking, configured_uri()), dict[str, str]()
    busy = time.monotonic()
    with suppress(Timeout), _sender_lock(workspace).acquire(timeout=1):
        while workspace.tracking.is_dir():
            worked = time.process_time()
            outcome = send(workspace, server, told)
            if outcome.sent or any(one.status == "RUNNING" for one in sources(workspace)):
                busy = time.monotonic()
            elif time.monotonic() > busy + linger:
                return
            # A long history takes time to read: a sixth of a core's at most is spent on it.
            time.sleep(max(poll, 5 * (time.process_time() - worked)))


if __name__ == "__main__":
    os.nice(10)
    run_sender(Workspace(Path(sys.argv[1])))
