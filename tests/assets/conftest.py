"""A workspace whose stages are fakes (those of tests/graph), and what Dagster knows of it."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

sys.path.insert(0, str(Path(__file__).parents[1] / "graph"))

from assets.definitions import defs
from assets.lineage import asset_key
from assets.partitions import partition_key
from nsync_pipeline.graph.artefacts import Artefact, Graph, State
from nsync_pipeline.graph.dvc import sync_dvc_file
from nsync_pipeline.graph.run import bring_up_to_date
from nsync_pipeline.graph.table import Stage
from nsync_pipeline.workspace import Workspace
from tests.support.fake_stages import SMALL_PARAMS, Fakes


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """Fake stages in the place of the real ones, in this process."""
    made = Fakes()

    def run(stage: Stage, context: Any) -> Any:
        return made.run(stage, context)

    monkeypatch.setattr(Stage, "run", run)
    return made


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The current folder: a style, two variants, one training seed, an ablation; nothing made."""
    (tmp_path / "params.yaml").write_text(SMALL_PARAMS)
    monkeypatch.chdir(tmp_path)
    sync_dvc_file(Workspace(tmp_path))
    return Workspace(tmp_path)


@pytest.fixture
def make(place: Workspace, fakes: Fakes) -> Callable[..., list[str]]:
    """Brings everything up to date, or the stages that are named; gives what was made."""

    def made(*stages: str, of_ablation: bool = False) -> list[str]:
        titles = []
        for artefact in standings_of(place, of_ablation):
            if stages and artefact.stage.name not in stages:
                continue
            if bring_up_to_date(Graph.read(place), artefact).is_new:
                titles.append(artefact.title)
        return titles

    return made


@pytest.fixture
def instance() -> DagsterInstance:
    return DagsterInstance.ephemeral()


def standings_of(place: Workspace, of_ablation: bool = False) -> dict[Artefact, State]:
    """How everything in the workspace stands."""
    graph = Graph.read(place)
    found = graph.standings(list(graph.params.styles), of_ablation)
    return {artefact: standing.state for artefact, standing in found.items()}


def stale_in_dagster(
    instance: DagsterInstance, place: Workspace, of_ablation: bool = False
) -> dict[str, str]:
    """What the page shows as other than fresh, by path of the artefact."""

    async def ask() -> dict[str, str]:
        graph = defs.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        return {
            artefact.path: resolver.get_status(
                asset_key(artefact.stage, artefact.of_ablation), partition_key(artefact)
            ).value
            for artefact in standings_of(place, of_ablation)
        }

    return {path: status for path, status in asyncio.run(ask()).items() if status != "FRESH"}
