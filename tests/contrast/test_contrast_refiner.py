"""The update rules on vectors whose refinement is worked out by hand.

With ``g+ = (2, -1, 3)``, ``g- = (1, 2, -2)``, ``ga = (-1, 1, 4)``:
``g+.g+ = 14``, ``g+.g- = 2 - 2 - 6 = -6``, ``g-.g- = 9``, ``g+.ga = -2 - 1 + 12 = 9``,
``ga.ga = 18``.
"""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nsync_pipeline.contrast.config import (
    ANCHOR,
    NEGATIVE,
    POSITIVE,
    Branch,
    ContrastConfig,
    UpdateRule,
)
from nsync_pipeline.contrast.refiner import Refinement, Refiner


def parts(*values: float) -> tuple[Tensor, ...]:
    """A vector as two tensors of different shapes: the projection is over both together."""
    return torch.tensor(values[:1]), torch.tensor(values[1:]).reshape(-1, 1)


def whole(gradient: tuple[Tensor, ...]) -> list[float]:
    return torch.cat([tensor.flatten() for tensor in gradient]).tolist()


def refine(
    rule: UpdateRule,
    gradients: Mapping[Branch, tuple[Tensor, ...]],
    weighting: tuple[Tensor, ...] | None = None,
    **contrast: Any,
) -> Refinement:
    shapes = [tensor.shape for tensor in gradients[POSITIVE]]
    names = ["unet.mid_block.to_q.lora_A.weight", "unet.up_blocks.0.to_q.lora_A.weight"]
    named = dict(zip(names, shapes, strict=False))
    return Refiner(named, rule, ContrastConfig(**contrast)).of_branches(gradients, weighting)


GRADIENTS = {
    POSITIVE: parts(2.0, -1.0, 3.0),
    NEGATIVE: parts(1.0, 2.0, -2.0),
    ANCHOR: parts(-1.0, 1.0, 4.0),
}


def test_none_is_the_positive_gradient() -> None:
    refinement = refine("none", {POSITIVE: GRADIENTS[POSITIVE]})
    assert whole(refinement.gradient) == [2.0, -1.0, 3.0]
    diagnostics = refinement.diagnostics
    assert diagnostics.norm_positive == diagnostics.norm_refined == pytest.approx(math.sqrt(14))
    assert diagnostics.share_removed == 0.0
    assert diagnostics.norm_negative is None
    assert diagnostics.cosine_anchor is None
    assert refinement.norms == {POSITIVE: pytest.approx(math.sqrt(14))}


def test_orthogonal_removes_the_projection_on_the_negative() -> None:
    """``g' = g+ + 6/9 g- = (8/3, 1/3, 5/3)``, of norm ``sqrt(90)/3 = sqrt(10)``."""
    refinement = refine("orthogonal", GRADIENTS)
    assert whole(refinement.gradient) == pytest.approx([8 / 3, 1 / 3, 5 / 3])
    diagnostics = refinement.diagnostics
    assert diagnostics.norm_negative == pytest.approx(3.0)
    assert diagnostics.cosine_negative == pytest.approx(-6 / (math.sqrt(14) * 3))
    assert diagnostics.share_removed == pytest.approx(6 / (math.sqrt(14) * 3))
    assert diagnostics.norm_refined == pytest.approx(math.sqrt(10))
    assert diagnostics.norm_anchor is None
    assert diagnostics.largest_share_removed is None  # there is one scope


def test_orthogonal_anchor_adds_the_projection_on_the_anchor() -> None:
    """``g' = (8/3, 1/3, 5/3) + 9/18 ga = (13/6, 5/6, 11/3)``."""
    refinement = refine("orthogonal_anchor", GRADIENTS)
    assert whole(refinement.gradient) == pytest.approx([13 / 6, 5 / 6, 11 / 3])
    diagnostics = refinement.diagnostics
    assert diagnostics.norm_anchor == pytest.approx(math.sqrt(18))
    assert diagnostics.cosine_anchor == pytest.approx(9 / math.sqrt(14 * 18))
    assert diagnostics.share_removed == pytest.approx(6 / (math.sqrt(14) * 3))


