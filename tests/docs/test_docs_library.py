"""The page for one's own training loop: its example runs, and does what the page says."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import nsync_pipeline
from nsync_pipeline import ContrastConfig, Refinement, Refiner

PAGE = Path(__file__).parents[2] / "docs" / "library.md"
EXAMPLE, OPTIONS = re.findall(
    r"^ *```python\n(.*?)^ *```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
)


def test_the_example_trains_along_what_is_orthogonal_to_the_negative() -> None:
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(compile(EXAMPLE, str(PAGE), "exec"), names)
    refined, model = names["refined"], names["model"]
    product = sum(
        float((a * b).sum()) for a, b in zip(refined.gradient, names["negative"], strict=True)
    )
    assert abs(product) < 1e-6
    assert refined.diagnostics.share_removed > 0
    assert all(
        weight.grad is gradient
        for weight, gradient in zip(model.parameters(), refined.gradient, strict=True)
    )


def test_the_options_are_accepted_as_they_are_written() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 3))
    gradients = iter([[torch.randn_like(w) for w in model.parameters()] for _ in range(4)])
    names: dict[str, Any] = {"model": model, "Refiner": Refiner, "ContrastConfig": ContrastConfig}
    for name in ("positive", "first_negative", "second_negative", "anchor"):
        names[name] = next(gradients)
    exec(compile(re.sub("^  ", "", OPTIONS, flags=re.MULTILINE), str(PAGE), "exec"), names)
    assert isinstance(names["refined"], Refinement)
    assert names["refined"].diagnostics.largest_share_removed is not None  # scopes by block


def test_importing_the_package_imports_no_torch() -> None:
    told = "import sys, nsync_pipeline; print('torch' in sys.modules, dir(nsync_pipeline))"
    shown = subprocess.run(
        [sys.executable, "-c", told], capture_output=True, text=True, check=True
    ).stdout
    assert shown.startswith("False")
    assert "'Refiner'" in shown


def test_every_public_name_is_there_and_others_are_not() -> None:
    assert all(getattr(nsync_pipeline, name) is not None for name in nsync_pipeline.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Refinery'"):
        nsync_pipeline.Refinery  # type: ignore[attr-defined] # noqa: B018


def test_gradients_that_go_in_are_not_changed_and_number_types_are_kept() -> None:
    """Weights of two number types: each gradient comes back in its weight's own."""
    shapes = (torch.Size([3]), torch.Size([2, 2]))

    def drawn() -> tuple[Tensor, Tensor]:
        return torch.randn(shapes[0], dtype=torch.float64), torch.randn(shapes[1])

    positive, negative = drawn(), drawn()
    before = [tensor.clone() for tensor in (*positive, *negative)]
    refined = Refiner(shapes)(positive, negative)
    assert all(map(torch.equal, before, (*positive, *negative)))
    assert [tensor.dtype for tensor in refined.gradient] == [torch.float64, torch.float32]
    assert tuple(tensor.shape for tensor in refined.gradient) == shapes


def test_a_gradient_too_many_or_too_few_is_named() -> None:
    gradient = (torch.ones(2),)
    with pytest.raises(ValueError, match="does not take the gradient of negative_1, anchor"):
        Refiner([torch.Size([2])])(gradient, gradient, gradient, anchor=gradient)
    with pytest.raises(ValueError, match="needs the gradient of anchor"):
        Refiner([torch.Size([2])], "orthogonal_anchor")(gradient, gradient)
    unreached: Any = (None,)
    with pytest.raises(ValueError, match="the gradient of negative"):
        Refiner([torch.Size([2])])(gradient, unreached)


def test_what_has_no_effect_or_no_meaning_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"contrast\.anchor has no effect"):
        Refiner([torch.Size([2])], "orthogonal", ContrastConfig(anchor=True))
    with pytest.raises(ValueError, match="scope block goes by the names"):
        Refiner([torch.Size([2])], contrast=ContrastConfig(scope="block"))
