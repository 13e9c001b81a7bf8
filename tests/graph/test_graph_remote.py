"""What a job needs besides Ray: checkpoints that are kept, a courier, and a node that checks."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from nsync_pipeline import __version__
from nsync_pipeline.errors import ElsewhereError, NotFetchedError, ParamsError, UserError
from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.graph.made import read_made
from nsync_pipeline.graph.places import ON
from nsync_pipeline.graph.remote import courier as of_courier
from nsync_pipeline.graph.remote import home as of_home
from nsync_pipeline.graph.remote.cluster import Done, Job
from nsync_pipeline.graph.remote.courier import Courier, DvcRemote, remote_of
from nsync_pipeline.graph.remote.job import MADE, REQUEST_FILE, run_job
from nsync_pipeline.graph.remote.kept import KeptTraining
from nsync_pipeline.graph.run import JobOptions, bring_up_to_date
from nsync_pipeline.settings_file import read_settings
from nsync_pipeline.workspace import Workspace
from tests.support.fake_stages import SMALL_PARAMS, Fakes

RAY = "executor: {ray: {address: 'http://head:8265'}}\n"


# Checkpoints.


def write(folder: Path, *names: str, text: str = "x") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


OF_TRAINING = "training/ink/nsync/0"
LOOK = "looks/ink/nsync/0/0f/00000002/00.png"
HISTORY = f"{OF_TRAINING}/history.jsonl"


def step(number: int) -> str:
    return f"{OF_TRAINING}/step_{number:08d}.checkpoint"


def url_in_memory(tmp_path: Path) -> str:
    return f"memory://{tmp_path.name}/kept"


def url_of_folder(tmp_path: Path) -> str:
    return str(tmp_path / "kept")


@pytest.mark.parametrize("url_of", [url_in_memory, url_of_folder])
def test_newest_checkpoint_goes_to_the_node_that_takes_over(
    tmp_path: Path, url_of: Callable[[Path], str]
) -> None:
    # A node's copy of the workspace is itself a folder that goes when its process has ended.
    here, there = (tmp_path / f".job.{number}.partial" / "scratch" for number in (1, 2))
    url = url_of(tmp_path)
    for scratch in (here, there):
        scratch.mkdir(parents=True)
    kept = KeptTraining(here, url, "cpu")
    assert not kept.bring()
    write(here, step(2), step(4), HISTORY, LOOK, text="first")
    half = "looks/ink/nsync/0/0f/.00000004.77.partial/00.png"
    write(here, half, f"{step(3)}.set-aside", "encoded/ink/a.pt", "live/ink/history.csv")
    kept.keep()
    write(here, step(6), HISTORY, text="second")
    kept.keep()
    assert KeptTraining(there, url, "cpu").bring()
    assert names(there) == {step(6), HISTORY, LOOK}
    assert (there / HISTORY).read_text() == "second"
    assert not KeptTraining(there, url, "another card").bring()
    kept.forget()
    assert not KeptTraining(there, url, "cpu").bring()


def test_checkpoint_that_cannot_be_kept_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    kept = KeptTraining(here, str(tmp_path / "kept"), "cpu")
    write(here, step(2), text="good")
    kept.keep()
    write(here, step(4), text="lost")

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(kept._files, "mv", full)
    with pytest.raises(OSError, match="No space"):
        kept.keep()
    there.mkdir()
    assert KeptTraining(there, str(tmp_path / "kept"), "cpu").bring()
    assert names(there) == {step(2)}


def test_place_where_nothing_can_be_kept_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"no checkpoint can be kept at {tmp_path}/file/kept"):
        KeptTraining(tmp_path, f"{tmp_path}/file/kept", "cpu")
    with pytest.raises(UserError, match="no checkpoint can be kept at nowhere://x"):
        KeptTraining(tmp_path, "nowhere://x", "cpu")
    write(tmp_path, "kept/cpu/training.tar", text="no archive")
    with pytest.raises(UserError, match=r"the checkpoint at .*/kept cannot be read"):
        KeptTraining(tmp_path, str(tmp_path / "kept"), "cpu").bring()


# The courier.


def test_what_is_secret_of_the_remote_stays_at_home() -> None:
    said = {
        "url": "s3://b/f", "region": "eu", "endpointurl": "https://s3", "profile": "lab",
        "access_key_id": "a", "secret_access_key": "b", "session_token": "c", "password": "d",
        "sas_token": "e", "account_key": "f", "connection_string": "g", "keyfile": "h",
        "credentialpath": "i", "passphrase": "j", "custom_auth_header": "k",
    }  # fmt: skip
    assert set(DvcRemote(said, "cache").shown) == {"url", "region", "endpointurl", "profile"}


def test_workspace_without_a_remote_is_told_how_to_set_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="`dvc init`"):
        remote_of(tmp_path)
    (tmp_path / ".dvc").mkdir()
    for config in ("core.no_scm=true\n", "remote.store.url=/x\n", "core.remote=store\n"):
        remote_of.cache_clear()
        monkeypatch.setattr(of_courier, "_dvc", lambda *_, said=config: said)
        with pytest.raises(UserError, match="`dvc remote add --default store ADDRESS` sets one"):
            remote_of(tmp_path)


# A node, and home; what is between them is left out.


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace whose remote is a folder here; DVC is left out."""
    root, remote = tmp_path / "home", tmp_path / "remote"
    write(root, "params.yaml", text=SMALL_PARAMS + RAY)
    write(root, "captions/ink.jsonl", "sources/ink/README.md", text="drawn")

    def send(courier: Courier, *paths: str) -> dict[str, str]:
        notes = {path: f"note-{len(list(tmp_path.glob('remote/*')))}-{path[:9]}" for path in paths}
        for path, note in notes.items():
            of_courier._link(courier.folder / path, remote / note.replace("/", "-"))
        return notes

    def fetch(courier: Courier, notes: Mapping[str, str]) -> None:
        for path, note in notes.items():
            if not (remote / note.replace("/", "-")).exists():
                raise NotFetchedError(path)
            (courier.folder / path).parent.mkdir(parents=True, exist_ok=True)
            of_courier._link(remote / note.replace("/", "-"), courier.folder / path)

    remote.mkdir()
    monkeypatch.setattr(Courier, "send", send)
    monkeypatch.setattr(Courier, "fetch", fetch)
    known = DvcRemote({"url": str(remote)}, str(tmp_path / "cache"))
    monkeypatch.setattr(of_courier, "remote_of", lambda root: known)
    return Workspace(root)


