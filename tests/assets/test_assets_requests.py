"""The sensor ``keep_up_to_date``: which runs it asks for, in which order, and which not again."""

import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from dagster import (
    DagsterInstance,
    DagsterRunStatus,
    RunRequest,
    SensorResult,
    SkipReason,
    build_run_status_sensor_context,
    build_schedule_context,
    build_sensor_context,
)
from dagster._core.test_utils import create_run_for_test

from assets import sensors
from assets.definitions import definitions
from assets.jobs import JOBS
from assets.runs import ATTEMPT, MADE_FROM, PARTITION, Demo, asked_for, demo_under_way
from assets.sensors import due, keep_up_to_date, wanted_now
from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.params import DagsterConfig
from nsync_pipeline.workspace import Workspace
from tests.support.demo_workspace import edit_params

Make = Callable[..., list[str]]


def requests(place: Workspace) -> list[RunRequest]:
    graph = Graph.read(place)
    return list(due(graph, graph.standings(list(graph.params.styles)), "now"))


def named(requests: list[RunRequest]) -> list[str]:
    return [f"{request.job_name} {request.partition_key}" for request in requests]


def assets_of(request: RunRequest) -> set[str]:
    return {key.to_user_string() for key in request.asset_selection or ()}


def test_parts_are_requested_each_after_what_it_needs(place: Workspace, make: Make) -> None:
    (first,) = requests(place)
    assert (first.job_name, first.partition_key) == ("prepare", "ink")
    assert assets_of(first) == {"style_set", "captions", "negative_set"}
    make("style_set", "captions")
    assert named(requests(place)) == ["prepare ink", "draw_base ink"]
    make("negative_set", "base_generation")
    learn = requests(place)
    assert named(learn) == ["learn ink|lora-0", "learn ink|nsync-0"]
    assert assets_of(learn[0]) == {"lora"}
    make("training")
    assert named(requests(place)) == ["draw ink|lora-0", "draw ink|nsync-0"]
    make("generation")
    (last,) = requests(place)
    assert (last.job_name, assets_of(last)) == ("assess", {"evaluation", "report"})
    make()
    assert requests(place) == []


def test_only_what_is_out_of_date_is_requested(place: Workspace, make: Make) -> None:
    make()
    edit_params(place, "nsync: {", "nsync: {learning_rate: 0.5, ")
    assert named(requests(place)) == ["learn ink|nsync-0"]
    make("training", "generation")
    assert named(requests(place)) == ["assess ink"]
    make()
    shutil.rmtree(place.report("ink"))
    (again,) = requests(place)
    assert assets_of(again) == {"report"}


def test_request_is_known_again_however_much_of_it_is_made(place: Workspace, make: Make) -> None:
    before = requests(place)[0].tags[MADE_FROM]
    make("style_set", "captions")
    assert requests(place)[0].tags[MADE_FROM] == before
    edit_params(place, "seed: 0\n", "seed: 1\n")
    assert requests(place)[0].tags[MADE_FROM] != before


@pytest.mark.parametrize("status", [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED])
def test_nothing_is_requested_of_what_is_being_made(
    place: Workspace, make: Make, instance: DagsterInstance, status: DagsterRunStatus
) -> None:
    make("style_set", "captions", "negative_set", "base_generation")
    create_run_for_test(instance, tags={PARTITION: "ink|lora-0"}, status=status)
    assert named(list(wanted_now(instance, iter(requests(place)), "now"))) == ["learn ink|nsync-0"]


@pytest.mark.parametrize("status", [DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED])
def test_what_failed_is_requested_when_what_makes_it_changes_or_in_another_attempt(
    place: Workspace, instance: DagsterInstance, make: Make, status: DagsterRunStatus
) -> None:
    (request,) = wanted_now(instance, iter(requests(place)), "now")
    failed = {**request.tags, PARTITION: "ink"}
    create_run_for_test(instance, tags={**failed, ATTEMPT: "an earlier one"}, status=status)
    assert len(list(wanted_now(instance, iter(requests(place)), "now"))) == 1
    create_run_for_test(instance, tags=failed, status=status)
    assert request.tags[ATTEMPT] == "now"
    make("style_set")
    assert list(wanted_now(instance, iter(requests(place)), "now")) == []
    edit_params(place, "seed: 0\n", "seed: 1\n")
    assert len(list(wanted_now(instance, iter(requests(place)), "now"))) == 1


