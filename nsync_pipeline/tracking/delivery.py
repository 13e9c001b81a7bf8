"""One run's events to its tracking server: the only module that imports mlflow.

Sending twice is harmless: a figure is the same row again, a run is found by its tags. What a server
refuses for good (a name it does not allow, a param that was set before) is put aside in
``refused.jsonl``, so that it does not keep back what comes after it.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from nsync_pipeline.tracking.batches import batches, singly
from nsync_pipeline.tracking.destination import artifact_location, resolved_uri
from nsync_pipeline.tracking.spool import (
    Event,
    RunHeader,
    Sent,
    read_events,
    read_header,
    read_sent,
    write_sent,
)

# A server that hangs holds up the courier, and only it, for this long a request.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",  # seconds
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)

from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import (  # noqa: E402
    Dataset,
    DatasetInput,
    InputTag,
    Metric,
    Param,
    RunTag,
)
from mlflow.exceptions import MlflowException  # noqa: E402
from PIL import Image  # noqa: E402

REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE")
GONE = "RESOURCE_DOES_NOT_EXIST"


TRAINING_VIEW = {"mlflow.experimentKind": "custom_model_development"}
"""MLflow's page of the experiment opens on runs and curves, not on language models' traces."""


class Delivery:
    """Sends to one server.

    Every method raises what mlflow raises when the server does not answer; what was sent before
    that is remembered.
    """

    def __init__(self, tracking: Path, uri: str) -> None:
        self._tracking = tracking
        self._uri = uri
        self._client = MlflowClient(tracking_uri=resolved_uri(uri, tracking))
        self._runs: dict[Path, str] = {}  # what is known to exist on the server

    def send(self, path: Path) -> int:
        """Send what the file holds and the server has not got yet; gives the number of events."""
        header = read_header(path)
        if header is None:
            return 0
        run_id, start = self._run(path, header)
        count = 0
        for end, batch in batches(read_events(path, start)):
            try:
                self._send_batch(path, run_id, batch)
            except MlflowException as error:
                if error.error_code == GONE:  # deleted on the server meanwhile: begin again
                    self._runs.pop(path, None)
                    write_sent(path, Sent())
                raise
            write_sent(path, Sent(end, self._uri, run_id))
            count += len(batch)
        return count

    def _run(self, path: Path, header: RunHeader) -> tuple[str, int]:
        """The run's id on the server, and the byte of the file to go on from."""
        sent = read_sent(path)
        if path in self._runs:
            return self._runs[path], sent.offset
        experiment = self._experiment(header.experiment)
        found = self._found(experiment, header)
        run_id = found or self._made(experiment, header)
        start = sent.offset if (sent.uri, sent.run_id) == (self._uri, run_id) else 0
        self._runs[path] = run_id
        return run_id, start

    def _experiment(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            location = artifact_location(self._uri, self._tracking)
            made: str = self._client.create_experiment(name, location, TRAINING_VIEW)
            return made
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        identifier: str = experiment.experiment_id
        return identifier

    def _found(self, experiment: str, header: RunHeader) -> str | None:
        condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in header.match.items())
        runs = self._client.search_runs(
            [experiment], condition, max_results=1, order_by=["attributes.start_time DESC"]
        )
        return runs[0].info.run_id if runs else None

    def _made(self, experiment: str, header: RunHeader) -> str:
        tags = {**header.tags, **header.match}
        run = self._client.create_run(experiment, header.started, tags, header.name)
        run_id: str = run.info.run_id
        if not header.owner:  # nobody else would end it
            self._client.set_terminated(run_id, "FINISHED", header.started)
        return run_id

    def _send_batch(self, path: Path, run_id: str, batch: Sequence[Event]) -> None:
        try:
            self._send(path, run_id, batch)
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            parts = singly(batch)
            if len(parts) > 1:
                for part in parts:
                    self._send_batch(path, run_id, [part])
            else:
                self._put_aside(path, batch[0], str(error))

    def _send(self, path: Path, run_id: str, batch: Sequence[Event]) -> None:
        event = batch[0]
        match event["kind"]:
            case "artifact":
                self._send_artifact(path.parent / event["file"], run_id, event["folder"])
            case "picture":
                self._send_picture(path.parent / event["file"], run_id, event)
            case "dataset":
                self._client.log_inputs(run_id, [_dataset(event)])
            case "status" if event["status"] == "RUNNING":
                self._client.update_run(run_id, "RUNNING")
            case "status":
                self._client.set_terminated(run_id, event["status"], event["at"])
            case _:
                self._log_batch(run_id, batch)

    def _log_batch(self, run_id: str, batch: Sequence[Event]) -> None:
        self._client.log_batch(
            run_id,
            metrics=[
                Metric(name, value, event["at"], event["step"])
                for event in batch
                if event["kind"] == "metrics"
                for name, value in event["values"].items()
            ],
            params=[Param(name, value) for name, value in _values(batch, "params")],
            tags=[RunTag(name, value) for name, value in _values(batch, "tags")],
        )

    def _send_artifact(self, kept: Path, run_id: str, folder: str) -> None:
        if kept.is_file():  # or it was delivered before
            self._client.log_artifact(run_id, str(kept), folder or None)
            shutil.rmtree(kept.parent)

    def _send_picture(self, kept: Path, run_id: str, event: Event) -> None:
        if kept.is_file():
            with Image.open(kept) as image:
                self._client.log_image(
                    run_id, image.convert("RGB"), key=event["name"], step=event["step"],
                    timestamp=event["at"],
                )  # fmt: skip
            shutil.rmtree(kept.parent)

    def _put_aside(self, path: Path, event: Event, reason: str) -> None:
        with (path.parent.parent / "refused.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"file": path.name, "event": event, "reason": reason}) + "\n")


def _values(batch: Sequence[Event], kind: str) -> list[tuple[str, str]]:
    return [pair for event in batch if event["kind"] == kind for pair in event["values"].items()]


def _dataset(event: Event) -> DatasetInput:
    source = json.dumps({"uri": event["source"]})
    dataset = Dataset(event["name"], event["digest"], source_type="local", source=source)
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", event["context"])])
