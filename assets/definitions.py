"""All of the code location."""

from dagster import Definitions, in_process_executor

from .checks import CHECKS
from .jobs import JOBS
from .lineage import external_assets, stage_assets
from .sensors import demo, keep_up_to_date, workspace

defs = Definitions(
    assets=[*external_assets(), *stage_assets(), *stage_assets(of_ablation=True)],
    asset_checks=CHECKS,
    jobs=JOBS,
    sensors=[workspace, keep_up_to_date, demo],
    executor=in_process_executor,  # each step is a process of its own already: DVC's
)
