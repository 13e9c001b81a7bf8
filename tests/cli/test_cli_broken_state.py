"""Every command on a workspace whose files are broken: one clear line, never a traceback.

Each state file is emptied, cut, filled with nonsense, merged badly, or stood in for by a folder;
then every command that reads a workspace is run, in this process.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nsync_pipeline.blind.page import blind_page
from nsync_pipeline.cli import app as cli
from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.graph.dvc import sync_dvc_file
from nsync_pipeline.graph.made import describe
from nsync_pipeline.graph.processes import UNDER_DVC
from nsync_pipeline.stage import StageResult
from tests.support.fake_stages import Fakes, all_artefacts
from tests.support.style_workspace import STYLE, build_style_workspace

PARAMS = """\
base_model: {device: cpu}
styles:
  woodblock: {source: "sketchbook:woodblock", pictures: 8}
variants:
  lora: {update_rule: none}
  nsync: {update_rule: orthogonal}
evaluation: {bootstrap_draws: 100}
ablation: {grid: {update_rule: [none, orthogonal]}}
"""
MERGED = b"<<<<<<< HEAD\nschema: '2.0'\n=======\nschema: '1.0'\n>>>>>>> theirs\n"
NONSENSE = (
    b"", b"\0" * 64, b"\xff\xfe\xe9", b"{", b"[]", b"null", b'"text"', b"{}", b"- a\n- b\n", MERGED,
    b'{"a":' * 3000, b"[" * 100_000, b"[core]\nremote = x\n[core]\n", b"= =\n", b"a: *b\n",
)  # fmt: skip
COMMANDS = (
    ["status"], ["doctor"], ["sync"], ["deliver"], ["run", "report", "-s", STYLE],
    ["run", "style_set", "-s", STYLE], ["run", "training", "-s", STYLE, "-v", "lora"],
    ["export", STYLE, "-v", "nsync", "-o", "out"], ["blind", "make", STYLE, "-o", "page.html"],
    ["blind", "read", "mine.json"], ["ablate", STYLE, "--dry-run"],
    ["generate", "--again", "mine.json"],
    ["add-style", "new", "sketchbook:mosaic", "--pictures", "3"],
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with an artefact of each stage, choices, DVC's files and leftovers of runs."""
    workspace = build_style_workspace(
        tmp_path_factory.mktemp("whole") / "workspace", test=3, train=3
    )
    root = workspace.root
    (root / "params.yaml").write_text(PARAMS)
    sync_dvc_file(workspace)
    graph = Graph.read(workspace)
    for artefact in all_artefacts(graph, STYLE):
        folder = root / artefact.path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "more.txt").write_text(artefact.title)
        describe(folder, graph.plan(artefact), StageResult({"verdict": "none"}))
        graph.refresh()
    page = blind_page(workspace, STYLE, "nsync", "lora", 40, 0)
    chosen = {
        "format": "nsync-choices-3", "style": STYLE, "page": page.page_id, "sitting": "0" * 16,
        "asked": 40, "saved": 1, "choices": {page.pairs[0].id: "left"},
    }  # fmt: skip
    (root / "mine.json").write_text(json.dumps(chosen))
    (root / "choices" / STYLE / f"{page.page_id}-{'0' * 16}.json").write_text(json.dumps(chosen))
    (root / "mine.jsonl").write_text('{"prompt": "a house"}\n')
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    (root / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (root / ".env").write_text("DAGSTER_HOME=/nowhere\n")
    running = root / ".nsync" / "running"
    running.mkdir(parents=True, exist_ok=True)
    (running / "training.json").write_text('{"process": 1, "line": "x"}')
    tracking = workspace.tracking
    tracking.mkdir(parents=True)
    (tracking / "refused.jsonl").write_text("{}\n")
    return root


def state_files(root: Path) -> list[str]:
    """What a command may read, without pictures."""
    files = (path.relative_to(root) for path in sorted(root.rglob("*")) if path.is_file())
    return [str(path) for path in files if path.suffix not in (".png", ".lock", ".html")]


@pytest.fixture
def quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages are fakes, and nothing is recorded."""
    fakes = Fakes()
    monkeypatch.setattr("nsync_pipeline.graph.table.Stage.run", lambda s, c: fakes.run(s, c))
    monkeypatch.delenv(UNDER_DVC, raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("NSYNC_TRACKING", "off")
    monkeypatch.setattr("nsync_pipeline.tracking.sender.Server.tell", lambda server, run: 1)
    monkeypatch.setattr("nsync_pipeline.cli.doctor.machine_findings", lambda folder: ())


def said(command: list[str], root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run it as a person does; gives stderr. A traceback would come out of here."""
    before = Path.cwd()
    os.chdir(root)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["nsync", *command])
            with pytest.raises(SystemExit):
                cli.main()
    finally:
        os.chdir(before)
    return capsys.readouterr().err


