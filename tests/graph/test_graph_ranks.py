"""Who starts the processes that train together."""

import sys

import pytest
from typer.testing import CliRunner

from nsync_pipeline.cli.app import app
from nsync_pipeline.errors import UserError
from nsync_pipeline.graph import run as of_run
from nsync_pipeline.workspace import Workspace


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


@pytest.mark.parametrize(
    ("given", "passed_on"),
    [
        (("--variant", "lora"), ["--variant", "lora"]),
        (
            ("--variant", "lora", "--training-seed", "0", "--force"),
            ["--variant", "lora", "--training-seed", "0", "--force"],
        ),
        (
            ("--variant", "none", "--training-seed", "1", "--ablation"),
            ["--variant", "none", "--training-seed", "1", "--ablation"],
        ),
    ],
)
def test_a_training_is_started_in_as_many_processes_as_asked_for(
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    given: tuple[str, ...],
    passed_on: list[str],
) -> None:
    call = started(workspace, monkeypatch, "training", *given, "--processes", "3")
    command = [sys.executable, "-m", "nsync_pipeline.cli", "run", "training"]
    command += ["--workspace", str(workspace.root), "--style", "ink"]
    assert call == ([*command, *passed_on], 3, None)


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


def test_a_variant_that_is_not_there_starts_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="variant 'best' is not in params"):
        started(workspace, monkeypatch, "training", "--variant", "best", "--processes", "2")
