"""The lineage graph: an asset for each stage of the table, and for what people fill.

Each asset has DVC run one stage of the engine; what it shows, the artefact says of itself.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    AutomationCondition,
    DataVersion,
    Failure,
    FreshnessPolicy,
    MaterializeResult,
    RetryRequested,
    asset,
)

from nsync_pipeline.errors import UserError
from nsync_pipeline.graph.artefacts import Artefact, difference
from nsync_pipeline.graph.dvc import check_dvc_file, stage_name
from nsync_pipeline.graph.made import Made
from nsync_pipeline.graph.table import BY_HAND, CHOICES, SOURCES, STAGES, Stage
from nsync_pipeline.params import DagsterConfig

from .dvc import DvcError, repro
from .metadata import metadata_of
from .partitions import STYLES, artefact_of, partitions_of
from .workspace import graph_now

OWNERS = ["team:nsync"]
DEVICES = "gpu"
"""The pool of assets that use an accelerator: as many run at once as its limit says."""
ABLATION, PEOPLE = "ablation", "people"
PEOPLE_S = {
    SOURCES: AssetKey("sources"),
    BY_HAND: AssetKey("captions_by_hand"),
    CHOICES: AssetKey("choices"),
}
"""What people fill, and the assets that stand for it."""
SAYS = {
    SOURCES: ("image", "The pictures of a style, as `nsync add-style` brought them in."),
    BY_HAND: ("json", "What a person wrote that the pictures of a style show (`nsync studio`)."),
    CHOICES: ("json", "What people chose on blind pages of a style (`nsync blind read`)."),
}
"""The kind of each, and what it is."""

RETRIES, FIRST_PAUSE = 2, 10.0
"""How often, and after how many seconds, that is tried again whose process was killed.

Not as a RetryPolicy: Dagster would try again what was cancelled in its page, too.
"""


def asset_key(stage: Stage, of_ablation: bool = False) -> AssetKey:
    """What the asset of ``stage`` is called."""
    own = of_ablation and not stage.shared
    return AssetKey([ABLATION, stage.asset] if own else [stage.asset])


def external_assets() -> Iterator[AssetSpec]:
    """What the graph does not make."""
    for folder, (kind, says) in SAYS.items():
        yield AssetSpec(
            PEOPLE_S[folder], description=says, partitions_def=STYLES, group_name=PEOPLE,
            kinds={kind}, owners=OWNERS,
        )  # fmt: skip


def stage_assets(settings: DagsterConfig, of_ablation: bool = False) -> list[AssetsDefinition]:
    """The assets of all stages, or of those that an ablation has of its own."""
    stages = (stage for stage in STAGES.values() if not (of_ablation and stage.shared))
    return [_stage_asset(stage, settings, of_ablation) for stage in stages]


def _stage_asset(stage: Stage, settings: DagsterConfig, of_ablation: bool) -> AssetsDefinition:
    hours = settings.fresh_within_hours
    keys = [asset_key(STAGES[need], of_ablation) for need in stage.needs]

    @asset(
        key=asset_key(stage, of_ablation),
        deps=[*keys, *(PEOPLE_S[folder] for folder in stage.reads)],
        description=stage.says,
        partitions_def=partitions_of(stage.per_training, of_ablation),
        group_name=ABLATION if of_ablation else stage.group,
        kinds={"dvc", *stage.kinds},
        owners=OWNERS,
        code_version=str(stage.recipe),
        pool=DEVICES if stage.on_device else None,
        automation_condition=(
            AutomationCondition.eager() if settings.automation == "eager" else None
        ),
        freshness_policy=(
            FreshnessPolicy.time_window(timedelta(hours=hours)) if hours is not None else None
        ),
    )
    def stage_asset(context: AssetExecutionContext) -> MaterializeResult[Any]:
        return _materialized(context, artefact_of(stage.name, context.partition_key, of_ablation))

    return stage_asset


def _materialized(context: AssetExecutionContext, artefact: Artefact) -> MaterializeResult[Any]:
    """Bring the artefact up to date, and say what it says of itself."""
    failed: UserError | DvcError | None = None
    try:
        made = _brought_up_to_date(context, artefact)
    except (UserError, DvcError) as error:
        failed = error
    if failed is not None:  # raised out here: nothing is folded above the one message
        failure = Failure(description=str(failed))
        if getattr(failed, "was_killed", False):
            pause = FIRST_PAUSE * 2**context.retry_number
            raise RetryRequested(RETRIES, pause) from failure
        raise failure
    root = graph_now().workspace.root
    return MaterializeResult(
        data_version=DataVersion(made.content), metadata=metadata_of(root, artefact, made)
    )


def _brought_up_to_date(context: AssetExecutionContext, artefact: Artefact) -> Made:
    graph = graph_now()
    check_dvc_file(graph)
    graph.artefact(  # it is one of those of now
        artefact.stage.name, artefact.style, artefact.variant, artefact.training_seed,
        artefact.of_ablation,
    )  # fmt: skip
    repro(context, graph.workspace.root, artefact)
    graph = graph_now()
    made, plan = graph.made(artefact), graph.plan(artefact)
    if made is None or not made.made_alike(plan):
        why = "it is not there" if made is None else difference(made, plan)
        raise DvcError(
            f"DVC takes {artefact.path} to be up to date, and it is not: {why}. "
            f"`dvc repro --force --single-item {stage_name(artefact)}` makes it."
        )
    return made
