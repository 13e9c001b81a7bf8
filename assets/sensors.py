"""What happens by itself: the page follows the workspace, and makes it whole where asked to.

``workspace`` follows ``params.yaml`` (partitions, places of the pool), the folders that people
fill, and what any door has made. ``keep_up_to_date`` requests a run for whatever is out of date; it
is off until somebody turns it on. ``demo`` does so for what ``make demo`` asks for.
"""

import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from dagster import (
    AssetCheckEvaluation,
    AssetMaterialization,
    AssetObservation,
    AssetRecordsFilter,
    DagsterInstance,
    DefaultSensorStatus,
    DynamicPartitionsDefinition,
    RunFailureSensorContext,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    run_failure_sensor,
    schedule,
    sensor,
)

from nsync_pipeline.errors import UserError
from nsync_pipeline.files import parse_json
from nsync_pipeline.graph.artefacts import Artefact, Graph, Standing, State
from nsync_pipeline.graph.made import Made
from nsync_pipeline.graph.places import Places
from nsync_pipeline.workspace import Workspace

from .checks import UP_TO_DATE, freshness
from .jobs import JOBS, SAYS, part_of
from .lineage import DEVICES, PEOPLE_S, asset_key
from .metadata import metadata_of
from .partitions import ABLATION_TRAININGS, STYLES, TRAININGS, partition_key
from .runs import (
    ATTEMPT,
    FAILED,
    MADE_FROM,
    PARTITION,
    THIS_ATTEMPT,
    UNFINISHED,
    demo_under_way,
    reason_of,
    runs_of,
)  # fmt: skip
from .workspace import dagster_settings, graph_now, places_here

DATA_VERSION = "dagster/data_version"
PORTION = 150
"""As much is reported at a time (10 to 30 ms each), and what is left at the next."""
SHORT = 16  # hex digits of a digest that need no more
AT_ONCE = 20
"""Runs that may be under way or in the queue; others are requested when these have ended."""


@dataclass
class Known:
    """What Dagster was told: the sensor's cursor, so that only news is reported."""

    versions: dict[str, str] = field(default_factory=dict)  # of artefacts and people's folders
    checks: dict[str, str] = field(default_factory=dict)  # what `up_to_date` said, by asset


@sensor(minimum_interval_seconds=10, default_status=DefaultSensorStatus.RUNNING)
def workspace(context: SensorEvaluationContext) -> SkipReason:
    """Follow params.yaml, the folders of people, and what DVC or the command line made."""
    try:
        graph = graph_now()
    except UserError as error:
        return SkipReason(str(error))
    known = Known(**parse_json(context.cursor)) if context.cursor else Known()
    follow_partitions(context.instance, graph)
    follow_places(context.instance, places_here(graph.params))
    news = report_news(context.instance, graph, known, PORTION)
    context.update_cursor(json.dumps(asdict(known)))
    if not news:
        return SkipReason("Dagster knows all of the workspace")
    return SkipReason(f"reported {', '.join(news[:5])}{', ...' if len(news) > 5 else ''}")


@sensor(jobs=JOBS, minimum_interval_seconds=5)
def keep_up_to_date(context: SensorEvaluationContext) -> SensorResult | SkipReason:
    """Request a run for what is out of date and can be made now; styles only, no ablations."""
    return _requests(context.instance, None, THIS_ATTEMPT)


@sensor(jobs=JOBS, minimum_interval_seconds=5, default_status=DefaultSensorStatus.RUNNING)
def demo(context: SensorEvaluationContext) -> SensorResult | SkipReason:
    """The same, for the one style of `make demo` while that runs."""
    asked = demo_under_way(Workspace(Path.cwd().resolve()))
    if asked is None:
        return SkipReason("no demo is under way")
    return _requests(context.instance, asked.style, asked.attempt, asked.trainings)


def night_schedules(cron: str) -> list[ScheduleDefinition]:
    """One for each job, off until somebody turns it on; the whole of a style takes all of them."""
    return [_night_schedule(cron, job) for job in JOBS]