def break_it(path: Path, content: bytes | int | None) -> None:
    """Fill with ``content``; of a number, cut there; None: a folder in its place."""
    if content is None:
        path.unlink()
        path.mkdir()
    elif isinstance(content, int):
        data = path.read_bytes()
        path.write_bytes(data[: content % (len(data) + 1)])
    else:
        path.write_bytes(content)


contents = st.sampled_from([*NONSENSE, None]) | st.integers(0, 2**20) | st.binary(max_size=40)


@pytest.mark.usefixtures("quietly")
@settings(
    max_examples=25, deadline=None, database=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(data=st.data())
def test_no_command_ends_in_a_traceback(
    whole: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    data: st.DataObject,
) -> None:
    file = data.draw(st.sampled_from(state_files(whole)))
    content = data.draw(contents)
    command = data.draw(st.sampled_from(COMMANDS))
    root = tmp_path_factory.mktemp("broken") / "workspace"
    shutil.copytree(whole, root)
    break_it(root / file, content)
    error = said(command, root, capsys)
    shutil.rmtree(root)
    assert "Traceback" not in error


def deep(inner: str) -> bytes:
    return ("[" * 100_000 + inner).encode()


@pytest.mark.usefixtures("quietly")
@pytest.mark.parametrize(
    ("command", "file", "content"),
    [
        (["status"], "models/woodblock/nsync/0/made.json", b""),
        (["run", "report", "-s", STYLE], "evaluation/woodblock/made.json", b"[1]"),
        (["run", "report", "-s", STYLE], "evaluation/woodblock/SHA256SUMS", b"\xff"),
        (["blind", "read", "mine.json"], "mine.json", deep("")),
        (["blind", "read", "mine.json"], "mine.json", b'{"choices": [["a", "left"]]}'),
        (["doctor"], "dvc.lock", MERGED),
        (["doctor"], ".dvc/config", b"[core"),
        (["doctor"], ".env", b"\xff"),
        (["doctor"], "dvc.yaml", b"\xff"),
        (["sync"], "dvc.yaml", MERGED),
        (["sync"], "dvc.yaml", b"\xff"),
        (["deliver"], "models/woodblock/lora/0/training.json", deep("")),
        (["deliver"], "evaluation/woodblock/made.json", b'{"stage": []}'),
        (["export", STYLE, "-v", "nsync"], "models/woodblock/nsync/0/training.json", b"[]"),
        (["generate", "--prompts", "mine.jsonl"], "mine.jsonl", deep("")),
    ],
)
def test_what_was_broken_once_is_told(
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    file: str,
    content: bytes,
) -> None:
    """What is said is short, and names a file where something is wrong with one."""
    shutil.copytree(whole, tmp_path / "workspace")
    break_it(tmp_path / "workspace" / file, content)
    error = said(command, tmp_path / "workspace", capsys)
    assert len(error.splitlines()) <= 1
    assert len(error) < 1000


def ends(call: Any, monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """How the command line ends where a command does this."""
    monkeypatch.setattr(cli, "app", call)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_what_the_machine_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_only() -> None:
        raise OSError(30, "Read-only file system", "/here/.nsync/locks")

    assert ends(read_only, monkeypatch) == 2
    assert capsys.readouterr().err == "nsync: /here/.nsync/locks: Read-only file system\n"


def test_a_command_that_is_stopped_says_that_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()

    @app.command()
    def stopped() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["nsync"])
    assert ends(app, monkeypatch) == 130
    assert "stopped; the same command goes on" in capsys.readouterr().err
