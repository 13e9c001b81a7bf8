"""What Dagster's page knows of a workspace."""

import asyncio

from dagster import DagsterInstance
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from assets.definitions import definitions
from assets.lineage import asset_key
from assets.partitions import partition_key
from nsync_pipeline.graph.artefacts import Artefact, Graph, State
from nsync_pipeline.params import DagsterConfig
from nsync_pipeline.workspace import Workspace


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
        graph = definitions(DagsterConfig(ablation=of_ablation)).resolve_asset_graph()
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        return {
            artefact.path: resolver.get_status(
                asset_key(artefact.stage, artefact.of_ablation), partition_key(artefact)
            ).value
            for artefact in standings_of(place, of_ablation)
        }

    return {path: status for path, status in asyncio.run(ask()).items() if status != "FRESH"}
