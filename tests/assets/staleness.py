"""What the Dagster page would show of each artefact: run in a workspace, prints JSON.

``python staleness.py [sync]`` prints {"<asset> <partition>": "FRESH", "STALE" or "MISSING"}; with
``sync``, after ``dvc.lock`` was carried over.
"""

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

from assets.artefact import all_artefacts
from assets.home import open_instance
from assets.sync import sync_from_lock
from dagster import AssetKey
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from assets.definitions import defs
from assets.partitions import PARAMS


async def main() -> None:
    with open_instance() as instance:
        if "sync" in sys.argv:
            sync_from_lock(instance)
        graph = defs.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        statuses = {
            f"{artefact.asset} {artefact.partition}": resolver.get_status(
                AssetKey(artefact.asset), artefact.partition
            ).value
            for style in PARAMS.styles
            for artefact in all_artefacts(style)
        }
    print(json.dumps(statuses))


if __name__ == "__main__":
    asyncio.run(main())