def _night_schedule(cron: str, job: Any) -> ScheduleDefinition:
    @schedule(
        cron_schedule=cron, job=job, name=f"night_{job.name}",
        description="Requests what is out of date and can be made then: dagster.night says when.",
    )  # fmt: skip
    def night(context: ScheduleEvaluationContext) -> list[RunRequest] | SkipReason:
        found = _requests(context.instance, None, f"{context.scheduled_execution_time:%Y-%m-%d}")
        if isinstance(found, SkipReason):
            return found
        own = [one for one in found.run_requests or () if one.job_name == job.name]
        return own or SkipReason("nothing to request now")

    return night


@run_failure_sensor(default_status=DefaultSensorStatus.RUNNING, minimum_interval_seconds=10)
def alert(context: RunFailureSensorContext) -> SkipReason | None:
    """Start the command `dagster.on_failure` of params.yaml for each run that failed."""
    command = dagster_settings().on_failure
    if command is None:
        return SkipReason("dagster.on_failure in params.yaml names no command")
    text = f"{context.dagster_run.job_name}: {reason_of(context.instance, context.dagster_run)}\n"
    subprocess.run(command, shell=True, input=text, text=True, timeout=60, check=True)
    return None


def _requests(
    instance: DagsterInstance, style: str | None, attempt: str, trainings: tuple[str, ...] = ()
) -> SensorResult | SkipReason:
    try:
        graph = graph_now()
    except UserError as error:
        return SkipReason(str(error))
    follow_partitions(instance, graph)
    follow_places(instance, places_here(graph.params))
    styles = [style] if style else list(graph.params.styles)
    all_due = (one for s in styles for one in due(graph, graph.standings([s]), attempt))
    asked = (one for one in all_due if _is_asked(one, trainings))
    requests = list(wanted_now(instance, asked, attempt))
    return SensorResult(run_requests=requests) if requests else SkipReason("nothing to request now")


def _is_asked(request: RunRequest, trainings: tuple[str, ...]) -> bool:
    """What is made once a style always is; what is made from all trainings waits for them."""
    _, _, training = (request.partition_key or "").partition("|")
    return not trainings or not training or training in trainings


def wanted_now(
    instance: DagsterInstance, requests: Iterator[RunRequest], attempt: str
) -> Iterator[RunRequest]:
    """Those of which nothing is being made already, and that have not failed in this attempt."""
    unfinished = runs_of(instance, UNFINISHED)
    # Of the runs of other jobs, as the page's own are, nobody knows here what they make.
    busy = {(r.job_name if r.job_name in SAYS else None, r.tags.get(PARTITION)) for r in unfinished}
    failed = {run.tags.get(MADE_FROM) for run in runs_of(instance, FAILED, attempt)}
    left = AT_ONCE - len(unfinished)
    for request in requests:
        if left <= 0:
            return
        key = request.partition_key
        is_busy = not busy.isdisjoint({(request.job_name, key), (None, key)})
        if not is_busy and request.tags[MADE_FROM] not in failed:
            left -= 1
            yield request


def due(graph: Graph, standings: Mapping[Artefact, Standing], attempt: str) -> Iterator[RunRequest]:
    """A run for each part of a style that is out of date, and whose inputs are not."""
    parts: dict[tuple[str, str], list[Artefact]] = {}
    for artefact in standings:
        parts.setdefault((part_of(artefact.stage), partition_key(artefact)), []).append(artefact)
    for (job, key), part in parts.items():
        not_fresh = [a for a in part if standings[a].state is not State.FRESH]
        needs = {need: standings[need] for a in part for need in graph.needs(a) if need not in part}
        if not_fresh and all(standing.state is State.FRESH for standing in needs.values()):
            yield RunRequest(
                job_name=job,
                partition_key=key,
                asset_selection=[asset_key(artefact.stage) for artefact in not_fresh],
                tags={ATTEMPT: attempt, MADE_FROM: _made_from(graph, part, needs)},
            )


def _made_from(graph: Graph, part: list[Artefact], needs: Mapping[Artefact, Standing]) -> str:
    """A digest of what decides the part: the same, however much of it is made already."""
    said = [
        [[a.slot, a.stage.recipe, graph.identity(a)] for a in part],
        sorted((need.path, s.made.content) for need, s in needs.items() if s.made is not None),
        [people_s(graph, folder, a.style) for a in part for folder in a.stage.reads],
    ]
    return _digest(said)


def _digest(said: object) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:SHORT]


