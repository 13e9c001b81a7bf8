"""One MLflow server, told what it does not have yet: the only module that imports mlflow.

What a run has is asked of the server before anything is added to it, so telling twice adds nothing.
What a server refuses for good (a name it does not allow) is put aside in ``refused.jsonl``.
"""

import json
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nsync_pipeline.files import file_sha256
from nsync_pipeline.tracking.destination import artifact_location, masked, resolved_uri
from nsync_pipeline.tracking.live import now
from nsync_pipeline.tracking.projection import ARTEFACT, Figure, Part

# A server that hangs holds up the sender, and only it, for this long a request.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",  # seconds
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)

from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from PIL import Image  # noqa: E402

for _name in ("alembic", "mlflow.store.db.utils"):  # each migration of a new store
    logging.getLogger(_name).setLevel(logging.WARNING)

MOST = {"params": 100, "metrics": 1000, "tags": 100}
"""MLflow's limits of one ``log_batch``."""

REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE")
TRAINING_VIEW = {"mlflow.experimentKind": "custom_model_development"}
"""MLflow's page of the experiment opens on runs and curves, not on language models' traces."""

FILES = "mlflow.nsync.files"
"""The tag that holds the digests of a run's files; MLflow's pages hide tags that begin so."""

DIGEST = 36  # characters of a data set's digest that MLflow takes
LOOKS = "looks"
"""What MLflow's page calls the pictures that it shows by step."""

THUMBNAIL = (256, 256)  # pixels at most


@dataclass
class KnownRun:
    """A run, and what the server has of it."""

    run: Any  # its data is brought up to date as more is added
    status: str
    figures: dict[str, dict[int, float]] = field(default_factory=dict)  # by step, as asked for

    @property
    def id(self) -> str:
        return str(self.run.info.run_id)


