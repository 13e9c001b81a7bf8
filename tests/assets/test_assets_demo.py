"""``make demo``: a style whole through Dagster's daemon. Stages are fakes, all else is real."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from assets.runs import UNFINISHED
from nsync_pipeline.graph.dvc import sync_dvc_file
from tests.support.demo_workspace import DEMO, make_demo_workspace, processes_of
from tests.support.fake_workspace import FakeWorkspace

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(900)]

ALL = 8  # artefacts of one style with one variant


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeWorkspace:
    made = make_demo_workspace(tmp_path)
    made.edit_params("  nsync: {update_rule: orthogonal}\n", "")
    sync_dvc_file(made.workspace)
    monkeypatch.setenv("DAGSTER_HOME", str(made.workspace.dagster_home))
    return made


def until(true: Callable[[], bool], seconds: float = 300.0) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.2)


def test_style_is_made_whole_once(fake: FakeWorkspace) -> None:
    done = fake.call(*DEMO)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{ALL} artefacts made" in done.stdout
    assert f"[{ALL} of {ALL} done]" in done.stdout
    assert str(fake.workspace.report("ink") / "report.html") in done.stdout
    assert len(fake.ran()) == ALL
    assert json.loads(fake.dvc("status", "--json", "dvc.yaml").stdout) == {}
    until(lambda: processes_of(fake) == {}, 20)
    with DagsterInstance.get() as instance:
        runs = [r.dagster_run for r in instance.get_run_records(RunsFilter())]
        jobs = [run.job_name for run in reversed(runs)]
        assert (jobs[0], jobs[-1]) == ("prepare", "assess")
        assert sorted(jobs[1:-1]) == ["draw", "draw_base", "learn"]
        assert {run.status for run in runs} == {DagsterRunStatus.SUCCESS}
        assert all(run.remote_job_origin for run in runs)  # the page can show them

    began = time.monotonic()
    done = fake.call(*DEMO)
    assert done.returncode == 0
    assert "Everything is fresh" in done.stdout
    assert time.monotonic() - began < 30
    assert fake.ran() == []


def test_failed_stage_ends_it_with_its_message(fake: FakeWorkspace) -> None:
    done = fake.call(*DEMO, FAKE_FAILS="captions")
    assert done.returncode == 2
    assert done.stderr == "captions: captions was told to fail\n"
    assert fake.ran() == ["style_set-ink"]
    until(lambda: processes_of(fake) == {}, 20)


def test_killed_and_stopped_demo_leave_nothing_behind_and_are_gone_on_from(
    fake: FakeWorkspace, request: pytest.FixtureRequest
) -> None:
    def start(slow: str) -> "subprocess.Popen[str]":
        environment = {**fake.environment, "FAKE_SLOW": slow}
        process = subprocess.Popen(
            DEMO, cwd=fake.root, env=environment, start_new_session=True, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        partial = fake.root / "data" / "ink" / f".{slow}.partial" / "first.json"
        until(lambda: partial.exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        return process

    request.addfinalizer(lambda: [os.kill(p, signal.SIGKILL) for p in processes_of(fake)])
    killed = start("captions")
    commands = " ".join(processes_of(fake).values())
    assert "dagster-daemon" in commands
    assert "dvc" in commands
    assert "run captions" in commands
    killed.kill()
    killed.communicate()
    until(lambda: processes_of(fake) == {}, 20)
    assert fake.ran() == ["style_set-ink"]

    stopped = start("negative_set")  # a run that was left behind holds nothing up
    assert "captions-ink" in fake.ran()
    os.killpg(stopped.pid, signal.SIGINT)
    _, said = stopped.communicate(timeout=60)
    assert stopped.returncode == 130
    assert said == "Stopped; the same command goes on from here.\n"
    until(lambda: processes_of(fake) == {}, 20)
    with DagsterInstance.get() as instance:
        assert instance.get_run_records(RunsFilter(statuses=UNFINISHED)) == []


def test_unknown_style_is_named(fake: FakeWorkspace) -> None:
    done = fake.call(*DEMO[:-1], "oil")
    assert done.returncode == 2
    assert "style 'oil' is not in params.yaml; there are: ink" in done.stderr


def test_stopped_before_it_began_says_so_too(tmp_path: Path) -> None:
    """While Dagster is being imported, which takes seconds."""
    (tmp_path / "dagster.py").write_text("import time\nprint('here', flush=True)\ntime.sleep(60)")
    path = f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}"
    process = subprocess.Popen(
        DEMO, env={**os.environ, "PYTHONPATH": path}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "Stopped; the same command goes on from here.\n")
