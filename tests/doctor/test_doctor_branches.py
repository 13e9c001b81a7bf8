"""The doctor times both ways of taking the branches, and says which line to write."""

from pathlib import Path
from typing import Any

import pytest
import torch

from nsync_pipeline.adaptation.in_use import has_trained
from nsync_pipeline.doctor import State, branch_timing
from nsync_pipeline.doctor.branch_timing import branch_findings, step_seconds
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.params import Params, parse_params


def params_of(base: Path, **variants: dict[str, Any]) -> Params:
    return parse_params(
        {
            "base_model": {"name": str(base), "device": "cpu", "resolution": 32},
            "styles": {"ink": {"source": "folder"}},
            "training": {"batch_size": 1, "lora": {"rank": 2}},
            "variants": variants,
        }
    )


def test_it_takes_steps_of_both_ways_and_leaves_nothing_behind(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain variant has one branch; a DoRA is taken in turn."""
    monkeypatch.setattr(branch_timing, "ROUNDS", 1)
    params = params_of(
        tiny_base,
        plain={"update_rule": "none"},
        nsync={"update_rule": "orthogonal", "branches": "in_turn"},
        dora={"update_rule": "orthogonal", "lora": {"dora": True}},
    )
    state = torch.get_rng_state()
    found = list(branch_findings(params))
    assert [finding.found.partition(":")[0] for finding in found] == ["nsync", "dora"]
    assert "all at once 0." in found[0].found
    assert "DoRA" in found[1].found
    assert "branches of the variant dora, to in_turn" in found[1].advice
    assert torch.equal(torch.get_rng_state(), state)
    family = load_family(params.base_model)
    fused, in_turn = step_seconds(family, params.variant("nsync"), rounds=1)
    assert isinstance(fused, float)
    assert isinstance(in_turn, float)
    assert has_trained(family)  # the caller takes it off


@pytest.mark.parametrize(
    ("asked", "fused", "in_turn", "advice"),
    [
        ("auto", 1.0, 1.5, ""),
        ("auto", 1.5, 1.0, "to in_turn"),
        ("auto", 1.0, 1.02, ""),
        ("in_turn", 1.0, 1.5, "to fused"),
        ("in_turn", 1.02, 1.0, ""),
        ("fused", "it does not fit in memory", 1.0, "to in_turn"),
        ("auto", 1.0, "it does not fit in memory", "see the line on memory"),
    ],
)
def test_a_way_is_proposed_where_it_is_clearly_faster(
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    fused: Any,
    in_turn: Any,
    advice: str,
) -> None:
    monkeypatch.setattr(branch_timing, "load_family", lambda config: None)
    monkeypatch.setattr(branch_timing, "remove_trained", lambda family: None)
    monkeypatch.setattr(branch_timing, "step_seconds", lambda *_: (fused, in_turn))
    params = params_of(tiny_base, nsync={"update_rule": "orthogonal", "branches": asked})
    (found,) = branch_findings(params)
    assert advice in found.advice
    assert (found.state is State.OK) == (advice == "")


def test_what_cannot_be_measured_is_told(tmp_path: Path) -> None:
    (found,) = branch_findings(params_of(tmp_path, nsync={"update_rule": "orthogonal"}))
    assert found.state is State.WARN
    assert "cannot be measured" in found.found
    (none,) = branch_findings(params_of(tmp_path, plain={"update_rule": "none"}))
    assert none.found == "no variant has more than one"
