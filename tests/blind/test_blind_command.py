"""`nsync blind`: a page for people, and their files back."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nsync_pipeline.blind.choices import DRAWN_AGAIN, GONE
from nsync_pipeline.cli.blind import blind
from nsync_pipeline.errors import ChoicesError, ParamsError
from nsync_pipeline.workspace import Workspace
from tests.support.style_workspace import STYLE, build_style_workspace, style_params


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return build_style_workspace(tmp_path_factory.mktemp("made"), test=6)


@pytest.fixture
def workspace(made: Workspace, tmp_path: Path) -> Workspace:
    """A copy with its params.yaml."""
    workspace = Workspace(Path(shutil.copytree(made.root, tmp_path / "copy")))
    write_params(workspace, ["lora", "nsync"])
    return workspace


def write_params(workspace: Workspace, variants: list[str]) -> None:
    content = style_params().model_dump(mode="json", exclude_defaults=True)
    content["variants"] = {name: {"update_rule": "none"} for name in variants}
    workspace.params_file.write_text(json.dumps(content))


def run(workspace: Workspace, *arguments: str) -> str:
    result = CliRunner().invoke(
        blind, [*arguments, "--workspace", str(workspace.root)], catch_exceptions=False
    )
    assert result.exit_code == 0
    return result.output


def saved(workspace: Workspace, between: str, name: str) -> Path:
    """The file of somebody who always takes the left picture of this page."""
    page = workspace.root / f"{name}.html"
    run(workspace, "make", STYLE, "--between", between, "-o", str(page))
    found = re.search(r"const IDENTITY = (.*);\nconst PAIRS = (.*);", page.read_text("utf-8"))
    assert found is not None
    identity, pairs = (json.loads(text) for text in found.groups())
    file = workspace.root / f"{name}.json"
    file.write_text(json.dumps(identity | {
        "judge": "", "sitting": hashlib.sha256(name.encode()).hexdigest()[:16], "saved": 1,
        "choices": {pair["id"]: "left" for pair in pairs},
    }))  # fmt: skip
    return file


def test_a_page_is_made_and_read_in_any_order_of_names_and_variants(workspace: Workspace) -> None:
    files = [saved(workspace, between, between) for between in ("nsync,lora", "lora,nsync")]
    first = run(workspace, "read", str(files[0]))
    assert "6 choices, kept as choices/woodblock/" in first
    assert re.search(r"woodblock: nsync over lora: chosen in \d+% ", first)
    assert json.loads(files[0].read_text())["page"] == json.loads(files[1].read_text())["page"]
    write_params(workspace, ["nsync", "lora"])
    second = run(workspace, "read", str(files[1]))
    assert "woodblock: lora over nsync: chosen in" in second
    assert "not counted" not in second


def test_what_is_not_counted_is_said_with_its_reason(workspace: Workspace) -> None:
    file = saved(workspace, "nsync,base", "page")
    write_params(workspace, ["lora"])
    kept = f"choices/woodblock/{json.loads(file.read_text())['page']}"
    said = run(workspace, "read", str(file))
    assert kept in said
    assert f"kept, and not counted (6 choices): {GONE}" in said
    write_params(workspace, ["lora", "nsync"])
    picture = min((workspace.samples(STYLE, "nsync", 0) / "images").iterdir())
    picture.write_bytes(max(picture.parent.iterdir()).read_bytes())
    assert f"not counted (6 choices): {DRAWN_AGAIN}" in run(workspace, "read", str(file))


def test_a_page_is_between_two_that_there_are(workspace: Workspace) -> None:
    with pytest.raises(ParamsError, match="'oil' is not in params"):
        run(workspace, "make", STYLE, "--between", "nsync,oil")
    with pytest.raises(ChoicesError, match="names two checkpoints"):
        run(workspace, "make", STYLE, "--between", "nsync")
    with pytest.raises(ChoicesError, match="named twice"):
        run(workspace, "make", STYLE, "--between", "nsync,nsync")