def test_mean_is_over_the_branches() -> None:
    """``(3, 1, 1) / 2``; with the anchor ``(2, 2, 5) / 3``."""
    assert whole(refine("mean", GRADIENTS).gradient) == pytest.approx([1.5, 0.5, 0.5])
    with_anchor = refine("mean", GRADIENTS, anchor=True)
    assert whole(with_anchor.gradient) == pytest.approx([2 / 3, 2 / 3, 5 / 3])
    assert with_anchor.diagnostics.share_removed == 0.0


def test_released_projects_on_the_accumulated_gradient() -> None:
    """``g+ = (1, 2)``, ``g- = (2, -1)``: ``G = (3, 1)``, ``g+.G / G.G = 5/10``, and so
    ``g' = (1, 2) - (1.5, 0.5) = (-0.5, 1.5)``; with the anchor one more ``g+``: ``(0.5, 3.5)``."""
    gradients = {POSITIVE: parts(1.0, 2.0), NEGATIVE: parts(2.0, -1.0)}
    refinement = refine("released", gradients)
    assert whole(refinement.gradient) == pytest.approx([-0.5, 1.5])
    assert refinement.diagnostics.share_removed == pytest.approx(math.sqrt(2.5 / 5))
    assert refinement.diagnostics.cosine_negative == 0.0
    assert whole(refine("released", gradients, anchor=True).gradient) == pytest.approx([0.5, 3.5])


def test_released_mean_is_the_mean_of_gradients_that_were_not_set_to_zero() -> None:
    """(2 (1, 2) + (2, -1)) / 2 = (2, 1.5); (3 (1, 2) + 2 (2, -1) + (-1, 5)) / 3 = (2, 3)."""
    gradients = {POSITIVE: parts(1.0, 2.0), NEGATIVE: parts(2.0, -1.0), ANCHOR: parts(-1.0, 5.0)}
    assert whole(refine("released", gradients, released_form="mean").gradient) == pytest.approx(
        [2.0, 1.5]
    )
    with_anchor = refine("released", gradients, released_form="mean", anchor=True)
    assert whole(with_anchor.gradient) == pytest.approx([2.0, 3.0])