class Server:
    """Every method raises what mlflow raises when the server does not answer."""

    def __init__(self, tracking: Path, uri: str) -> None:
        self._tracking = tracking
        self._uri = uri
        self._client = MlflowClient(tracking_uri=resolved_uri(uri, tracking))
        self._experiments: dict[str, Any] = {}
        self._under_way: dict[tuple[str, ...], KnownRun] = {}  # need not be asked about again

    def token(self, name: str) -> str:
        """What tells the experiment from another one of the same name."""
        experiment = self._experiment(name)
        return f"{experiment.experiment_id} {experiment.creation_time}"

    def tell(self, part: Part) -> int:
        """Add what the run does not have; gives the number of values, files and pictures."""
        try:
            return self._tell(part)
        except Exception:
            self._experiments.clear()  # it may be another server by now
            raise

    def _tell(self, part: Part) -> int:
        key = (part.experiment, *part.match.values())
        # Where anything goes wrong, what the server has is asked again.
        known = self._under_way.pop(key, None) or self._known(part)
        if known is None:
            return 0
        data = known.run.data
        params = {k: v for k, v in part.params.items() if k not in data.params}  # they never change
        figures = [figure for figure in part.figures if not self._has(known, figure)]
        # The tag that names what the run made comes last: a run that has it is whole.
        tags = {k: v for k, v in {**part.tags, **part.match}.items() if data.tags.get(k) != v}
        count = self._log(known, "params", [Param(*item) for item in params.items()])
        count += self._log(known, "metrics", [_metric(figure, known) for figure in figures])
        count += self._log(known, "tags", [RunTag(*item) for item in tags.items()])
        count += self._add_datasets(part, known) + self._set_status(part, known)
        count += self._add_files(part, known)
        if part.status == "RUNNING":
            data.params.update(params)
            data.tags.update(tags)
            for figure in figures:
                data.metrics[figure.name] = figure.value
                known.figures.setdefault(figure.name, {})[figure.step] = figure.value
            self._under_way[key] = known
        return count

    def _experiment(self, name: str) -> Any:
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            if found is None:
                location = artifact_location(self._uri, self._tracking)
                made = self._client.create_experiment(name, location, TRAINING_VIEW)
                found = self._client.get_experiment(made)
            elif found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
            self._experiments[name] = found
        return self._experiments[name]

    def _known(self, part: Part) -> KnownRun | None:
        """Found or made; None where what is not done yet has been done before."""
        experiment = self._experiment(part.experiment).experiment_id
        made = part.match.get(ARTEFACT)
        for tag, value in part.match.items():
            found = self._client.search_runs(
                [experiment], f"tags.`{tag}` = '{value}'", order_by=["attributes.start_time DESC"]
            )
            for run in found:
                if run.data.tags.get(ARTEFACT) in (None, made):
                    return KnownRun(run, run.info.status)
            if found and made is None:
                return None
        started = part.started or now()
        tag, value = list(part.match.items())[-1]
        run = self._client.create_run(experiment, started, {tag: value}, part.name)
        if part.status is None:  # nobody else would end it
            self._client.set_terminated(run.info.run_id, "FINISHED", started)
        return KnownRun(run, "RUNNING")

    def _has(self, known: KnownRun, figure: Figure) -> bool:
        """A step of a training has one value; a figure of the whole, the newest."""
        if figure.name not in known.run.data.metrics:
            return False
        if figure.name not in known.figures:
            history = self._client.get_metric_history(known.id, figure.name)
            known.figures[figure.name] = {metric.step: metric.value for metric in history}
        there = known.figures[figure.name].get(figure.step)
        return there is not None if figure.after is not None else there == figure.value

    def _log(self, known: KnownRun, kind: str, values: Sequence[Any]) -> int:
        """In as many requests as are needed; gives how many were taken."""
        portions = range(0, len(values), MOST[kind])
        return sum(self._log_batch(known, kind, values[i : i + MOST[kind]]) for i in portions)

    def _log_batch(self, known: KnownRun, kind: str, values: Sequence[Any]) -> int:
        try:
            self._client.log_batch(known.id, **{kind: values})
        except MlflowException as error:
            refused = error.error_code in REFUSALS  # and not because the run was deleted meanwhile
            if not refused or self._client.get_run(known.id).info.lifecycle_stage != "active":
                raise
            if len(values) == 1:
                self._put_aside(known, kind, values[0], error)
                return 0
            halves = values[: len(values) // 2], values[len(values) // 2 :]
            return sum(self._log_batch(known, kind, half) for half in halves)
        return len(values)

    def _add_datasets(self, part: Part, known: KnownRun) -> int:
        there = known.run.inputs.dataset_inputs if known.run.inputs else []
        names = {(one.dataset.name, one.dataset.digest) for one in there}
        new = []
        for path, (digest, context) in part.datasets.items():
            source = json.dumps({"uri": path})
            name, digest = path.rpartition("/")[2], digest[:DIGEST]
            if (name, digest) not in names:
                tags = [InputTag("mlflow.data.context", context)]
                new.append(DatasetInput(Dataset(name, digest, "local", source), tags=tags))
        if new:
            self._client.log_inputs(known.id, new)
            there += new
        return len(new)

    def _set_status(self, part: Part, known: KnownRun) -> int:
        if part.status in (None, known.status):
            return 0
        if part.status == "RUNNING":
            self._client.update_run(known.id, part.status)
        else:
            self._client.set_terminated(known.id, part.status, part.ended)
        known.status = part.status
        return 1

    def _add_files(self, part: Part, known: KnownRun) -> int:
        """By names that are always the same: what is sent twice is there once."""
        try:
            there = json.loads(known.run.data.tags.get(FILES, "{}"))
        except ValueError:  # MLflow cuts off what is too long: then all are sent again
            there = {}
        digests = {name: file_sha256(path)[:16] for name, path in part.files.items()}
        new = [name for name, digest in digests.items() if there.get(name) != digest]
        looks = part.looks.keys() - set(there.get(LOOKS, ()))
        if not new and not looks:
            return 0
        with tempfile.TemporaryDirectory() as folder:
            for name in new:
                shutil.copyfile(part.files[name], Path(folder, name))
            for step in looks:
                _save_look(part.looks[step], Path(folder, "images"), step, known)
            self._client.log_artifacts(known.id, folder)
        now_there = {**there, **digests, LOOKS: sorted({*there.get(LOOKS, ()), *looks})}
        tags = {FILES: json.dumps(now_there), **({"mlflow.loggedImages": "True"} if looks else {})}
        self._log(known, "tags", [RunTag(*item) for item in tags.items()])
        known.run.data.tags.update(tags)
        return len(new) + len(looks)

    def _put_aside(self, known: KnownRun, kind: str, value: Any, error: MlflowException) -> None:
        told = {"run": known.run.info.run_name, "kind": kind, "name": value.key}
        told |= {"value": value.value, "step": getattr(value, "step", None)}
        line = json.dumps({**told, "reason": masked(str(error))})
        with (self._tracking / "refused.jsonl").open("a+", encoding="utf-8") as file:
            file.seek(0)
            if json.dumps(told)[:-1] not in file.read():
                file.write(line + "\n")


def _metric(figure: Figure, known: KnownRun) -> Metric:
    at = now() if figure.after is None else known.run.info.start_time + figure.after
    return Metric(figure.name, figure.value, at, figure.step)


def _save_look(picture: Path, folder: Path, step: int, known: KnownRun) -> None:
    """As ``MlflowClient.log_image`` does, which gives each a name of its own, so twice is two."""
    named = uuid.uuid5(uuid.NAMESPACE_OID, f"{known.id} {step}")
    at = known.run.info.start_time + step
    name = f"{LOOKS}+step+{step}+timestamp+{at}+{named}"
    folder.mkdir(exist_ok=True)
    with Image.open(picture) as image:
        shown = image.convert("RGB")
    shown.save(folder / f"{name}.png")
    shown.thumbnail(THUMBNAIL)
    shown.save(folder / f"{name}+compressed.webp")