class NodeHere:
    """In the place of a cluster: a job runs in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.keys: list[str] = []

    def run(self, asked: Job, options: JobOptions) -> Done:
        self.keys.append(asked.key)
        with pytest.MonkeyPatch.context() as on_node:
            on_node.setenv(ON, "local")
            run_job(asked.folder)
        last = self._capsys.readouterr().out.splitlines()[-1]
        return Done(last.removeprefix(MADE), is_new=True)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> NodeHere:
    here = NodeHere(capsys)
    monkeypatch.setattr(of_home, "Cluster", lambda config: here)
    return here


def test_artefact_of_a_job_is_the_one_that_is_made_here(
    home: Workspace,
    node: NodeHere,
    fakes: Fakes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    local = Workspace(tmp_path / "local")
    write(local.root, "params.yaml", text=SMALL_PARAMS)
    write(local.root, "captions/ink.jsonl", "sources/ink/README.md", text="drawn")
    for stage in ("style_set", "captions"):  # the second reads what the first made, and a file
        graph = Graph.read(home)
        monkeypatch.setenv(ON, "ray")
        assert bring_up_to_date(graph, graph.artefact(stage, "ink")).is_new
        monkeypatch.setenv(ON, "local")
        graph = Graph.read(local)
        artefact = graph.artefact(stage, "ink")
        made = bring_up_to_date(graph, artefact).made
        assert made.device == "" if stage == "style_set" else made.device.startswith("cpu")
        ours, theirs = home.root / artefact.path, local.root / artefact.path
        assert names(ours) == names(theirs)
        assert all((ours / n).read_bytes() == (theirs / n).read_bytes() for n in names(ours))
    assert len(set(node.keys)) == 2
    assert not [n for n in names(tmp_path) if "nsync-job" in n]


def test_what_is_gone_from_the_remote_is_sent_again(
    home: Workspace, node: NodeHere, fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ON, "ray")
    graph = Graph.read(home)
    bring_up_to_date(graph, graph.artefact("style_set", "ink"))
    for sent in (tmp_path / "remote").iterdir():
        shutil.rmtree(sent) if sent.is_dir() else sent.unlink()
    graph = Graph.read(home)
    assert bring_up_to_date(graph, graph.artefact("captions", "ink")).is_new
    assert len(node.keys) == 3


def test_remote_that_never_gives_what_was_sent_is_said(
    home: Workspace, node: NodeHere, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(courier: Courier, notes: Mapping[str, str]) -> None:
        raise NotFetchedError("refused")

    monkeypatch.setenv(ON, "ray")
    monkeypatch.setattr(Courier, "fetch", refuse)
    graph = Graph.read(home)
    with pytest.raises(NotFetchedError, match="refused"):
        bring_up_to_date(graph, graph.artefact("style_set", "ink"))
    assert len(node.keys) == 2


def test_dvc_says_what_its_remote_does_not_hold(tmp_path: Path) -> None:
    """DVC itself: what was sent comes back; from an emptied remote it does not, and can be sent."""
    remote = {"url": str(tmp_path / "remote")}
    write(tmp_path / "home" / "pictures", "a.png", "b/c.png")
    sender = Courier.set_up(tmp_path / "home", remote, None)
    notes = sender.send("pictures")
    Courier.set_up(tmp_path / "node", remote, None).fetch(notes)
    assert names(tmp_path / "node" / "pictures") == names(tmp_path / "home" / "pictures")
    shutil.rmtree(tmp_path / "remote")
    other = Courier.set_up(tmp_path / "other", remote, None)
    with pytest.raises(NotFetchedError, match="nothing could be fetched through the DVC remote"):
        other.fetch(notes)
    assert sender.send("pictures") == notes
    other.fetch(notes)
    assert names(tmp_path / "other" / "pictures") == names(tmp_path / "home" / "pictures")
    (tmp_path / "file").touch()
    refused = Courier.set_up(tmp_path / "home", {"url": str(tmp_path / "file" / "remote")}, None)
    with pytest.raises(ElsewhereError, match=r"not all could be sent .*Not a directory"):
        refused.send("pictures")


def test_node_with_another_engine_or_recipe_is_refused(tmp_path: Path, home: Workspace) -> None:
    graph = Graph.read(home)
    plan = asdict(graph.plan(graph.artefact("style_set", "ink")))
    for engine, recipe, said in (
        ("0.0.1", plan["recipe"], rf"has version {__version__} .* worked on by 0\.0\.1"),
        (__version__, 99, "makes style_set by recipe .*, and the workspace by recipe 99"),
    ):
        content = {"engine": engine, "plan": {**plan, "recipe": recipe}, "of": "another time"}
        write(tmp_path, REQUEST_FILE, text=json.dumps(content))
        with pytest.raises(UserError, match=said):
            run_job(tmp_path)


def test_what_came_home_is_what_was_asked_for_or_not_taken(
    home: Workspace, fakes: Fakes, tmp_path: Path
) -> None:
    graph = Graph.read(home)
    artefact = graph.artefact("style_set", "ink")
    plan = graph.plan(artefact)
    outcome = bring_up_to_date(graph, artefact)
    place = home.root / artefact.path
    assert of_home._required(graph, artefact, plan, place) == outcome.made == read_made(place)
    other = replace(plan, inputs={"sources/ink": "another"})
    with pytest.raises(UserError, match="not what was asked for: inputs: sources/ink"):
        of_home._required(graph, artefact, other, place)
    (place / "first.json").write_text("damaged")
    with pytest.raises(UserError, match=r"first\.json is not what the stage style_set made"):
        of_home._required(graph, artefact, plan, place)


def test_resources_are_what_the_stage_says_unless_settings_do(home: Workspace) -> None:
    def gpus(stage: str, params: str) -> float:
        home.params_file.write_text(params + RAY)
        graph = Graph.read(home)
        assert graph.params.executor.ray is not None
        artefact = graph.artefact(stage, "ink", "nsync" if stage == "training" else None)
        return of_home._resources(graph.params.executor.ray, graph, artefact)[1]

    on_gpu = SMALL_PARAMS.replace("device: cpu", "device: auto")
    assert gpus("training", SMALL_PARAMS) == gpus("style_set", on_gpu) == 0
    assert gpus("training", on_gpu) == 1
    home.params_file.write_text(
        SMALL_PARAMS + "executor: {ray: {address: 'http://h:1', resources: {trainning: {}}}}\n"
    )
    graph = Graph.read(home)
    with pytest.raises(ParamsError, match=r"resources\.trainning is of no stage"):
        of_home._resources(graph.params.executor.ray, graph, graph.artefact("style_set", "ink"))  # type: ignore[arg-type]


def test_courier_settings_are_for_its_owner_alone(tmp_path: Path) -> None:
    Courier.set_up(tmp_path, {"url": "/remote", "password": "secret"}, None)
    assert (tmp_path / ".dvc" / "config").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("path", ["models/ink/nsync/0", "data/ink/no", "captions/ink.jsonl", "1e3"])
def test_note_names_its_path_as_text(tmp_path: Path, path: str) -> None:
    courier = Courier.set_up(tmp_path, {"url": "/remote"}, None)
    read = read_settings(tmp_path / courier._write_note(path, "12e34"))
    assert read == {"outs": [{"md5": "12e34", "hash": "md5", "path": path.rpartition("/")[2]}]}