def test_setting_changed_back_is_requested_again(
    place: Workspace, instance: DagsterInstance
) -> None:
    (request,) = requests(place)
    create_run_for_test(
        instance, tags={**request.tags, PARTITION: "ink"}, status=DagsterRunStatus.SUCCESS
    )
    assert len(list(wanted_now(instance, iter(requests(place)), "now"))) == 1


def test_queue_is_kept_short(
    place: Workspace, instance: DagsterInstance, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("style_set", "captions", "negative_set", "base_generation")
    monkeypatch.setattr(sensors, "AT_ONCE", 1)
    assert named(list(wanted_now(instance, iter(requests(place)), "now"))) == ["learn ink|lora-0"]
    create_run_for_test(instance, status=DagsterRunStatus.STARTED)
    assert list(wanted_now(instance, iter(requests(place)), "now")) == []


def test_sensor_asks_for_runs_and_says_what_is_wrong_with_the_settings(
    place: Workspace, instance: DagsterInstance, make: Make
) -> None:
    result = keep_up_to_date(build_sensor_context(instance))
    assert isinstance(result, SensorResult)
    assert named(list(result.run_requests or ())) == ["prepare ink"]
    assert instance.get_dynamic_partitions("style") == ["ink"]
    make()
    assert isinstance(keep_up_to_date(build_sensor_context(instance)), SkipReason)
    place.params_file.write_text("styles: 3\n")
    result = keep_up_to_date(build_sensor_context(instance))
    assert isinstance(result, SkipReason)
    assert "styles" in str(result.skip_message)


def test_night_schedules_ask_for_what_is_due_of_their_job(
    place: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    instance = DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster")))
    repository = definitions(DagsterConfig()).get_repository_def()
    night = {schedule.name: schedule for schedule in sensors.night_schedules("0 1 * * *")}
    assert set(night) == {f"night_{job.name}" for job in JOBS}
    at = datetime(2026, 1, 2, 1, tzinfo=UTC)

    def asked(name: str) -> list[str | None]:
        context = build_schedule_context(
            instance, scheduled_execution_time=at, repository_def=repository
        )
        found = night[name].evaluate_tick(context).run_requests
        return [request.partition_key for request in found or ()]

    assert (asked("night_prepare"), asked("night_learn")) == (["ink"], [])


def test_failed_run_starts_the_command_of_the_settings(
    place: Workspace, instance: DagsterInstance, tmp_path: Path
) -> None:
    run = create_run_for_test(instance, job_name="learn", status=DagsterRunStatus.FAILURE)
    event = instance.report_run_failed(run, "lights out")
    context = build_run_status_sensor_context("alert", event, instance, run).for_run_failure()
    assert isinstance(sensors.alert(context), SkipReason)
    edit_params(place, "seed: 0\n", "seed: 0\ndagster: {on_failure: 'cat > told.txt'}\n")
    assert sensors.alert(context) is None
    assert "learn: " in (tmp_path / "told.txt").read_text()


def test_demo_is_served_while_its_process_lives(
    place: Workspace, instance: DagsterInstance
) -> None:
    assert isinstance(sensors.demo(build_sensor_context(instance)), SkipReason)
    place.dagster_home.mkdir(parents=True)
    with asked_for(place, Demo("ink", "demo-1", os.getpid())):
        result = sensors.demo(build_sensor_context(instance))
        assert isinstance(result, SensorResult)
        (request,) = result.run_requests or ()
        assert (request.job_name, request.tags[ATTEMPT]) == ("prepare", "demo-1")
    assert demo_under_way(place) is None
    ended = subprocess.Popen(["true"])
    ended.wait()
    with asked_for(place, Demo("ink", "demo-1", ended.pid)):
        assert demo_under_way(place) is None


def test_of_some_trainings_only_these_are_asked_for(
    place: Workspace, instance: DagsterInstance, make: Make
) -> None:
    make("style_set", "captions", "negative_set", "base_generation")
    place.dagster_home.mkdir(parents=True)
    runs = {run.name for run in Graph.read(place).params.training_runs()}
    assert "lora-0" in runs
    for trainings, keys in ((("lora-0",), ["learn ink|lora-0"]), (("other-0",), None)):
        with asked_for(place, Demo("ink", "demo-1", os.getpid(), trainings)):
            result = sensors.demo(build_sensor_context(instance))
        asked = list(result.run_requests or ()) if isinstance(result, SensorResult) else None
        assert (None if asked is None else named(asked)) == keys
