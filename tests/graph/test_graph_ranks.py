"""Of several processes that train together the first does what a run does; who starts them."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from nsync_pipeline.cli.app import app
from nsync_pipeline.errors import UserError
from nsync_pipeline.graph import run as of_run
from nsync_pipeline.graph.run import run_stage
from nsync_pipeline.stage import SilentLog, StageContext, StageResult
from nsync_pipeline.workspace import Workspace

PARAMS = "styles:\n  ink:\n    source: folder\nvariants:\n  lora:\n    update_rule: none\n"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "params.yaml").write_text(PARAMS)
    return Workspace(tmp_path)


def test_the_others_only_compute(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[StageContext] = []

    def run(context: StageContext) -> StageResult:
        seen.append(context)
        return StageResult({})

    monkeypatch.setattr(of_run, "find_stage", lambda *asked: SimpleNamespace(run=run))
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    run_stage(workspace, "training", "ink", "lora")
    (context,) = seen
    assert isinstance(context.log, SilentLog)
    assert context.workspace == workspace  # not a staging one
    assert [path.name for path in workspace.root.rglob("*")] == ["params.yaml"]  # no lock either


def started(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, *options: str
) -> tuple[object, ...]:
    """What ``nsync run`` with ``options`` starts in processes."""
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(of_run, "run_workers", lambda *arguments: calls.append(arguments))
    arguments = ["run", *options, "--style", "ink", "--workspace", str(workspace.root)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    (call,) = calls
    return call


def test_a_training_is_started_in_as_many_processes_as_asked_for(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = started(workspace, monkeypatch, "training", "--variant", "lora", "--processes", "3")
    command = [sys.executable, "-m", "nsync_pipeline.cli", "run", "training", "--style", "ink"]
    command += ["--workspace", str(workspace.root), "--variant", "lora"]
    assert call == (command, 3)
    options = ("--variant", "lora", "--training-seed", "4", "--processes", "3")
    call = started(workspace, monkeypatch, "training", *options)
    assert call == ([*command, "--training-seed", "4"], 3)


def test_the_environment_may_ask_for_it_where_no_option_can(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NSYNC_PROCESSES", "2")
    assert started(workspace, monkeypatch, "training", "--variant", "lora")[1] == 2


def test_other_stages_do_not_take_several(workspace: Workspace) -> None:
    arguments = ["run", "captions", "--style", "ink", "--processes", "2"]
    with pytest.raises(UserError, match="only training takes several, captions does not"):
        CliRunner().invoke(
            app, [*arguments, "--workspace", str(workspace.root)], catch_exceptions=False
        )
