"""A style made whole, or a part of it: one artefact at a time, or several in processes."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
import pytest

from nsync_pipeline.errors import ParamsError, WorkerError
from nsync_pipeline.graph import run as of_run
from nsync_pipeline.graph.artefacts import AblationPart, Artefact, Graph, State
from nsync_pipeline.graph.progress import Watch, running
from nsync_pipeline.graph.table import STAGES
from nsync_pipeline.graph.whole import chosen, make_all, make_whole
from nsync_pipeline.workspace import Workspace
from tests.support import fake_nsync
from tests.support.fake_stages import Fakes, make_everything
from tests.support.fake_workspace import FakeWorkspace


def names(artefacts: Iterable[Artefact]) -> list[str]:
    return [artefact.slot for artefact in artefacts]


def test_without_a_choice_it_is_everything_in_order(workspace: Workspace) -> None:
    graph = Graph.read(workspace)
    assert list(chosen(graph, "ink")) == list(graph.artefacts("ink"))


def test_one_variant_leaves_out_what_needs_the_others(workspace: Workspace) -> None:
    graph = Graph.read(workspace)
    assert names(chosen(graph, "ink", ("lora",))) == [
        "style_set-ink", "captions-ink", "negative_set-ink", "training-ink-lora-0",
        "generation-ink-lora-0", "base_generation-ink",
    ]  # fmt: skip
    make_everything(graph)
    shutil.rmtree(workspace.model("ink", "nsync", 0))
    graph.refresh()
    others = names(chosen(graph, "ink", ("nsync",), (0,)))
    assert others[-3:] == ["base_generation-ink", "evaluation-ink", "report-ink"]
    assert "training-ink-lora-0" not in others


def test_a_last_stage_is_the_last_one(fakes: Fakes, workspace: Workspace) -> None:
    said: list[str] = []
    outcomes = make_whole(workspace, "ink", (), (), "captions", said.append)
    assert fakes.ran == ["style_set-ink", "captions-ink"]
    assert [outcome.is_new for outcome in outcomes] == [True, True]
    assert said == ["[1 of 2] style_set · ink", "[2 of 2] captions · ink"]


@pytest.mark.parametrize("last", list(STAGES))
def test_nothing_is_made_after_the_last_stage(workspace: Workspace, last: str) -> None:
    """Also where there is one artefact of it a training."""
    graph = Graph.read(workspace)
    stages = [artefact.stage.name for artefact in chosen(graph, "ink", until=last)]
    wanted = list(STAGES)[: list(STAGES).index(last) + 1]
    assert list(dict.fromkeys(stages)) == wanted
    assert len(stages) == sum(len(list(graph.of_stage(STAGES[name], "ink"))) for name in wanted)


def test_a_status_that_is_said_beside_what_was_made_is_not_said_again(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    with Watch(workspace) as watch:
        watch.look("[1 of 2]")
        watch.look("[2 of 2]", said=True)
    assert capsys.readouterr().out == "[1 of 2]\n"


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"style": "oil"}, "style 'oil'"),
        ({"style": "ink", "variants": ("dora",)}, "variant 'dora'"),
        ({"style": "ink", "training_seeds": (3,)}, "training seed 3"),
        ({"style": "ink", "until": "coffee"}, "'coffee' is not a stage"),
    ],
)
def test_what_is_not_there_is_named(workspace: Workspace, asked: dict[str, str], why: str) -> None:
    with pytest.raises(ParamsError, match=why):
        list(chosen(Graph.read(workspace), **asked))  # type: ignore[arg-type]


def test_captions_by_hand_are_an_input_only_where_there_are_any(workspace: Workspace) -> None:
    """An empty file, or none, leaves what was made before fresh."""
    make_everything(Graph.read(workspace))
    path = workspace.captions_by_hand("ink")
    path.parent.mkdir()
    path.write_text("")
    states = [s.state for s in Graph.read(workspace).standings(["ink"]).values()]
    assert states == [State.FRESH] * 10
    path.write_text('{"id": "aa", "file": "a", "caption": "a boat"}\n')
    standings = Graph.read(workspace).standings(["ink"])
    (stale,) = (a for a, s in standings.items() if s.state is State.STALE)
    assert (stale.stage.name, standings[stale].why) == ("captions", "inputs: captions/ink.jsonl")


@pytest.fixture
def two_slots(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Nothing but three trainings and what is made from them is missing; processes have fakes."""
    runtime, meeting = tmp_path / "runtime", tmp_path / "meeting"
    runtime.mkdir()
    meeting.mkdir()
    monkeypatch.setenv("NSYNC_LEASES", str(runtime))
    monkeypatch.setenv("NSYNC_TRACKING", "off")
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "ran.txt"))
    monkeypatch.setattr(of_run, "ENGINE", (sys.executable, fake_nsync.__file__))
    monkeypatch.setattr("nsync_pipeline.graph.places.cores", lambda: (0, 1))
    monkeypatch.setenv("NSYNC_SLOTS", "2")
    text = workspace.params_file.read_text()
    more = "  nsync: {update_rule: orthogonal}\n  third: {update_rule: orthogonal}\n"
    text = text.replace("  nsync: {update_rule: orthogonal}\n", more)
    workspace.params_file.write_text(text)
    make_everything(Graph.read(workspace))
    shutil.rmtree(workspace.root / "models")
    return workspace


