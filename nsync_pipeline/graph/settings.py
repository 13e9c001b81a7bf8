"""What is written into ``params.yaml`` for a person: settings, and which saved step is used."""

from collections.abc import Mapping
from typing import Any

from nsync_pipeline.adaptation.saved_steps import own_step, weights_digest, weights_of_step
from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.files import write_whole
from nsync_pipeline.graph.dvc import DVC_FILE, sync_dvc_file
from nsync_pipeline.graph.locks import sole_writer
from nsync_pipeline.params import Params, parse_params
from nsync_pipeline.settings_file import parse_settings, with_values
from nsync_pipeline.workspace import TrainingRun, Workspace, trained_files


def write_settings(workspace: Workspace, values: Mapping[str, Any]) -> None:
    """Write ``values``, by dotted key, into params.yaml, and bring dvc.yaml in order.

    Raises:
        ParamsError: they are not what the schema allows; nothing is written then.
    """
    if not values:
        return
    with sole_writer(workspace.lock("params"), workspace.params_file):
        text = with_values(workspace.params_file.read_bytes().decode("utf-8"), values)
        parse_params(parse_settings(text, "params.yaml"))
        write_whole(workspace.params_file, text)
    if (workspace.root / DVC_FILE).is_file():
        sync_dvc_file(workspace)


def choose_step(
    workspace: Workspace, params: Params, style: str, run: TrainingRun, step: int | None
) -> int:
    """Have the weights of ``step`` used from now on, of those that ``run`` saved; None: its own.

    Returns the step that is used. With the step, params.yaml says which weights they were.

    Raises:
        MissingArtifactError: it is not trained, or saved no such weights.
    """
    model = workspace.model(style, run.variant, run.training_seed)
    last = own_step(model)
    if last is None or not trained_files(model):
        raise MissingArtifactError(f"{model} is not there: run the training stage first")
    chosen = {name: one.model_dump() for name, one in params.style(style).use_steps.items()}
    before = dict(chosen)
    chosen.pop(run.name, None)
    if step not in (None, last):
        weights = weights_digest(weights_of_step(model, step))
        chosen[run.name] = {"step": step, "weights": weights}
    if chosen != before:
        write_settings(workspace, {f"styles.{style}.use_steps": chosen})
    return last if step is None else step
