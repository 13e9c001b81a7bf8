"""The workspace this code location stands for: the folder that `dagster dev` is started in."""

import os
from pathlib import Path

from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.graph.processes import ENDS_WITH_PARENT, die_with_parent
from nsync_pipeline.workspace import Workspace

if ENDS_WITH_PARENT in os.environ:  # every process of a demo ends with it, however it ends
    die_with_parent()


def graph_now() -> Graph:
    """The artefacts as ``params.yaml`` asks for them at this moment."""
    return Graph.read(Workspace(Path.cwd().resolve()))
