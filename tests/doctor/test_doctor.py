"""The doctor tells what is there, what is not, and what to do; and what blocks."""

import json
import os
import socket
from importlib.util import find_spec
from pathlib import Path

import pytest

from nsync_pipeline.cli import doctor
from nsync_pipeline.doctor import Finding, State
from nsync_pipeline.doctor.findings import (
    base_model_finding,
    captioner_finding,
    dvc_file_finding,
    machine_findings,
    places_finding,
    service_findings,
    style_finding,
    workspace_findings,
)
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.graph.dvc import sync_dvc_file
from nsync_pipeline.params import parse_params, read_params
from nsync_pipeline.workspace import Workspace

REPOSITORY = Path(__file__).resolve().parents[2]
PARAMS = {
    "styles": {
        "ink": {"source": "folder"},
        "wood": {"source": "sketchbook:woodblock", "pictures": 8},
    },
    "variants": {"lora": {"update_rule": "none"}},
}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def about(findings: list[Finding], subject: str) -> Finding:
    (finding,) = [finding for finding in findings if finding.subject == subject]
    return finding


def test_the_machine_is_told_on_one_screen(tmp_path: Path) -> None:
    findings = list(machine_findings(tmp_path))

    assert {"Python", "Packages", "Cores", "Memory", "Disk", "Accelerator"} == {
        finding.subject for finding in findings
    }
    assert "torch 2" in about(findings, "Packages").found
    assert all(finding.state is not State.MISSING for finding in findings)


def test_every_line_that_is_not_ok_says_what_to_do(workspace: Workspace) -> None:
    findings = [*machine_findings(workspace.root), *service_findings(workspace)]

    assert [f for f in findings if f.state is not State.OK and not f.advice] == []


def test_wrong_settings_block_and_are_told_as_everywhere(workspace: Workspace) -> None:
    workspace.params_file.write_text("sead: 1\n")
    (finding,) = workspace_findings(workspace)

    assert finding.state is State.MISSING
    assert "params.yaml: sead: unknown key (did you mean seed?)" in finding.found


def test_a_base_model_that_is_nowhere_blocks(tmp_path: Path) -> None:
    finding = base_model_finding(BaseModelConfig(name=str(tmp_path / "nothing")))

    assert finding.state is State.MISSING
    assert "nothing" in finding.found


def test_a_base_model_on_this_machine_is_told_with_its_revision(tiny_base: Path) -> None:
    finding = base_model_finding(BaseModelConfig(name=str(tiny_base)))

    assert finding.state is State.OK
    assert "revision sha256:" in finding.found


def test_a_hub_model_that_is_not_here_is_no_mistake_and_is_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    finding = base_model_finding(BaseModelConfig(name="nobody/nothing-at-all", revision="main"))

    assert finding.state is State.WARN
    assert "not on this machine" in finding.found


def test_files_of_a_style_that_cannot_be_used_block_and_are_named(workspace: Workspace) -> None:
    """Such as got in before they were refused, or by hand: DVC's own commands only break there."""
    source = workspace.source("ink")
    source.mkdir(parents=True)
    Path(os.fsdecode(os.fsencode(source) + b"/caf\xe9.jpg")).touch()
    (source / "b.jpg").symlink_to("/etc/passwd")
    finding = style_finding(workspace, parse_params(PARAMS), "ink")

    assert finding.state is State.MISSING
    assert "b.jpg is a link that leads out of the folder" in finding.found
    assert "caf\\xe9.jpg has a name that is not UTF-8: rename it" in finding.found


def test_a_style_tells_which_artefacts_are_there(workspace: Workspace) -> None:
    params = parse_params(PARAMS)
    for folder in (workspace.style_set("wood"), workspace.captions("wood")):
        folder.mkdir(parents=True)
    finding = style_finding(workspace, params, "wood")

    assert finding.state is State.WARN
    assert finding.found.startswith("2 of 8 artefacts; not made yet: negative_set, training lora")


def test_a_style_whose_pictures_are_elsewhere_says_how_to_get_them(workspace: Workspace) -> None:
    finding = style_finding(workspace, parse_params(PARAMS), "ink")

    assert "holds no pictures" in finding.found
    assert "dvc pull" in finding.advice


def test_what_sync_would_bring_in_order_is_told(workspace: Workspace) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        (workspace.root / name).write_bytes((REPOSITORY / name).read_bytes())
    params = read_params(workspace.params_file)
    finding = dvc_file_finding(workspace, params)
    assert (finding.state, finding.advice) == (State.WARN, "nsync sync")
    assert "sources/woodblock is not there" in finding.found

    sync_dvc_file(workspace)
    assert dvc_file_finding(workspace, params).state is State.OK


