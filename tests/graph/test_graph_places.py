"""How many stages run side by side, on what; and that settings and environment say so."""

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML

from nsync_pipeline.errors import ParamsError
from nsync_pipeline.executor import ExecutorConfig
from nsync_pipeline.graph.locks import CARD, CORE
from nsync_pipeline.graph.places import SLOTS, THREADS, Places, on_threads, places, places_of
from nsync_pipeline.params import parse_params
from tests.support.fake_stages import SMALL_PARAMS

COUNTS = st.none() | st.integers(1, 70)
NAMES = st.integers(1, 64).map(lambda count: [str(number) for number in range(count)])


@given(slots=COUNTS, threads=COUNTS, cards=NAMES, own_cores=NAMES)
def test_a_card_has_one_stage(
    slots: int | None, threads: int | None, cards: list[str], own_cores: list[str]
) -> None:
    found = places(ExecutorConfig(slots=slots, threads=threads), cards, own_cores)
    assert (found.kind, found.each, found.threads) == (CARD, 1, None)
    assert found.count == len(found.devices) == min(slots or 64, len(cards))
    assert bool(found.note) == (slots is not None and slots > len(cards))


@given(slots=COUNTS, threads=COUNTS, own_cores=NAMES)
def test_slots_never_take_more_cores_than_there_are(
    slots: int | None, threads: int | None, own_cores: list[str]
) -> None:
    found = places(ExecutorConfig(slots=slots, threads=threads), [], own_cores)
    if slots is None and threads is None:
        assert found == Places()
        return
    assert 1 <= found.count <= (slots or 1)
    assert found.count * found.each == len(found.devices) <= len(own_cores)
    assert found.kind == CORE
    there = len(own_cores)
    assert found.threads == found.each == min(threads or max(1, there // (slots or 1)), there)
    assert bool(found.note) == (found.count < (slots or 1) or (threads or 1) > there)


@pytest.mark.parametrize(
    ("asked", "cards", "cores", "says"),
    [
        ({}, "", "01", "1 stage at a time"),
        ({}, "01", "01", "2 stages at once, on the devices 0, 1"),
        ({"slots": 2}, "", "0123", "2 stages at once, on 2 cores each"),
        ({"threads": 1}, "", "0123", "1 stage at a time, on 1 core each"),
    ],
)
def test_it_says_so(asked: dict[str, int], cards: str, cores: str, says: str) -> None:
    assert places(ExecutorConfig.model_validate(asked), tuple(cards), tuple(cores)).says == says


@pytest.mark.parametrize(
    ("asked", "cards", "cores", "note"),
    [
        ({"slots": 8}, "", "01", "8 stages at once, and there are 2 cores: 2 at once"),
        ({"slots": 8}, "5", "01", "8 stages at once, and there is 1 device: 1 at once"),
        ({"slots": 2, "threads": 2}, "", "012",
         "2 stages at once of 2 threads, and there are 3 cores: 1 at once of 2"),
        ({"threads": 4}, "", "01", "1 stage of 4 threads, and there are 2 cores: 1 at once of 2"),
    ],
)  # fmt: skip
def test_more_than_there_are_is_said(
    asked: dict[str, int], cards: str, cores: str, note: str
) -> None:
    found = places(ExecutorConfig.model_validate(asked), tuple(cards), tuple(cores))
    assert found.note == f"executor asks for {note}"


@pytest.mark.parametrize("slots", [0, -1, 1.5, "2", True])
def test_what_is_no_number_of_slots_is_refused(slots: object) -> None:
    with pytest.raises(ValidationError):
        ExecutorConfig(slots=slots)  # type: ignore[arg-type]


@pytest.mark.parametrize("said", ["", "0", "-1", "two", "2.0", "99999"])
def test_so_is_it_in_the_environment(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SLOTS, said)
    params = parse_params(YAML(typ="safe").load(SMALL_PARAMS))
    with pytest.raises(ParamsError, match="NSYNC_SLOTS is"):
        places_of(params)


def test_the_environment_goes_before_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nsync_pipeline.graph.places.cores", lambda: tuple(range(4)))
    content = YAML(typ="safe").load(SMALL_PARAMS) | {"executor": {"slots": 4}}
    assert places_of(parse_params(content)).count == 4
    monkeypatch.setenv(SLOTS, "2")
    assert places_of(parse_params(content)).threads == 2
    mps = content | {"base_model": {"device": "mps"}}
    assert places_of(parse_params(mps)) == Places()


def test_threads_are_limited_inside_and_afterwards_are_what_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(THREADS, raising=False)
    before = torch.get_num_threads()
    with on_threads(3):
        assert (torch.get_num_threads(), os.environ[THREADS]) == (3, "3")
        with on_threads(5):  # who is inside another's has that one's
            assert torch.get_num_threads() == 3
    assert (torch.get_num_threads(), THREADS in os.environ) == (before, False)
    with on_threads(None):
        assert torch.get_num_threads() == before
    monkeypatch.setenv(THREADS, "1")
    with on_threads(4):
        assert torch.get_num_threads() == before
