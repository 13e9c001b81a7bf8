"""Tell MLflow what is new in a workspace: a process beside the stages, and ``nsync deliver``.

A stage's process writes small local files and starts that process: no mlflow, no server, no
waiting. What a run has is asked of the server before anything is added: telling twice adds nothing.
"""

import getpass
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

from filelock import FileLock, Timeout

from nsync_pipeline.errors import MissingArtifactError, UserError
from nsync_pipeline.files import write_whole
from nsync_pipeline.tracking import destination, projection
from nsync_pipeline.tracking.destination import configured_uri, masked, reason_of
from nsync_pipeline.tracking.models import Promoted, log_model, register
from nsync_pipeline.tracking.projection import ARTEFACT, Run, Said, Source, sources
from nsync_pipeline.workspace import Workspace

logger = logging.getLogger(__name__)

SWITCH = "NSYNC_TRACKING"
"""In the environment: ``off`` records and sends nothing; ``later`` leaves it to ``deliver``."""

SETTINGS = {  # of MLflow: a server that hangs holds up the sender, and only it, for 15 seconds
    "HTTP_REQUEST_TIMEOUT": "15", "DISABLE_TELEMETRY": "true",
}  # fmt: skip
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
"""None by MLflow, whatever is set: a server may have done what it answered 500 to, and would do it
again. The next pass asks first what is there."""
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
    folder, lock = projection.live_folder(workspace, plan), projection.life(workspace, plan)
    record = {**plan, "started": _now(), "tags": {**_provenance(workspace), **tags}}
    with suppress(OSError, Timeout):  # the sender tries it for an instant now and then
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=5)
    last = projection.read_said(folder / "run.json") or {}
    same = projection.made_of(last) == projection.made_of(plan)
    if same and last.get("status") != "FINISHED":
        record["started"] = last["started"]  # it was interrupted, and goes on
    else:
        shutil.rmtree(folder, ignore_errors=True)
    _write(workspace, folder, record)
    try:
        yield
        record["status"] = "FINISHED"
    except BaseException as error:
        record["status"] = "FAILED" if isinstance(error, Exception) else "KILLED"
        record["tags"]["error"] = masked(f"{type(error).__name__}: {error}")[:500]
        raise
    finally:
        _write(workspace, folder, {**record, "ended": _now()})
        lock.release()


def _provenance(workspace: Workspace) -> dict[str, str]:
    """Who makes it, at which commit, and for which stage and experiment of DVC."""
    of_dvc = {"dvc.stage": "DVC_STAGE", projection.DVC_EXPERIMENT: "DVC_EXP_NAME"}
    found = {tag: os.environ[name] for tag, name in of_dvc.items() if os.environ.get(name)}
    with suppress(OSError, KeyError):  # there may be no name for who runs it
        found["mlflow.user"] = getpass.getuser()
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(workspace.root), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, timeout=5, check=True)
        found["mlflow.source.git.commit"] = done.stdout.decode("ascii").strip()
    return found


def _write(workspace: Workspace, folder: Path, record: Said) -> None:
    try:
        write_whole(folder / "run.json", json.dumps(record))
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
        with FileLock(workspace.tracking / "sender.lock").acquire(blocking=False):
            pass
        command = [sys.executable, "-m", "nsync_pipeline.tracking.sender", str(workspace.root)]
        null = subprocess.DEVNULL
        _started[workspace.root] = subprocess.Popen(  # Ctrl-C ends the stage, not the sender
            command, stdin=null, stdout=null, stderr=null, process_group=0
        )