def test_dvc_remotes_are_named(workspace: Workspace) -> None:
    (workspace.root / ".dvc").mkdir()
    config = workspace.root / ".dvc" / "config"
    config.write_text("['remote \"shelf\"']\n    url = /mnt/shelf\n")

    assert about(list(service_findings(workspace)), "DVC").found == "remote shelf"


def test_a_tracking_server_that_does_not_answer_is_told_without_its_password(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{port}")
    finding = about(list(service_findings(workspace)), "MLflow")

    assert finding.state is State.WARN
    assert finding.found == f"http://***@127.0.0.1:{port} does not answer"


def test_what_mlflow_refused_is_counted(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace.tracking.mkdir(parents=True)
    (workspace.tracking / "refused.jsonl").write_text("{}\n{}\n")
    told = [f.found for f in service_findings(workspace) if f.subject == "MLflow"]

    assert told == ["the workspace's own store", "2 batches of values refused"]


def test_dagsters_home_is_found_in_dotenv(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec("dagster") is None:
        pytest.skip("without Dagster there is nothing to say of it")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    assert about(list(service_findings(workspace)), "Dagster").state is State.WARN

    workspace.dagster_home.mkdir(parents=True)
    (workspace.dagster_home / "dagster.yaml").touch()
    (workspace.root / ".env").write_text(f"DAGSTER_HOME='{workspace.dagster_home}'\n")
    assert about(list(service_findings(workspace)), "Dagster").state is State.OK


@pytest.mark.parametrize(("state", "code"), [(State.OK, 0), (State.WARN, 0), (State.MISSING, 1)])
def test_only_what_blocks_makes_it_fail(
    state: State, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = [Finding(state, "Thing", "as found", "do this")]
    monkeypatch.setattr(doctor, "_all_findings", lambda folder: findings)

    assert doctor.examine(None) == code
    told = capsys.readouterr().out
    assert "Thing" in told
    assert "do this" in told


def test_the_captioner_is_told_and_never_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    away, off, wrong = (
        captioner_finding(parse_params(PARAMS | {"captioning": {"model": model}}))
        for model in ({"name": "somebody/vlm"}, None, {"name": "./nowhere"})
    )
    assert (away.state, off.state, wrong.state) == (State.OK, State.OK, State.WARN)
    assert "the captions stage then downloads it" in away.advice
    assert "refused" in off.found
    assert "captioning.model" in wrong.advice


@pytest.mark.parametrize(
    "content", [b"", b"<<<<<<< HEAD\nschema: '2.0'\n=======\n", b"\xff", b"- a"]
)
def test_a_lock_that_dvc_cannot_read_blocks(workspace: Workspace, content: bytes) -> None:
    (workspace.root / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    assert not [f for f in service_findings(workspace) if "dvc.lock" in f.found]
    (workspace.root / "dvc.lock").write_bytes(content)
    (finding,) = [f for f in service_findings(workspace) if "dvc.lock" in f.found]
    assert finding.state is State.MISSING
    assert "git checkout dvc.lock" in finding.advice


@pytest.mark.parametrize("content", [b"[core", b"remote = x\n", b"\xff\xfe", b"[a]\n[a]\n"])
def test_a_configuration_that_dvc_cannot_read_blocks(workspace: Workspace, content: bytes) -> None:
    (workspace.root / ".dvc").mkdir()
    (workspace.root / ".dvc" / "config").write_bytes(content)
    (finding,) = [f for f in service_findings(workspace) if f.subject == "DVC"]
    assert finding.state is State.MISSING
    assert "cannot be read" in finding.found


def test_a_workspace_that_cannot_be_written_to_blocks(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.params_file.write_text(json.dumps(PARAMS))

    def read_only(**where: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("nsync_pipeline.doctor.findings.tempfile.TemporaryFile", read_only)
    (finding,) = [f for f in workspace_findings(workspace) if f.subject == "Workspace"]
    assert finding.state is State.MISSING
    assert "cannot be written to: Read-only file system" in finding.found


def test_how_many_run_side_by_side_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nsync_pipeline.graph.places.cores", lambda: tuple(range(4)))
    on_cpu = PARAMS | {"base_model": {"device": "cpu"}}

    def found(slots: int) -> Finding:
        return places_finding(parse_params(on_cpu | {"executor": {"slots": slots}}))

    assert found(2) == Finding(State.OK, "Side by side", "2 stages at once, on 2 cores each")
    assert found(8).state is State.WARN
    assert found(8).found.endswith("there are 4 cores: 4 at once")
    monkeypatch.setenv("NSYNC_SLOTS", "many")
    assert found(2).state is State.MISSING
