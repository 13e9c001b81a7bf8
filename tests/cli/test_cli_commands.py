"""The command line as a person meets it: quick, and one clear message for a mistake."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nsync_pipeline import __version__
from nsync_pipeline.cli.app import main
from nsync_pipeline.cli.options import find_workspace, stage_names, style_names, variant_names
from nsync_pipeline.errors import ParamsError
from tests.support.command_line import nsync

PARAMS = "styles:\n  ink:\n    source: folder\nvariants:\n  lora:\n    update_rule: none\n"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(PARAMS)
    return tmp_path


def patched(folder: Path, run_stage: str) -> subprocess.Popen[str]:
    """``nsync run`` where the pipeline's ``run_stage`` has the body ``run_stage``."""
    script = f"""
import sys, time
import nsync_pipeline.graph.run
from nsync_pipeline.cli import main
from nsync_pipeline.errors import InputsChangedError
def run_stage(*arguments):
    {run_stage}
nsync_pipeline.graph.run.run_stage = run_stage
sys.argv = ["nsync", "run", "captions", "--style", "ink"]
main()
"""
    return subprocess.Popen(
        [sys.executable, "-c", script], cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def test_help_lists_the_commands_and_imports_nothing_heavy(tmp_path: Path) -> None:
    script = """
import sys
sys.argv = ["nsync", "--help"]
from nsync_pipeline.cli import main
try:
    main()
finally:
    heavy = {"torch", "mlflow", "dagster", "dvc", "diffusers", "pydantic", "numpy", "PIL"}
    print("heavy:", sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )

    commands = (
        "run", "status", "add-style", "generate", "compare", "export", "ablate", "blind", "init",
        "ui", "sync", "deliver", "doctor",
    )  # fmt: skip
    assert all(f" {command} " in done.stdout for command in commands)
    assert "heavy: []" in done.stdout


def test_version_is_the_packages(tmp_path: Path) -> None:
    assert nsync(tmp_path, "--version").stdout == f"{__version__}\n"


def test_a_mistake_is_one_message_without_a_traceback(workspace: Path) -> None:
    done = nsync(workspace, "run", "captions", "--style", "oil")

    assert done.returncode == 2
    assert done.stderr == "nsync: style 'oil' is not in params.yaml; there are: ink\n"
    assert done.stdout == ""


def test_a_wrong_setting_is_told_before_anything_runs(workspace: Path) -> None:
    (workspace / "params.yaml").write_text(PARAMS + "seed: -1\n")
    done = nsync(workspace, "run", "captions", "--style", "ink")

    assert done.returncode == 2
    assert done.stderr.startswith("nsync: params.yaml: seed: -1 is not allowed: ")


def test_inputs_that_changed_meanwhile_have_an_exit_code_of_their_own(workspace: Path) -> None:
    process = patched(workspace, "raise InputsChangedError('the pictures changed')")
    _, said = process.communicate(timeout=60)

    assert process.returncode == 75
    assert said == "nsync: the pictures changed\n"


def test_ctrl_c_ends_quietly_with_130(workspace: Path) -> None:
    process = patched(workspace, "print('running', flush=True); time.sleep(60)")
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)

    assert process.returncode == 130
    assert said == "nsync: stopped; the same command goes on from here\n"


def test_an_error_of_the_programs_own_shows_where_it_happened(workspace: Path) -> None:
    process = patched(workspace, "raise ZeroDivisionError('a fault')")
    _, said = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "Traceback" in said
    assert "ZeroDivisionError: a fault" in said


def test_what_a_terminal_does_not_know_is_escaped(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is not UTF-8, a letter where only ASCII is shown, and what moves the cursor."""
    said = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stderr", said)
    monkeypatch.setattr("sys.argv", ["nsync", "run", "captions", "-s", "caf\udce9\u65e5\x1b[2J"])
    monkeypatch.chdir(workspace)
    with pytest.raises(SystemExit):
        main()
    said.seek(0)
    assert said.read().startswith(r"nsync: style 'caf\udce9\u65e5\x1b[2J' is not in params.yaml")


def test_outside_of_a_workspace_it_says_where_to_go(tmp_path: Path) -> None:
    done = nsync(tmp_path, "deliver")

    assert done.returncode == 2
    assert f"{tmp_path} or any folder above it has no params.yaml" in done.stderr


def test_the_workspace_is_the_nearest_folder_above(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = workspace / "sources" / "ink"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)

    assert find_workspace(None).root == workspace.resolve()


def test_a_named_workspace_is_not_searched_for_above(workspace: Path) -> None:
    inner = workspace / "sources"
    inner.mkdir()

    assert find_workspace(workspace).root == workspace.resolve()
    with pytest.raises(ParamsError, match=r"sources has no params\.yaml"):
        find_workspace(inner)


def test_delivering_where_nothing_is_new_is_quick_and_says_so(workspace: Path) -> None:
    done = nsync(workspace, "deliver")

    assert done.stdout == "0 figures, files and settings delivered to MLflow\n"
    assert done.returncode == 0


def test_shell_completes_the_names_of_the_settings(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    assert (style_names(""), style_names("x"), variant_names("lo")) == (["ink"], [], ["lora"])
    assert stage_names("trai") == ["training"]
    (workspace / "params.yaml").write_text("styles: [")
    assert style_names("") == []  # the shell is no place for messages
    by_shell = {"_NSYNC_COMPLETE": "complete_bash", "COMP_WORDS": "nsync exp", "COMP_CWORD": "1"}
    command = [
        sys.executable,
        "-c",
        "from nsync_pipeline.cli.app import app; app(prog_name='nsync')",
    ]
    done = subprocess.run(
        command, env={**os.environ, **by_shell}, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["export"]


def test_what_is_promoted_must_be_trained(workspace: Path) -> None:
    done = nsync(workspace, "promote", "ink", "--variant", "lora")
    assert done.returncode == 2
    assert "models/ink/lora/0 is not there: run the training stage first" in done.stderr