def trainings(workspace: Workspace) -> list[Artefact]:
    return [a for a in Graph.read(workspace).artefacts("ink") if a.stage.name == "training"]


def test_as_many_at_once_as_there_are_slots(
    two_slots: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake training ends only when another is under way: one after the other would fail."""
    monkeypatch.setenv("FAKE_MEETING", str(tmp_path / "meeting"))
    said: list[str] = []
    before = list(chosen(Graph.read(two_slots), "ink"))[:3]  # these are there
    outcomes = make_all(two_slots, before + trainings(two_slots), said.append)
    assert [outcome.is_new for outcome in outcomes] == [False] * 3 + [True] * 3
    assert names(outcome.artefact for outcome in outcomes[-3:]) == [
        "training-ink-lora-0", "training-ink-nsync-0", "training-ink-third-0"
    ]  # fmt: skip
    assert said[-1] == "[6 of 6] training · ink · third · 0"
    assert len(list((tmp_path / "meeting").iterdir())) == 3


def test_when_one_fails_none_is_started_any_more_and_the_other_ends(
    two_slots: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_MEETING", str(tmp_path / "meeting"))
    (two_slots.root / "models" / "ink" / "lora").mkdir(parents=True)
    (two_slots.root / "models" / "ink" / "lora" / "0").write_text("no folder")

    def say(line: str) -> None:
        if line.endswith(": failed"):  # only now can the other one end
            (tmp_path / "meeting" / "somebody").touch()

    with pytest.raises(WorkerError, match=r"^training · ink · lora · 0: its process ended with "
                       r"code 2: .*/lora/0 is not a folder: move it away") as caught:  # fmt: skip
        make_all(two_slots, trainings(two_slots), say)
    assert caught.value.exit_code == 2
    assert (tmp_path / "ran.txt").read_text() == "training-ink-nsync-0\n"


def test_a_part_of_an_ablation_is_made_so_too(two_slots: Workspace, tmp_path: Path) -> None:
    """Its report is of that part."""
    part = AblationPart(("none",), (0,))
    graph = Graph.read(two_slots, part)
    make_everything(graph, of_ablation=True)
    shutil.rmtree(two_slots.root / "ablations" / "ink" / "evaluation")
    own = [a for a in graph.standings(["ink"], of_ablation=True) if a.of_ablation]
    outcomes = make_all(two_slots, own, lambda line: None, part)
    assert names(outcome.artefact for outcome in outcomes if outcome.is_new) == [
        "ablations-evaluation-ink", "ablations-report-ink"
    ]  # fmt: skip
    graph.refresh()
    standings = graph.standings(["ink"], of_ablation=True)
    assert {standings[artefact].state for artefact in own} == {State.FRESH}


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGKILL])
def test_what_ends_it_ends_all_that_it_started(
    fake: FakeWorkspace, ended_by: signal.Signals
) -> None:
    fake.edit_params("seed: 0\n", "seed: 0\nexecutor: {slots: 2, threads: 1}\n")
    make_everything(Graph.read(fake.workspace))
    shutil.rmtree(fake.root / "models")
    runtime = fake.root.parent / "runtime"
    runtime.mkdir()
    own = {"FAKE_SLOW": "training", "NSYNC_LEASES": str(runtime), "NSYNC_SLOTS": "2"}
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("it takes two cores")
    process = fake.start("make", "ink", **own)
    _until(lambda: len(running(fake.workspace)) == 2)
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) == 2
    process.send_signal(ended_by)
    _, said = process.communicate(timeout=60)
    _until(lambda: not any(child.is_running() for child in started))
    if ended_by is signal.SIGINT:
        assert process.returncode == 130
        assert said.splitlines()[-1] == "nsync: stopped; the same command goes on from here"
        assert running(fake.workspace) == {}


def _until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, "it never came to that"
        time.sleep(0.05)
