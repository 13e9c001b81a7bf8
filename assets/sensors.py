"""What happens by itself: the page follows the workspace, and makes it whole where asked to.

``workspace`` follows ``params.yaml`` (partitions), the folders that people fill, and what any door
has made. ``keep_up_to_date`` requests a run for whatever is out of date; it is off until somebody
turns it on.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field

from dagster import (
    AssetCheckEvaluation,
    AssetCheckSeverity,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    AssetRecordsFilter,
    DagsterInstance,
    DagsterRunStatus,
    DefaultSensorStatus,
    DynamicPartitionsDefinition,
    RunRequest,
    RunsFilter,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)

from nsync_pipeline.errors import UserError
from nsync_pipeline.graph.artefacts import Artefact, Graph, Standing, State

from .checks import UP_TO_DATE
from .jobs import JOBS, part_of
from .lineage import PEOPLE_S, asset_key
from .metadata import metadata_of
from .partitions import ABLATION_TRAININGS, STYLES, TRAININGS, partition_key
from .workspace import graph_now

DATA_VERSION = "dagster/data_version"
PARTITION = "dagster/partition"
PORTION = 3.0
"""Seconds that reporting takes at a time; what is left is reported at the next."""
STYLES_VARIABLE = "NSYNC_STYLES"
"""Names the styles that ``keep_up_to_date`` keeps so from the start: those of a demo."""
ATTEMPT = "nsync/attempt"
THIS_ATTEMPT = os.environ.get("NSYNC_ATTEMPT") or str(int(time.time()))
"""A run that failed is requested again only where the pages were started anew, or what it would
make changed."""
UNFINISHED = [
    DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING,
]  # fmt: skip


@dataclass
class Known:
    """What Dagster was told: the sensor's cursor, so that only news is reported."""

    versions: dict[str, str] = field(default_factory=dict)  # of artefacts and people's folders
    stale: dict[str, str] = field(default_factory=dict)  # why an artefact is not up to date


@sensor(minimum_interval_seconds=10, default_status=DefaultSensorStatus.RUNNING)
def workspace(context: SensorEvaluationContext) -> SkipReason:
    """Follow params.yaml, the folders of people, and what DVC or the command line made."""
    try:
        graph = graph_now()
    except UserError as error:
        return SkipReason(str(error))
    known = Known(**json.loads(context.cursor)) if context.cursor else Known()
    follow_partitions(context.instance, graph)
    news = report_news(context.instance, graph, known, PORTION)
    if not news:
        return SkipReason("Dagster knows all of the workspace")
    context.update_cursor(json.dumps(asdict(known)))
    return SkipReason(f"reported {', '.join(news[:5])}{', ...' if len(news) > 5 else ''}")


@sensor(
    jobs=JOBS,
    minimum_interval_seconds=5,
    default_status=DefaultSensorStatus.RUNNING
    if STYLES_VARIABLE in os.environ
    else DefaultSensorStatus.STOPPED,
)
def keep_up_to_date(context: SensorEvaluationContext) -> SensorResult | SkipReason:
    """Request a run for what is out of date and can be made now; styles only, no ablations."""
    try:
        graph = graph_now()
    except UserError as error:
        return SkipReason(str(error))
    follow_partitions(context.instance, graph)
    busy = {
        run.tags.get(PARTITION)
        for run in context.instance.get_runs(RunsFilter(statuses=UNFINISHED))
    }
    styles = os.environ.get(STYLES_VARIABLE, "").split() or list(graph.params.styles)
    requests = [
        request
        for request in due(graph, graph.standings(styles))
        if request.partition_key not in busy
    ]
    return SensorResult(run_requests=requests) if requests else SkipReason("nothing to request now")


def due(graph: Graph, standings: Mapping[Artefact, Standing]) -> Iterator[RunRequest]:
    """A run for each part of a style that is out of date, and whose inputs are not."""
    parts: dict[tuple[str, str], list[Artefact]] = {}
    for artefact, standing in standings.items():
        if standing.state is not State.FRESH:
            part = (part_of(artefact.stage), partition_key(artefact))
            parts.setdefault(part, []).append(artefact)
    for (job, key), artefacts in parts.items():
        outside = {need for a in artefacts for need in graph.needs(a)} - set(artefacts)
        if any(standings[need].state is not State.FRESH for need in outside):
            continue
        yield RunRequest(
            run_key=f"{THIS_ATTEMPT} {job} {key} {_digest(artefacts, standings)}",
            job_name=job,
            partition_key=key,
            asset_selection=[asset_key(artefact.stage) for artefact in artefacts],
            tags={ATTEMPT: THIS_ATTEMPT},
        )