def people_s(graph: Graph, folder: str, style: str) -> str:
    """The digest of a folder or file that people fill."""
    return (graph.people_s(folder.format(style=style)) or "none")[:SHORT]


def follow_partitions(instance: DagsterInstance, graph: Graph) -> None:
    """Add the partitions that ``params.yaml`` asks for, and remove those it no longer does."""
    ablation = graph.ablation_params.training_runs() if graph.params.ablation else ()
    _set_partitions(instance, STYLES, list(graph.params.styles))
    _set_partitions(instance, TRAININGS, [run.name for run in graph.params.training_runs()])
    _set_partitions(instance, ABLATION_TRAININGS, [run.name for run in ablation])


def follow_places(instance: DagsterInstance, places: Places) -> None:
    """Have the pool let as many steps run at once as there are places for."""
    storage = instance.event_log_storage
    limits = {pool.name: pool.limit for pool in storage.get_pool_limits()}
    if limits.get(DEVICES) != places.count:
        storage.set_concurrency_slots(DEVICES, places.count)


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
    instance: DagsterInstance, graph: Graph, known: Known, most: int | None = None
) -> list[str]:
    """Tell Dagster what it does not know yet, upstream first; gives what that was.

    After ``most`` it stops, and goes on from there when it is called again.
    """
    return list(islice(_reported(instance, graph, known), most))


def _reported(instance: DagsterInstance, graph: Graph, known: Known) -> Iterator[str]:
    """Reports one thing after the other, and gives what it was."""
    # What a run of Dagster is making, that run reports.
    busy = {run.tags.get(PARTITION) for run in runs_of(instance, UNFINISHED)}
    standings: dict[Artefact, Standing] = {}
    for style in graph.params.styles:
        yield from _report_filled(instance, graph, known, style)
        of_style = graph.standings([style])
        if graph.params.ablation:
            of_style |= graph.standings([style], of_ablation=True)
        for artefact, standing in of_style.items():
            if standing.made is not None and partition_key(artefact) not in busy:
                yield from _report_made(instance, graph, known, artefact, standing.made)
        standings |= of_style
    for key, found in freshness(standings).items():
        name, said = key.to_user_string(), _digest([found.count, dict(found.stale)])
        if known.checks.get(name) != said:
            known.checks[name] = said
            result = found.result()
            evaluation = AssetCheckEvaluation(
                asset_key=key, check_name=UP_TO_DATE, passed=bool(result.passed),
                severity=result.severity, description=result.description, metadata=result.metadata,
            )  # fmt: skip
            instance.report_runless_asset_event(evaluation)
            yield f"{name}: {found.description}"


def _report_filled(
    instance: DagsterInstance, graph: Graph, known: Known, style: str
) -> Iterator[str]:
    for folder, key in PEOPLE_S.items():
        path, version = folder.format(style=style), people_s(graph, folder, style)
        if known.versions.get(path) == version:
            continue
        known.versions[path] = version
        of = AssetRecordsFilter(key, asset_partitions=[style])
        records = instance.fetch_observations(of, limit=1).records
        if version not in [_version(r.event_log_entry.asset_observation) for r in records]:
            event = AssetObservation(key, partition=style, tags={DATA_VERSION: version})
            instance.report_runless_asset_event(event)
            yield path


def _report_made(
    instance: DagsterInstance, graph: Graph, known: Known, artefact: Artefact, made: Made
) -> Iterator[str]:
    path, version = artefact.path, made.content[:SHORT]
    if known.versions.get(path) == version:
        return
    known.versions[path] = version
    key, partition = asset_key(artefact.stage, artefact.of_ablation), partition_key(artefact)
    of = AssetRecordsFilter(key, asset_partitions=[partition])
    records = instance.fetch_materializations(of, limit=1).records
    if made.content not in [_version(record.asset_materialization) for record in records]:
        event = AssetMaterialization(
            key, partition=partition, tags={DATA_VERSION: made.content},
            metadata=metadata_of(graph.workspace.root, artefact, made),
        )  # fmt: skip
        instance.report_runless_asset_event(event)
        yield path


def _version(event: AssetMaterialization | AssetObservation | None) -> str | None:
    """The version of what Dagster was told."""
    return (event.tags or {}).get(DATA_VERSION) if event else None
