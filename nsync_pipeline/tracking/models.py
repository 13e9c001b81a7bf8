"""A training's weights as a model of MLflow: prompts in, pictures out; and in its registry.

``mlflow.pyfunc.load_model`` draws with it where this package is installed, which ``LOADER`` names.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nsync_pipeline import __version__
from nsync_pipeline.tracking.projection import ARTEFACT, Source
from nsync_pipeline.workspace import trained_files

LOADER = "nsync_pipeline.generate.mlflow_model"
"""The module that reads what is written here; it belongs to a layer above."""
DESCRIPTION = "made.json"
"""Beside the weights: the base, the word for the style, and all they were made from."""
EXAMPLE = [{"prompt": "a red boat on water under a sun", "seed": 0}]


@dataclass(frozen=True)
class Logged:
    model_id: str
    is_new: bool


@dataclass(frozen=True)
class Promoted:
    """A version in the registry."""

    name: str
    version: str
    alias: str

    @property
    def uri(self) -> str:
        return f"models:/{self.name}@{self.alias}"


def log_model(client: Any, run: Any, source: Source, weights: Path | None = None) -> Logged:
    """The logged model of a training's run: made, or finished, where it is not there whole.

    ``weights`` is a folder of those that it saved on the way; None: its own. Raises as mlflow does.
    """
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(run.info.run_id)  # with the tags that it has by now
    said, of = source.said, run.info.experiment_id
    at = "" if weights in (None, source.folder) else f"-step{int(weights.name)}"
    content = f"{said['content']}{at}"
    wanted = f"tags.`{ARTEFACT}` = '{content}'"
    found = [
        model
        for model in client.search_logged_models([of], wanted)
        if model.source_run_id == run.info.run_id
    ]
    ready = [model for model in found if str(model.status) == "READY"]
    if not ready:
        sets = {f"dataset.{p.rpartition('/')[2]}": d[:36] for p, d in said["inputs"].items()}
        kept = ("mlflow.user", "mlflow.source.git.commit", "style", "variant", "training_seed")
        tags = {k: v for k, v in run.data.tags.items() if k in kept} | sets
        tags[ARTEFACT] = content
        model = (found or [None])[0] or client.create_logged_model(
            of, f"{said['variant']}-{said['training_seed']}{at}", run.info.run_id, tags,
            model_type="nsync-lora",
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder, "model")
            write_model(place, source, model.model_id, run.info.run_id, weights)
            client.log_model_artifacts(model.model_id, str(place))
        client.finalize_logged_model(model.model_id, "READY")
        ready = [model]
    model_id = ready[0].model_id
    outputs = run.outputs.model_outputs if run.outputs else []
    if model_id not in [output.model_id for output in outputs]:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model_id, step=0)])
    return Logged(model_id, not found)


def write_model(
    folder: Path, source: Source, model_id: str, run_id: str, weights: Path | None = None
) -> None:
    """The model as MLflow lays it out: ``MLmodel``, ``data/`` and what it needs."""
    import pandas
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ColSpec, Schema

    inputs = [ColSpec("string", "prompt"), ColSpec("long", "seed", required=False)]
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch, "lora")  # in the model it is data/lora
        data.mkdir()
        for file in (*trained_files(weights or source.folder), source.folder / DESCRIPTION):
            shutil.copyfile(file, data / file.name)
        save_model(
            folder,
            loader_module=LOADER,
            data_path=str(data),
            mlflow_model=Model(run_id=run_id, model_id=model_id),
            signature=ModelSignature(Schema(inputs), Schema([ColSpec("binary", "png")])),
            input_example=pandas.DataFrame(EXAMPLE),
            pip_requirements=[f"nsync-pipeline=={__version__}"],
        )


def register(client: Any, run: Any, source: Source, alias: str, weights: Path | None) -> Promoted:
    """The version of the style's registered model that is this training's, with the ``alias``.

    ``weights`` as of ``log_model``. Raises as mlflow does.
    """
    from mlflow.exceptions import MlflowException

    said = source.said
    model_id, name = log_model(client, run, source, weights).model_id, f"nsync-{said['style']}"
    try:
        client.create_registered_model(name, description=f"The style {said['style']}, as LoRAs.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # A store without a server would look a model's id up in the store of the environment.
    is_served = str(client.tracking_uri).startswith("http")
    model = client.get_logged_model(model_id)
    place = f"models:/{model_id}" if is_served else str(model.artifact_location)
    every = client.search_model_versions(f"name = '{name}'")
    versions = [version for version in every if version.source == place]
    tags = {"variant": said["variant"], "training_seed": str(said["training_seed"])}
    version = versions[0] if versions else client.create_model_version(
        name, place, run.info.run_id, tags, model_id=model_id,
        description=json.dumps(dict(said["figures"])),
    )  # fmt: skip
    client.set_registered_model_alias(name, alias, version.version)
    return Promoted(name, str(version.version), alias)