@dataclass
class Server:
    """One MLflow server, asked what it has and told the rest; raises as mlflow does."""

    tracking: Path
    uri: str
    told: dict[str, set[tuple[str, int]]] = field(default_factory=dict)  # of runs under way

    @cached_property
    def client(self) -> Any:
        """Connected to, and mlflow imported, only when there is something to say."""
        for name, value in SETTINGS.items():
            os.environ.setdefault(f"MLFLOW_{name}", value)
        os.environ[RETRIES] = "0"
        from mlflow import MlflowClient

        for name in ("alembic", "mlflow.store.db.utils"):  # each migration of a new store
            logging.getLogger(name).setLevel(logging.WARNING)
        for name in ("pyfunc", "utils.requirements_utils"):  # what a model's example is checked by
            logging.getLogger(f"mlflow.{name}").setLevel(logging.ERROR)
        return MlflowClient(tracking_uri=destination.resolved_uri(self.uri, self.tracking))

    def tell(self, part: Run) -> int:
        """Add what the run does not have; gives the number of values, files and pictures."""
        client, run = self.client, self._found(part)
        if run is None or (part.mark and part.mark.items() <= run.data.tags.items()):
            return 0
        from mlflow.entities import Metric, Param, RunTag

        run_id, there = run.info.run_id, run.data
        values = {(_allowed(name), step): value for (name, step), value in part.metrics.items()}
        told = self.told.pop(run_id, None)  # where anything goes wrong, it is asked again
        if part.status is None:  # of what is added to a run, the newest value counts
            pace, start = 0.0, _now()
            told = {key for key, value in values.items() if there.metrics.get(key[0]) == value}
        else:  # a step has one value; they are spread evenly over the time it took
            start = part.started
            pace = (part.ended - start) / max((1, *(step for _, step in values)))
        if told is None:
            asked = {name for name, _ in values} & there.metrics.keys()
            histories = [client.get_metric_history(run_id, name) for name in asked]
            told = {(metric.key, metric.step) for history in histories for metric in history}
        metrics = [
            Metric(name, value, start + int(step * pace), step)
            for (name, step), value in values.items()
            if (name, step) not in told
        ]
        params = [Param(_allowed(k), v[:5000]) for k, v in part.params.items()]
        params = [param for param in params if param.key not in there.params]
        tags = [RunTag(_allowed(k), v[:5000]) for k, v in {**part.tags, **part.match}.items()]
        if part.parent and (above := self._searched(run.info.experiment_id, part.parent)):
            tags.append(RunTag("mlflow.parentRunId", above[0].info.run_id))
        tags = [tag for tag in tags if there.tags.get(tag.key) != tag.value]
        for kind, new in (("params", params), ("metrics", metrics), ("tags", tags)):
            self._log(run, kind, new)
        if part.datasets and not (run.inputs and run.inputs.dataset_inputs):
            self._add_datasets(part, run_id)
        files = self._add_files(part, run_id)
        if part.model is not None:
            files += self._add_model(run, part.model)
        if part.status == "RUNNING":
            client.update_run(run_id, part.status)
            self.told[run_id] = told | values.keys()
        elif part.status and part.status != run.info.status:
            client.set_terminated(run_id, part.status, part.ended)
        self._log(run, "tags", [RunTag(*tag) for tag in part.mark.items()])
        return len(params) + len(metrics) + len(tags) + files

    def run_of(self, part: Run) -> Any:
        """The run of what is made already, as it is now."""
        return self.client.get_run(self._found(part).info.run_id)

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
        for match in part.match.items():
            found = self._searched(of, dict([match]))
            for run in found:
                if run.data.tags.get(ARTEFACT) in (None, made):
                    return run
            if found and made is None:
                return None
        run = self.client.create_run(of, part.started, dict(part.match), part.name)
        if part.status is None:  # nobody else would end it
            self.client.set_terminated(run.info.run_id, "FINISHED", part.started)
        return run

    def _searched(self, experiment_id: str, match: Mapping[str, str]) -> Any:
        """The runs with all of these tags, newest first."""
        wanted = " AND ".join(f"tags.`{tag}` = '{value}'" for tag, value in match.items())
        newest = ["attributes.start_time DESC"]
        return self.client.search_runs([experiment_id], wanted, order_by=newest)

    def _log(self, run: Any, kind: str, values: Sequence[Any]) -> None:
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

    def _add_model(self, run: Any, source: Source) -> int:
        from mlflow.exceptions import MlflowException

        try:
            return int(log_model(self.client, run, source).is_new)
        except MlflowException as error:
            if error.error_code == "ENDPOINT_NOT_FOUND":  # a server from before MLflow 3
                return 0
            raise

    def _add_datasets(self, part: Run, run_id: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for path, (digest, context) in part.datasets.items():
            name, source = path.rpartition("/")[2], json.dumps({"uri": path})
            tags = [InputTag("mlflow.data.context", context)]
            inputs.append(DatasetInput(Dataset(name, digest[:36], "local", source), tags))
        self.client.log_inputs(run_id, inputs)

    def _add_files(self, part: Run, run_id: str) -> int:
        """By names that are always the same: what is sent twice is there once."""
        from PIL import Image

        images = self.client.list_artifacts(run_id, "images") if part.looks else []
        there = {item.path.partition("+timestamp")[0] for item in images}
        new = {k: v for k, v in part.looks.items() if f"images/looks+step+{k}" not in there}
        for step, file in new.items():
            with Image.open(file) as picture:
                self.client.log_image(run_id, picture, key="looks", step=step, synchronous=True)
        if part.files:
            with tempfile.TemporaryDirectory() as folder:
                for name, file in part.files.items():
                    shutil.copyfile(file, Path(folder, name))
                self.client.log_artifacts(run_id, folder)
        return len(new) + len(part.files)


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


def promote(
    workspace: Workspace,
    style: str,
    variant: str,
    training_seed: int,
    alias: str,
    weights: Path | None = None,
) -> Promoted:
    """Register a training's model at the configured server, and give it the ``alias``.

    ``weights`` is a folder of those that it saved on the way; None: its own.

    Raises:
        MissingArtifactError: it is not trained.
        UserError: the server does not answer, or refuses.
    """
    folder = workspace.model(style, variant, training_seed)
    found = [one for one in sources(workspace) if one.folder == folder]
    if not found:
        raise MissingArtifactError(f"{folder} is not there: run the training stage first")
    server = Server(workspace.tracking, configured_uri())
    workspace.tracking.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(workspace.tracking / "sending.lock").acquire(timeout=60):
            part = next(found[0].runs())
            server.tell(part)
            with _looked_for_at(server.client.tracking_uri):
                return register(server.client, server.run_of(part), found[0], alias, weights)
    except Exception as error:
        raise UserError(f"MLflow did not take it: {masked(str(error))}") from error


@contextmanager
def _looked_for_at(uri: str) -> Iterator[None]:
    """Have mlflow's registry look there; it would go on to, by the variable that it sets."""
    import mlflow

    name = "MLFLOW_TRACKING_URI"
    before = os.environ.get(name)
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # whatever the variable says
        if before is not None:
            os.environ[name] = before


def send(workspace: Workspace, server: Server, told: dict[str, str]) -> Outcome:
    """One pass over what is new since ``told``; never raises for a server's or artefact's sake."""
    workspace.tracking.mkdir(parents=True, exist_ok=True)
    left: dict[str, str] = {}
    count, failed = 0, 0
    for source in sources(workspace):
        key = source.folder.relative_to(workspace.root).as_posix()
        try:
            sizes = [(file.name, file.stat().st_size) for file in source.folder.iterdir()]
            state = repr((source.said, source.status, sorted(sizes)))
            if told.get(key) == state:
                continue
            runs = list(source.runs())
        except Exception as error:  # what is damaged can raise anything
            left[key] = f"{source.folder} is damaged: {error!r}"
            continue
        try:
            if failed == PATIENCE:
                raise ConnectionError("the server is taken to be down")
            with FileLock(workspace.tracking / "sending.lock").acquire(timeout=60):
                count += sum(server.tell(run) for run in runs)  # no two processes at once
            told[key], failed = state, 0
        except Exception as error:
            failed = min(failed + 1, PATIENCE)
            left[key] = reason_of(error)
    return Outcome(count, left)


def run_sender(workspace: Workspace, poll: float = 2.0, linger: float = 30.0) -> None:
    """Tell what is new until no run has been under way, and nothing got through, for a while."""
    server, told = Server(workspace.tracking, configured_uri()), dict[str, str]()
    busy = time.monotonic()
    with suppress(Timeout), FileLock(workspace.tracking / "sender.lock").acquire(timeout=1):
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
