"""``nsync status`` as a person reads it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from nsync_pipeline.cli.app import app
from nsync_pipeline.errors import ParamsError
from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.workspace import Workspace
from tests.support.fake_stages import SMALL_PARAMS, make_everything


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "params.yaml").write_text(SMALL_PARAMS)
    return Workspace(tmp_path)


def status(workspace: Workspace, *arguments: str) -> list[str]:
    command = ["status", *arguments, "--workspace", str(workspace.root)]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output.splitlines()


def test_where_nothing_is_made_the_first_is_missing_and_the_rest_waits(
    workspace: Workspace,
) -> None:
    assert status(workspace) == [
        "missing  style_set · ink: it is not there", "1 missing, 9 waiting"
    ]  # fmt: skip


def test_where_all_is_made_it_is_one_line(workspace: Workspace) -> None:
    make_everything(Graph.read(workspace))
    assert status(workspace) == ["10 fresh"]
    assert status(workspace, "ink") == ["10 fresh"]


def test_what_is_out_of_date_is_said_and_why(workspace: Workspace) -> None:
    make_everything(Graph.read(workspace))
    text = workspace.params_file.read_text()
    workspace.params_file.write_text(
        text.replace(
            "nsync: {update_rule: orthogonal}", "nsync: {update_rule: orthogonal, steps: 9}"
        )
    )
    assert status(workspace) == [
        "stale    training · ink · nsync · 0: settings: training.steps 120 -> 9",
        "6 fresh, 1 stale, 3 waiting",
    ]


def test_of_an_ablation_what_it_shares_counts_too(workspace: Workspace) -> None:
    make_everything(Graph.read(workspace))
    assert status(workspace, "--ablation") == [
        *(
            f"missing  training of the ablation · ink · {training}: it is not there"
            for training in ("none · 0", "none · 1", "orthogonal · 0", "orthogonal · 1")
        ),
        "4 fresh, 4 missing, 6 waiting",
    ]


def test_a_style_that_is_not_there_is_named(workspace: Workspace) -> None:
    with pytest.raises(ParamsError, match=r"style 'oil' is not in params\.yaml; there are: ink"):
        status(workspace, "oil")