def test_released_mean_is_what_the_released_loop_leaves_in_grad() -> None:
    """Its backward passes in turn, ``.grad`` never zeroed and copied after each; then the mean."""
    weight = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 3, generator=generator)
    copies, own = [], []
    for row in inputs:
        loss = (weight * row).sum().square()
        (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
        loss.backward()
        assert weight.grad is not None
        own.append(gradient)
        copies.append(weight.grad.clone())
    for count in (2, 3):
        branches = dict(zip((POSITIVE, NEGATIVE, ANCHOR), [(g,) for g in own], strict=True))
        found = refine("released", branches, released_form="mean", anchor=count == 3)
        expected = torch.stack(copies[:count]).mean(dim=0)
        torch.testing.assert_close(found.gradient[0], expected)


def test_released_leaves_the_positive_alone_where_its_sum_is_nothing() -> None:
    gradients = {POSITIVE: parts(0.1, 0.7, -0.3), NEGATIVE: parts(-0.1, -0.7, 0.3)}
    assert whole(refine("released", gradients).gradient) == whole(gradients[POSITIVE])


def test_what_is_orthogonal_already_is_left_alone() -> None:
    refinement = refine("orthogonal", {POSITIVE: parts(1.0, 2.0), NEGATIVE: parts(2.0, -1.0)})
    assert whole(refinement.gradient) == [1.0, 2.0]
    assert refinement.diagnostics.cosine_negative == 0.0


@pytest.mark.parametrize("factor", [3.0, -0.25])
def test_of_parallel_and_opposite_gradients_nothing_is_left(factor: float) -> None:
    gradients = {
        POSITIVE: parts(2.0, -1.0, 3.0),
        NEGATIVE: parts(*(factor * 2.0, -factor, 3.0 * factor)),
    }
    refinement = refine("orthogonal", gradients)
    assert whole(refinement.gradient) == pytest.approx([0.0, 0.0, 0.0], abs=1e-15)
    assert refinement.diagnostics.share_removed == pytest.approx(1.0)
    assert refinement.diagnostics.cosine_negative == pytest.approx(math.copysign(1.0, factor))
    assert refinement.diagnostics.norm_refined == pytest.approx(0.0, abs=1e-15)


def test_positive_part_leaves_a_conflict_alone_and_removes_what_is_shared() -> None:
    """``g+.g- = -6``: nothing. ``g+.ga = 9``, ``9/18 ga = (-1/2, 1/2, 2)`` as the negative:
    ``(5/2, -3/2, 1)``."""
    conflict = refine("orthogonal", GRADIENTS, positive_part=True)
    assert whole(conflict.gradient) == [2.0, -1.0, 3.0]
    assert conflict.diagnostics.share_removed == 0.0
    shared = {POSITIVE: GRADIENTS[POSITIVE], NEGATIVE: GRADIENTS[ANCHOR]}
    refinement = refine("orthogonal", shared, positive_part=True)
    assert whole(refinement.gradient) == pytest.approx([2.5, -1.5, 1.0])


def test_strength_is_the_share_of_the_projection_taken_off() -> None:
    """``g+ + 1/4 * 6/9 g- = (2, -1, 3) + (1, 2, -2)/6``."""
    refinement = refine("orthogonal", GRADIENTS, strength=0.25)
    assert whole(refinement.gradient) == pytest.approx([13 / 6, -2 / 3, 8 / 3])
    assert refinement.diagnostics.share_removed == pytest.approx(0.25 * 2 / math.sqrt(14))


def test_several_negatives_are_projected_out_of_their_span() -> None:
    """``n = (1, 0, 0), (1, 1, 0)`` span the first two axes: of ``(2, -1, 3)``, ``(0, 0, 3)`` is
    left (one after the other would leave ``(0, -1, 3) + (0.5, 0.5, 0)``)."""
    gradients = {
        POSITIVE: parts(2.0, -1.0, 3.0),
        NEGATIVE: parts(1.0, 0.0, 0.0),
        Branch("negative", 1): parts(1.0, 1.0, 0.0),
    }
    refinement = refine("orthogonal", gradients, negatives=2)
    assert whole(refinement.gradient) == pytest.approx([0.0, 0.0, 3.0], abs=1e-12)
    assert refinement.diagnostics.share_removed == pytest.approx(math.sqrt(5 / 14))
    assert refinement.diagnostics.basis_rank == 2
    assert refinement.diagnostics.norm_negative == pytest.approx((1 + math.sqrt(2)) / 2)
    mean_cosine = (2 / math.sqrt(14) + 1 / math.sqrt(28)) / 2
    assert refinement.diagnostics.cosine_negative == pytest.approx(mean_cosine)
    assert set(refinement.norms) == {POSITIVE, NEGATIVE, Branch("negative", 1)}


def test_the_positive_part_of_a_span_is_its_cone() -> None:
    """``n = (1, 0, 0), (-1, 1, 0)``, ``g+ = (2, -1, 3)``: the products are 2 and -3, so on the cone
    only the first is removed, though both span the plane: ``(0, -1, 3)``, which conflicts with the
    second as before."""
    gradients = {
        POSITIVE: parts(2.0, -1.0, 3.0),
        NEGATIVE: parts(1.0, 0.0, 0.0),
        Branch("negative", 1): parts(-1.0, 1.0, 0.0),
    }
    refinement = refine("orthogonal", gradients, negatives=2, positive_part=True)
    assert whole(refinement.gradient) == pytest.approx([0.0, -1.0, 3.0], abs=1e-12)


def test_equal_negatives_count_once() -> None:
    same = GRADIENTS | {Branch("negative", 1): GRADIENTS[NEGATIVE]}
    refinement = refine("orthogonal", same, negatives=2)
    assert whole(refinement.gradient) == pytest.approx([8 / 3, 1 / 3, 5 / 3])
    assert refinement.diagnostics.basis_rank == 1
    shared = {
        POSITIVE: GRADIENTS[POSITIVE],
        NEGATIVE: GRADIENTS[ANCHOR],
        Branch("negative", 1): GRADIENTS[ANCHOR],
    }
    cone = refine("orthogonal", shared, negatives=2, positive_part=True)
    assert whole(cone.gradient) == pytest.approx([2.5, -1.5, 1.0])


def test_in_a_metric_what_is_left_is_orthogonal_in_it() -> None:
    """``M = diag(1, 2, 1)``: ``<g+, g-> = 2 - 4 - 6 = -8``, ``<g-, g-> = 1 + 8 + 4 = 13``, so
    ``g' = g+ + 8/13 g-``; ``<g+, ga> = -1 * 2 - 2 + 12 = 8`` and ``<ga, ga> = 1 + 2 + 16 = 19``."""
    metric = parts(1.0, 2.0, 1.0)
    refinement = refine("orthogonal", GRADIENTS, metric, metric="optimizer")
    expected = [2 + 8 / 13, -1 + 16 / 13, 3 - 16 / 13]
    assert whole(refinement.gradient) == pytest.approx(expected)
    positive_length = math.sqrt(4 + 2 + 9)
    share = 8 / math.sqrt(13) / positive_length
    assert refinement.diagnostics.share_removed == pytest.approx(share)
    assert refinement.diagnostics.cosine_negative == pytest.approx(-6 / (math.sqrt(14) * 3))
    anchored = refine("orthogonal_anchor", GRADIENTS, metric, metric="optimizer")
    added = [8 / 19 * value for value in (-1.0, 1.0, 4.0)]
    assert whole(anchored.gradient) == pytest.approx(
        [a + b for a, b in zip(expected, added, strict=True)]
    )


def test_scopes_are_projected_each_for_itself() -> None:
    """The first number alone: ``2 - 2``. The others: ``(-1, 3).(2, -2) = -8`` and ``8``, so
    ``(-1, 3) + (2, -2) = (1, 1)``. Removed are 2 of 2 and ``sqrt(8)`` of ``sqrt(10)``."""
    refinement = refine("orthogonal", GRADIENTS, scope="block")
    assert whole(refinement.gradient) == pytest.approx([0.0, 1.0, 1.0])
    assert refinement.diagnostics.share_removed == pytest.approx(math.sqrt(12 / 14))
    assert refinement.diagnostics.largest_share_removed == pytest.approx(1.0)


@pytest.mark.parametrize("rule", ["orthogonal", "orthogonal_anchor"])
@pytest.mark.parametrize("positive_part", [False, True])
def test_a_tensor_whose_gradients_are_all_zero_stays_zero(
    rule: UpdateRule, positive_part: bool
) -> None:
    """As a LoRA's A at its start, where B is zero."""
    gradients = {
        POSITIVE: parts(0.0, -1.0, 3.0),
        NEGATIVE: parts(0.0, 2.0, -2.0),
        ANCHOR: parts(0.0, 2.0, -2.0),
    }
    refinement = refine(rule, gradients, scope="tensor", positive_part=positive_part)
    assert whole(refinement.gradient)[0] == 0.0
    assert all(math.isfinite(value) for value in whole(refinement.gradient))


def test_zero_negative_gradient_leaves_positive_unchanged() -> None:
    gradients = GRADIENTS | {NEGATIVE: parts(0.0, 0.0, 0.0), ANCHOR: parts(0.0, 0.0, 0.0)}
    refinement = refine("orthogonal_anchor", gradients)
    assert whole(refinement.gradient) == [2.0, -1.0, 3.0]
    assert refinement.diagnostics.cosine_negative is None
    assert refinement.diagnostics.norm_negative == 0.0
    assert refinement.diagnostics.share_removed == 0.0


def test_zero_positive_gradient_stays_zero() -> None:
    refinement = refine("orthogonal_anchor", GRADIENTS | {POSITIVE: parts(0.0, 0.0, 0.0)})
    assert whole(refinement.gradient) == [0.0, 0.0, 0.0]
    assert refinement.diagnostics.cosine_anchor is None
    assert refinement.diagnostics.share_removed == 0.0


def test_a_negative_a_billionth_of_the_positive_counts_as_absent() -> None:
    refinement = refine("orthogonal", GRADIENTS | {NEGATIVE: parts(1e-9, 2e-9, -2e-9)})
    assert whole(refinement.gradient) == [2.0, -1.0, 3.0]


def test_the_guard_is_relative_to_the_positive() -> None:
    """All gradients a million million times smaller: the same result, as much smaller."""
    small = {name: tuple(t * 1e-12 for t in gradient) for name, gradient in GRADIENTS.items()}
    refinement = refine("orthogonal_anchor", small)
    expected = [13 / 6 * 1e-12, 5 / 6 * 1e-12, 11 / 3 * 1e-12]
    assert whole(refinement.gradient) == pytest.approx(expected, rel=1e-5)


def test_dot_products_are_summed_in_float64() -> None:
    """``g+.g- = 1e8 + 1 - 1e8`` is 1, but 0 in float32, where 1e8 and 1e8 + 1 are one number.
    With ``g-.g- = 3``, ``g' = g+ - g-/3``: the middle is ``1 - 1/3``, or 1 with the wrong sum."""
    gradients = {POSITIVE: parts(1e8, 1.0, -1e8), NEGATIVE: parts(1.0, 1.0, 1.0)}
    assert whole(refine("orthogonal", gradients).gradient)[1] == pytest.approx(2 / 3)


def test_a_missing_branch_is_named() -> None:
    with pytest.raises(ValueError, match="needs the gradient of negative, anchor"):
        refine("orthogonal_anchor", {POSITIVE: GRADIENTS[POSITIVE]})


def test_gradients_of_other_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="negative are not the weights'"):
        refine("orthogonal", GRADIENTS | {NEGATIVE: parts(1.0, 2.0)})


