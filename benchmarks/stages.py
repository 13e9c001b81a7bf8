"""One artefact of a benchmark's own workspace, made by the pipeline's stage.

Without what surrounds a run of the pipeline (locks, ``made.json``, MLflow): a benchmark times the
stage, and says itself what is kept.
"""

import shutil
from pathlib import Path

from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.params import Params
from nsync_pipeline.stage import Progress, StageContext
from nsync_pipeline.workspace import Workspace


def artefact_folder(workspace: Workspace, params: Params, stage: str, style: str) -> Path:
    """Where the artefact is, once it is made."""
    return workspace.root / Graph(workspace, params).artefact(stage, style).path


def make_artefact(
    workspace: Workspace,
    params: Params,
    stage: str,
    style: str,
    variant: str | None = None,
    training_seed: int | None = None,
    *,
    progress: Progress,
) -> None:
    """Run ``stage`` and put what it makes in its place, instead of what was there."""
    graph = Graph(workspace, params)
    artefact = graph.artefact(stage, style, variant, training_seed)
    folder = workspace.root / artefact.path
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    result = artefact.stage.run(
        StageContext(
            workspace, partial, graph.settings(artefact), style, variant, artefact.training_seed,
            progress=progress,
        )
    )  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    for leftover in result.leftovers:
        shutil.rmtree(leftover, ignore_errors=True)
