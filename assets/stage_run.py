"""One stage, run by DVC for an asset, with a line from the engine to the Dagster run."""

import warnings
from typing import Any

from dagster import (
    AssetExecutionContext,
    MaterializeResult,
    PipesTempFileContextInjector,
    PipesTempFileMessageReader,
    PreviewWarning,
    open_pipes_session,
)

from assets.artefact import Artefact, materialize_result
from assets.dvc import DvcError, repro
from assets.lock_file import LOCK, read_lock
from assets.partitions import style_and_training
from assets.place import WORKSPACE
from nsync_pipeline.graph.dvc import check_dvc_file
from nsync_pipeline.params import read_params

# Raised by dagster's own code, at every session.
warnings.filterwarnings("ignore", category=PreviewWarning)


def run_in_dvc(context: AssetExecutionContext, asset: str) -> MaterializeResult[Any]:
    """Bring the artefact of this partition up to date, and say what it is now.

    Raises:
        ParamsError: dvc.yaml or a folder it names is not as params.yaml asks for; said here, as DVC
            would only name a file that is missing.
        DvcError: DVC or the stage failed.
    """
    check_dvc_file(WORKSPACE, read_params(WORKSPACE.params_file))
    artefact = Artefact(asset, *style_and_training(context.partition_key))
    with open_pipes_session(
        context=context,
        context_injector=PipesTempFileContextInjector(),
        message_reader=PipesTempFileMessageReader(),
    ) as session:
        repro(artefact.dvc_stage, session.get_bootstrap_env_vars())
    entry = read_lock(LOCK).get(artefact.dvc_stage)
    if entry is None:
        raise DvcError(f"{artefact.dvc_stage} ran, but dvc.lock has no entry for it")
    return materialize_result(context.instance, artefact, entry)
