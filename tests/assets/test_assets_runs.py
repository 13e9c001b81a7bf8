"""One run of an asset: what it says when it fails, and what is tried again; DVC is a fake."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus, ExecuteInProcessResult

from assets import dvc, lineage
from assets.definitions import defs
from assets.dvc import _Ended
from assets.runs import reason_of
from assets.sensors import follow_partitions
from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.graph.run import bring_up_to_date
from nsync_pipeline.workspace import Workspace
from tests.support.demo_workspace import edit_params

MISSING = """\
nsync: /w/data/ink/style_set is not there, and captions reads it: run style_set first.
ERROR: failed to reproduce 'captions@ink': failed to run: exec env nsync, exited with 2
"""
LOCKED = """\
ERROR: Unable to acquire lock. Most likely another DVC process is running or was terminated
"""

Make = Callable[..., list[str]]


class FakeDvc:
    """Ends as it is told; told nothing more, it makes the artefact."""

    def __init__(self, place: Workspace) -> None:
        self.place, self.ends, self.calls = place, list[_Ended](), 0
        self.makes = True
        self.during: Callable[[], None] = lambda: None

    def __call__(self, root: Path, environment: Mapping[str, str], stage: str) -> _Ended:
        assert root == self.place.root
        self.calls += 1
        self.during()
        if self.ends:
            return self.ends.pop(0)
        graph = Graph.read(self.place)
        if self.makes:
            for artefact in graph.standings(["ink"]):
                if f"{artefact.stage.name}@{'-'.join(artefact.parts)}" == stage:
                    bring_up_to_date(graph, artefact)
        return _Ended(0, "")


@pytest.fixture
def fake_dvc(place: Workspace, fakes: object, monkeypatch: pytest.MonkeyPatch) -> FakeDvc:
    fake = FakeDvc(place)
    monkeypatch.setattr(dvc, "_run", fake)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(lineage, "FIRST_PAUSE", 0.0)
    return fake


def run(instance: DagsterInstance, place: Workspace, job: str, key: str) -> ExecuteInProcessResult:
    follow_partitions(instance, Graph.read(place))
    return defs.resolve_job_def(job).execute_in_process(
        instance=instance, partition_key=key, raise_on_error=False,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )  # fmt: skip


def said(result: ExecuteInProcessResult) -> str:
    (failed,) = result.get_step_failure_events()
    reason = failed.step_failure_data.user_failure_data
    assert reason is not None
    assert failed.step_failure_data.error is not None
    assert failed.step_failure_data.error.cause is None  # nothing is folded above the message
    return str(reason.description)


def test_run_makes_its_part_and_checks_it(
    instance: DagsterInstance, place: Workspace, fake_dvc: FakeDvc
) -> None:
    result = run(instance, place, "prepare", "ink")
    assert result.success
    assert fake_dvc.calls == 3
    checks = {
        (one.asset_key.to_user_string(), one.check_name): one
        for one in result.get_asset_check_evaluations()
    }
    assert all(one.passed for one in checks.values())
    assert {name for key, name in checks if key == "style_set"} == {
        "decodable", "no_test_picture_in_train", "up_to_date"
    }  # fmt: skip
    assert checks[("style_set", "decodable")].metadata["partition"].value == "ink"


def test_message_is_the_engine_s_own_and_a_mistake_is_not_tried_again(
    instance: DagsterInstance, place: Workspace, fake_dvc: FakeDvc
) -> None:
    fake_dvc.ends = [_Ended(1, MISSING)]
    assert said(run(instance, place, "prepare", "ink")) == (
        "/w/data/ink/style_set is not there, and captions reads it: run style_set first."
    )
    assert fake_dvc.calls == 1


def test_fault_of_the_engine_is_said_before_where_it_was() -> None:
    noise = "W1127 torch/utils: an Enum subclass is now natively supported"
    trace = 'Traceback (most recent call last):\n  File "x.py", line 12, in <module>\n'
    ended = _Ended(255, f"{noise}\n{trace}ImportError: no y\nERROR: failed to reproduce 'z'\n")
    lines = str(dvc._error(ended)).splitlines()
    assert lines[:2] == ["ImportError: no y", "Traceback (most recent call last):"]
    assert noise not in lines


def test_locked_workspace_is_waited_for(
    instance: DagsterInstance, place: Workspace, fake_dvc: FakeDvc
) -> None:
    written = "nsync: /w/data is being written by process 7: wait until it has ended"
    fake_dvc.ends = [_Ended(255, LOCKED), _Ended(255, LOCKED), _Ended(1, written)]
    assert run(instance, place, "prepare", "ink").success
    assert fake_dvc.calls == 3 + 3


def test_only_what_was_killed_is_tried_again(
    instance: DagsterInstance, place: Workspace, fake_dvc: FakeDvc
) -> None:
    assert not dvc._error(_Ended(255, "ERROR: you are not inside of a DVC repository")).was_killed
    fake_dvc.ends = [_Ended(-9, "")] * 9
    assert not run(instance, place, "prepare", "ink").success
    (last,) = instance.get_runs(limit=1)
    assert reason_of(instance, last).startswith("style_set: DVC: ")
    assert fake_dvc.calls == 1 + lineage.RETRIES


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_cancelled_is_not_tried_again(
    instance: DagsterInstance, place: Workspace, fake_dvc: FakeDvc, number: signal.Signals
) -> None:
    def cancel() -> None:
        (last,) = instance.get_runs(limit=1)
        instance.report_run_canceling(last)
        os.kill(os.getpid(), number)  # as Dagster's page ends a run

    fake_dvc.during = cancel
    assert not run(instance, place, "prepare", "ink").success
    (last,) = instance.get_runs(limit=1)
    assert last.status == DagsterRunStatus.CANCELED
    assert fake_dvc.calls == 1


def test_bad_setting_is_said_as_the_engine_says_it(
    instance: DagsterInstance, place: Workspace, fake_dvc: FakeDvc
) -> None:
    follow_partitions(instance, Graph.read(place))
    edit_params(place, "pictures: 8", "pictures: -8")
    result = defs.resolve_job_def("prepare").execute_in_process(
        instance=instance, partition_key="ink", raise_on_error=False
    )
    assert "styles.ink" in said(result)
    assert "-8" in said(result)
    assert fake_dvc.calls == 0


def test_dvc_yaml_of_other_settings_is_not_run(
    instance: DagsterInstance, place: Workspace, fake_dvc: FakeDvc
) -> None:
    edit_params(place, "training_seeds: [0]\nabl", "training_seeds: [0, 1]\nabl")
    shutil.rmtree(place.choices("ink"))
    assert "`nsync sync` brings it in order" in said(run(instance, place, "prepare", "ink"))
    assert fake_dvc.calls == 0


def test_what_dvc_takes_for_fresh_and_is_not_is_a_failure(
    instance: DagsterInstance, place: Workspace, fake_dvc: FakeDvc, make: Make
) -> None:
    make()
    edit_params(place, "seed: 0\n", "seed: 1\n")
    fake_dvc.makes = False
    assert said(run(instance, place, "prepare", "ink")) == (
        "DVC takes data/ink/style_set to be up to date, and it is not: settings: seed 0 -> 1. "
        "`dvc repro --force --single-item style_set@ink` makes it."
    )


def test_partition_that_is_no_more_is_named(
    instance: DagsterInstance, place: Workspace, fake_dvc: FakeDvc
) -> None:
    instance.add_dynamic_partitions("style", ["oil"])
    result = defs.resolve_job_def("prepare").execute_in_process(
        instance=instance, partition_key="oil", raise_on_error=False
    )
    assert "style 'oil' is not in params.yaml" in said(result)


def test_interrupted_dvc_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is ended ends DVC."""
    started = []
    real = subprocess.Popen

    def popen(*arguments: object, **options: object) -> subprocess.Popen[str]:
        process = real(["sleep", "600"], text=True, stderr=subprocess.PIPE)
        started.append(process)
        return process

    monkeypatch.setattr("assets.dvc.subprocess.Popen", popen)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    with pytest.raises(KeyboardInterrupt):
        dvc._run(tmp_path, dict(os.environ), "captions@ink")
    assert started[0].returncode is not None
