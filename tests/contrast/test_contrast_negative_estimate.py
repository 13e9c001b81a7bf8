"""The running estimates of the negative direction, over a few steps worked out by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nsync_pipeline.contrast import rules
from nsync_pipeline.contrast.config import ContrastConfig
from nsync_pipeline.contrast.refiner import Refinement, Refiner


def refiner(size: int = 3, **contrast: Any) -> Refiner:
    return Refiner([torch.Size([size])], contrast=ContrastConfig(**contrast))


def step(found: Refiner, positive: list[float], *negatives: list[float]) -> Refinement:
    return found((torch.tensor(positive),), *[(torch.tensor(n),) for n in negatives])


def mean() -> Refiner:
    return refiner(negative_estimate="running_mean", running_decay=0.5)


def test_the_first_mean_is_the_step_itself() -> None:
    """``g+ - 2 (1, 0, 0)``, however long the negative is."""
    refinement = step(mean(), [2.0, -1.0, 3.0], [400.0, 0.0, 0.0])
    assert refinement.gradient[0].tolist() == pytest.approx([0.0, -1.0, 3.0])
    assert refinement.diagnostics.cosine_estimate is None


def test_the_mean_is_of_directions_and_corrected_for_its_start() -> None:
    """Decay 1/2: ``e_2 = (1/2 * 1/2 * (1,0,0) + 1/2 * (0,1,0)) / (3/4) = (1, 2, 0) / 3``, though
    the first negative is 400 long and the second 0.1. Of ``(2, -1, 3)`` along ``(1, 2, 0)`` there
    is nothing; of ``(0, 5, 0)``: ``10/5 (1, 2, 0)``, and ``(-2, 1, 0)`` is left."""
    for positive, expected in (([2.0, -1.0, 3.0], [2.0, -1.0, 3.0]), ([0.0, 5.0, 0.0], [-2, 1, 0])):
        found = mean()
        step(found, [1.0, 1.0, 1.0], [400.0, 0.0, 0.0])
        refinement = step(found, positive, [0.0, 0.1, 0.0])
        assert refinement.gradient[0].tolist() == pytest.approx(expected, abs=1e-6)
        assert refinement.diagnostics.cosine_estimate == pytest.approx(0.0)
        kept = found.state_tensors()["negative_estimate.vectors"]
        assert kept[0].tolist() == pytest.approx([1 / 3, 2 / 3, 0.0])


def test_the_cosine_is_to_the_estimate_before_the_step() -> None:
    found = mean()
    step(found, [1.0, 1.0, 1.0], [3.0, 0.0, 0.0])
    refinement = step(found, [1.0, 1.0, 1.0], [1.0, -1.0, 0.0])
    assert refinement.diagnostics.cosine_estimate == pytest.approx(math.sqrt(0.5))
    opposite = step(mean_after([3.0, 0.0, 0.0]), [1.0, 1.0, 1.0], [-1.0, 0.0, 0.0])
    assert opposite.diagnostics.cosine_estimate == pytest.approx(-1.0)


def mean_after(negative: list[float]) -> Refiner:
    found = mean()
    step(found, [1.0, 1.0, 1.0], negative)
    return found


def test_a_step_without_a_negative_takes_the_mean_as_it_is() -> None:
    found = mean_after([3.0, 0.0, 0.0])
    refinement = step(found, [2.0, -1.0, 3.0], [0.0, 0.0, 0.0])
    assert refinement.gradient[0].tolist() == pytest.approx([0.0, -1.0, 3.0])
    assert found.state_tensors()["negative_estimate.steps"] == 1


def test_several_negatives_are_averaged_in_the_mean() -> None:
    """``((1,0,0) + (0,1,0)) / 2``: of ``(1, 1, 0)`` nothing is left; of ``(1, -1, 0)`` all."""
    found = refiner(negative_estimate="running_mean", negatives=2)
    refinement = step(found, [3.0, 1.0, 0.0], [5.0, 0.0, 0.0], [0.0, 0.2, 0.0])
    assert refinement.gradient[0].tolist() == pytest.approx([1.0, -1.0, 0.0])


def test_a_basis_removes_the_span_of_the_last_negatives() -> None:
    """Two are kept: after the third step the first axis is free again."""
    found = refiner(size=4, negative_estimate="running_basis", basis_size=2)
    ones = [1.0, 1.0, 1.0, 1.0]
    first = step(found, ones, [7.0, 0.0, 0.0, 0.0])
    assert first.gradient[0].tolist() == pytest.approx([0.0, 1.0, 1.0, 1.0])
    second = step(found, ones, [1.0, 1.0, 0.0, 0.0])
    assert second.gradient[0].tolist() == pytest.approx([0.0, 0.0, 1.0, 1.0], abs=1e-6)
    third = step(found, ones, [0.0, 0.0, 0.5, 0.0])
    assert third.gradient[0].tolist() == pytest.approx([0.0, 0.0, 0.0, 1.0], abs=1e-6)
    fourth = step(found, ones, [0.0, 0.0, 0.0, 2.0])
    assert fourth.gradient[0].tolist() == pytest.approx([1.0, 1.0, 0.0, 0.0], abs=1e-6)
    assert [r.diagnostics.basis_rank for r in (first, second, third, fourth)] == [1, 2, 2, 2]
    assert fourth.diagnostics.estimate_bytes == 2 * 4 * 4
    assert fourth.diagnostics.cosine_estimate == pytest.approx(0.0)


def test_a_negative_in_the_span_of_the_basis_has_the_cosine_one() -> None:
    found = refiner(negative_estimate="running_basis", basis_size=4)
    step(found, [1.0, 1.0, 1.0], [1.0, 0.0, 0.0])
    step(found, [1.0, 1.0, 1.0], [1.0, 1.0, 0.0])
    refinement = step(found, [1.0, 1.0, 1.0], [-1.0, 3.0, 0.0])
    assert refinement.diagnostics.cosine_estimate == pytest.approx(1.0)
    assert refinement.diagnostics.basis_rank == 2


def test_a_gradient_that_is_not_finite_leaves_the_estimate_as_it_was() -> None:
    found = mean_after([3.0, 0.0, 0.0])
    before = found.state_tensors()
    step(found, [1.0, 1.0, 1.0], [math.inf, 0.0, 0.0])
    step(found, [1.0, math.nan, 1.0], [0.0, 1.0, 0.0])
    after = found.state_tensors()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    "contrast",
    [
        {},
        {"negative_estimate": "running_mean"},
        {"negative_estimate": "running_basis", "basis_size": 3, "scope": "tensor"},
    ],
)
def test_a_restored_refiner_goes_on_as_the_unbroken_one(contrast: dict[str, Any]) -> None:
    names, shapes = ["b.lora_A.weight", "a.lora_A.weight"], [torch.Size([3]), torch.Size([2, 2])]
    generator = torch.Generator().manual_seed(1)

    def gradients() -> list[tuple[Tensor, ...]]:
        return [
            tuple(torch.randn(shape, generator=generator) for shape in shapes) for _ in range(2)
        ]

    def fresh() -> Refiner:
        return Refiner(dict(zip(names, shapes, strict=True)), contrast=ContrastConfig(**contrast))

    steps = [gradients() for _ in range(9)]
    unbroken = fresh()
    expected = [unbroken(*one).gradient for one in steps]
    for killed_at in (0, 1, 2, 5):
        before, after = fresh(), fresh()
        for one in steps[:killed_at]:
            before(*one)
        after.restore({"other": torch.zeros(1)} | before.state_tensors())
        for one, wanted in zip(steps[killed_at:], expected[killed_at:], strict=True):
            assert all(map(torch.equal, after(*one).gradient, wanted))


def test_the_state_of_other_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="4 numbers are trained"):
        refiner(size=4, negative_estimate="running_mean").restore(
            mean_after([1.0, 0.0, 0.0]).state_tensors()
        )


@pytest.mark.parametrize("kind", ["running_mean", "running_basis"])
def test_a_step_without_negatives_takes_the_estimate(kind: Any) -> None:
    """Its direction is that of the step before; the estimate stays as it was."""
    generator = torch.Generator().manual_seed(4)
    first, second, negative = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    contrast = ContrastConfig(negative_every=2, negative_estimate=kind)
    every_second = Refiner([first.shape], "orthogonal", contrast)
    every_second((first,), (negative,))
    kept = every_second.state_tensors()
    found = every_second((second,))
    torch.testing.assert_close(found.gradient[0], rules.orthogonal(second, [negative]))
    assert found.diagnostics.norm_negative is None
    assert found.diagnostics.cosine_negative is None
    for name, tensor in every_second.state_tensors().items():
        assert torch.equal(tensor, kept[name])
    with pytest.raises(ValueError, match="needs the gradient of negative"):
        Refiner([first.shape], "orthogonal")((second,))