def _digest(artefacts: list[Artefact], standings: Mapping[Artefact, Standing]) -> str:
    said = [(a.slot, standings[a].state.value, standings[a].why) for a in artefacts]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def follow_partitions(instance: DagsterInstance, graph: Graph) -> None:
    """Add the partitions that ``params.yaml`` asks for, and remove those it no longer does."""
    ablation = graph.ablation_params.training_runs() if graph.params.ablation else ()
    _set_partitions(instance, STYLES, list(graph.params.styles))
    _set_partitions(instance, TRAININGS, [run.name for run in graph.params.training_runs()])
    _set_partitions(instance, ABLATION_TRAININGS, [run.name for run in ablation])


def _set_partitions(
    instance: DagsterInstance, definition: DynamicPartitionsDefinition, wanted: list[str]
) -> None:
    name = str(definition.name)
    there = instance.get_dynamic_partitions(name)
    if new := [key for key in wanted if key not in there]:
        instance.add_dynamic_partitions(name, new)
    for key in there:
        if key not in wanted:
            instance.delete_dynamic_partition(name, key)


def report_news(
    instance: DagsterInstance, graph: Graph, known: Known, seconds: float | None = None
) -> list[str]:
    """Tell Dagster what it does not know yet, upstream first; gives what that was.

    With ``seconds`` it stops after so many, and goes on from there when it is called again.
    """
    began = time.monotonic()
    news = []
    for name in _reported(instance, graph, known):
        news.append(name)
        if seconds is not None and time.monotonic() - began > seconds:
            break
    return news


def _reported(instance: DagsterInstance, graph: Graph, known: Known) -> Iterator[str]:
    """Reports one thing after the other, and gives what it was."""
    for style in graph.params.styles:
        for folder, key in PEOPLE_S.items():
            path = folder.format(style=style)
            version = graph.people_s(path)
            if known.versions.get(path) != version:
                known.versions[path] = version
                if _latest(instance, key, style, external=True) != version:
                    tags = {DATA_VERSION: version}
                    instance.report_runless_asset_event(
                        AssetObservation(key, partition=style, tags=tags)
                    )
                    yield path
        for of_ablation in (False, True) if graph.params.ablation else (False,):
            for artefact, standing in graph.standings([style], of_ablation).items():
                if artefact.of_ablation == of_ablation:
                    yield from _report(instance, known, artefact, standing)


def _report(
    instance: DagsterInstance, known: Known, artefact: Artefact, standing: Standing
) -> Iterator[str]:
    key, partition, made = (
        asset_key(artefact.stage, artefact.of_ablation),
        partition_key(artefact),
        standing.made,
    )
    if made is not None and known.versions.get(artefact.path) != made.content:
        known.versions[artefact.path] = made.content
        if _latest(instance, key, partition, external=False) != made.content:
            event = AssetMaterialization(
                key, partition=partition, tags={DATA_VERSION: made.content},
                metadata=metadata_of(artefact, made),
            )  # fmt: skip
            instance.report_runless_asset_event(event)
            yield artefact.path
    why = "" if standing.state in (State.FRESH, State.MISSING) else standing.why
    if known.stale.get(artefact.path, "") != why:
        known.stale[artefact.path] = why
        evaluation = AssetCheckEvaluation(
            asset_key=key, check_name=UP_TO_DATE, passed=not why, partition=partition,
            severity=AssetCheckSeverity.WARN, description=why or "made from what is there now",
        )  # fmt: skip
        instance.report_runless_asset_event(evaluation)
        yield f"{artefact.path} ({why or 'fresh'})"


def _latest(instance: DagsterInstance, key: AssetKey, partition: str, external: bool) -> str | None:
    """The version of the last event there is."""
    fetch = instance.fetch_observations if external else instance.fetch_materializations
    records = fetch(AssetRecordsFilter(key, asset_partitions=[partition]), limit=1).records
    if not records:
        return None
    event = (
        records[0].event_log_entry.asset_observation
        if external
        else records[0].asset_materialization
    )
    return (event.tags or {}).get(DATA_VERSION) if event else None