@pytest.mark.parametrize("branch", [POSITIVE, NEGATIVE])
@pytest.mark.parametrize("number", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_shows_in_its_norm(branch: Branch, number: float) -> None:
    refinement = refine("orthogonal", GRADIENTS | {branch: parts(1.0, number, 0.0)})
    finite = {name: math.isfinite(norm) for name, norm in refinement.norms.items()}
    assert finite == {name: name != branch for name in (POSITIVE, NEGATIVE)}
    assert not math.isfinite(getattr(refinement.diagnostics, f"norm_{branch}"))
    assert not math.isfinite(refinement.diagnostics.norm_refined)


def test_a_long_vector_is_taken_piece_by_piece() -> None:
    """Longer than a piece: as the projection in one go."""
    generator = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(2, 600_001, generator=generator)
    refinement = refine("orthogonal", {POSITIVE: (positive,), NEGATIVE: (negative,)})
    a, b = positive.double(), negative.double()
    expected = (a - (a @ b) / (b @ b) * b).float()
    assert torch.allclose(refinement.gradient[0], expected, rtol=1e-6, atol=1e-9)


numbers = st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=4)


@given(numbers, numbers)
def test_what_is_left_has_no_part_along_the_negative(a: list[float], b: list[float]) -> None:
    positive, negative = parts(*a), parts(*b)
    refinement = refine("orthogonal", {POSITIVE: positive, NEGATIVE: negative})
    diagnostics = refinement.diagnostics
    left = torch.tensor(whole(refinement.gradient), dtype=torch.float64)
    other = torch.tensor(b, dtype=torch.float64)
    # What counts as absent, and has no cosine, is left in.
    absent = diagnostics.cosine_negative is None
    along = 0.0 if absent else abs(float(left @ other)) / float(other.norm())
    # Float32 keeps 2^-24 of each number.
    assert along <= 1e-6 * diagnostics.norm_positive
    assert diagnostics.norm_refined <= diagnostics.norm_positive * (1 + 1e-6)
