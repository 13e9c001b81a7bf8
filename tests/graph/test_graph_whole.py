"""A style made whole in one process, or a part of it."""

import shutil
from collections.abc import Iterable

import pytest

from nsync_pipeline.errors import ParamsError
from nsync_pipeline.graph.artefacts import Artefact, Graph, State
from nsync_pipeline.graph.whole import chosen, make_whole
from nsync_pipeline.workspace import Workspace
from tests.support.fake_stages import Fakes, make_everything


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
