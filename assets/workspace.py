"""The workspace this code location stands for: the folder that `dagster dev` is started in."""

import os
from pathlib import Path

from nsync_pipeline.errors import UserError
from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.graph.processes import ENDS_WITH_PARENT, die_with_parent
from nsync_pipeline.params import DagsterConfig
from nsync_pipeline.workspace import Workspace

if ENDS_WITH_PARENT in os.environ:  # every process of a demo ends with it, however it ends
    die_with_parent()


def dagster_settings() -> DagsterConfig:
    """The section ``dagster``; the defaults where there are no settings that can be read."""
    try:
        return graph_now().params.dagster
    except UserError:  # each run and sensor says what is wrong
        return DagsterConfig()


def graph_now() -> Graph:
    """The artefacts as ``params.yaml`` asks for them at this moment."""
    return Graph.read(Workspace(Path.cwd().resolve()))
