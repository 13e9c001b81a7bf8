"""The workspace this code location stands for: the folder that `dagster dev` is started in."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from nsync_pipeline.errors import UserError
from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.graph.locks import driver_is_there
from nsync_pipeline.graph.places import Places, places_of
from nsync_pipeline.graph.processes import ENDS_WITH_PARENT, die_with_parent
from nsync_pipeline.params import DagsterConfig, Params
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


def places_here(params: Params) -> Places:
    """As ``places_of``; torch, which counts the cards, is not kept in this process."""
    return places_of(params, _cards)


@cache
def _cards() -> list[str]:
    if not driver_is_there():
        return []
    count = "from nsync_pipeline.graph.locks import visible_devices; print(*visible_devices())"
    command = [sys.executable, "-c", count]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
    return done.stdout.split()
