"""The stages as a table, and how one of them is run."""

from nsync_pipeline.graph.run import run_stage, run_stage_in_processes
from nsync_pipeline.graph.table import STAGES, Place, Stage, find_stage, places

__all__ = [
    "STAGES",
    "Place",
    "Stage",
    "find_stage",
    "places",
    "run_stage",
    "run_stage_in_processes",
]
