"""All of the code location."""

from dagster import (
    AssetSelection,
    AutomationConditionSensorDefinition,
    DefaultSensorStatus,
    Definitions,
    in_process_executor,
)

from nsync_pipeline.params import DagsterConfig

from .checks import CHECKS
from .jobs import ABLATION_JOBS, JOBS
from .lineage import external_assets, stage_assets
from .sensors import alert, demo, keep_up_to_date, night_schedules, workspace
from .workspace import dagster_settings


def definitions(settings: DagsterConfig) -> Definitions:
    """What the section ``dagster`` asks for."""
    ablation = stage_assets(settings, of_ablation=True)
    sensors = [workspace, keep_up_to_date, demo, alert]
    if settings.automation != "none":
        everything, running = AssetSelection.all(), DefaultSensorStatus.RUNNING
        sensors.append(
            AutomationConditionSensorDefinition(
                "automation", target=everything, default_status=running
            )
        )
    return Definitions(
        assets=[
            *external_assets(),
            *stage_assets(settings),
            # Of an ablation the page only shows what was made: training one takes hours.
            *(ablation if settings.ablation else (one.get_asset_spec() for one in ablation)),
        ],
        asset_checks=CHECKS,
        jobs=[*JOBS, *(ABLATION_JOBS if settings.ablation else ())],
        sensors=sensors,
        schedules=night_schedules(settings.night),
        executor=in_process_executor,  # each step is a process of its own already: DVC's
    )


defs = definitions(dagster_settings())
