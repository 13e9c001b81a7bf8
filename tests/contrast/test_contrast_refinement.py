"""The update rules on vectors whose refinement is worked out by hand.

With ``g+ = (2, -1, 3)``, ``g- = (1, 2, -2)``, ``ga = (-1, 1, 4)``:
``g+.g+ = 14``, ``g+.g- = 2 - 2 - 6 = -6``, ``g-.g- = 9``, ``g+.ga = -2 - 1 + 12 = 9``,
``ga.ga = 18``.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nsync_pipeline.contrast.refinement import refine


def parts(*values: float) -> tuple[Tensor, ...]:
    """A vector as two tensors of different shapes: the projection is over both together."""
    return torch.tensor(values[:1]), torch.tensor(values[1:]).reshape(-1, 1)


def whole(gradient: tuple[Tensor, ...]) -> list[float]:
    return torch.cat([tensor.flatten() for tensor in gradient]).tolist()


GRADIENTS = {
    "positive": parts(2.0, -1.0, 3.0),
    "negative": parts(1.0, 2.0, -2.0),
    "anchor": parts(-1.0, 1.0, 4.0),
}


def test_none_is_the_positive_gradient() -> None:
    refinement = refine("none", {"positive": GRADIENTS["positive"]})
    assert whole(refinement.gradient) == [2.0, -1.0, 3.0]
    diagnostics = refinement.diagnostics
    assert diagnostics.norm_positive == diagnostics.norm_refined == pytest.approx(math.sqrt(14))
    assert diagnostics.share_removed == 0.0
    assert diagnostics.norm_negative is None
    assert diagnostics.cosine_anchor is None


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


def test_orthogonal_anchor_adds_the_projection_on_the_anchor() -> None:
    """``g' = (8/3, 1/3, 5/3) + 9/18 ga = (13/6, 5/6, 11/3)``."""
    refinement = refine("orthogonal_anchor", GRADIENTS)
    assert whole(refinement.gradient) == pytest.approx([13 / 6, 5 / 6, 11 / 3])
    diagnostics = refinement.diagnostics
    assert diagnostics.norm_anchor == pytest.approx(math.sqrt(18))
    assert diagnostics.cosine_anchor == pytest.approx(9 / math.sqrt(14 * 18))
    assert diagnostics.share_removed == pytest.approx(6 / (math.sqrt(14) * 3))


def test_what_is_orthogonal_already_is_left_alone() -> None:
    refinement = refine("orthogonal", {"positive": parts(1.0, 2.0), "negative": parts(2.0, -1.0)})
    assert whole(refinement.gradient) == [1.0, 2.0]
    assert refinement.diagnostics.cosine_negative == 0.0


def test_zero_negative_gradient_leaves_positive_unchanged() -> None:
    gradients = GRADIENTS | {"negative": parts(0.0, 0.0, 0.0), "anchor": parts(0.0, 0.0, 0.0)}
    refinement = refine("orthogonal_anchor", gradients)
    assert whole(refinement.gradient) == [2.0, -1.0, 3.0]
    assert refinement.diagnostics.cosine_negative is None
    assert refinement.diagnostics.norm_negative == 0.0
    assert refinement.diagnostics.share_removed == 0.0


def test_zero_positive_gradient_stays_zero() -> None:
    refinement = refine("orthogonal_anchor", GRADIENTS | {"positive": parts(0.0, 0.0, 0.0)})
    assert whole(refinement.gradient) == [0.0, 0.0, 0.0]
    assert refinement.diagnostics.cosine_anchor is None


def test_a_negative_a_billionth_of_the_positive_counts_as_absent() -> None:
    refinement = refine("orthogonal", GRADIENTS | {"negative": parts(1e-9, 2e-9, -2e-9)})
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
    gradients = {"positive": parts(1e8, 1.0, -1e8), "negative": parts(1.0, 1.0, 1.0)}
    assert whole(refine("orthogonal", gradients).gradient)[1] == pytest.approx(2 / 3)


def test_a_missing_branch_is_named() -> None:
    with pytest.raises(ValueError, match="needs the gradient of negative, anchor"):
        refine("orthogonal_anchor", {"positive": GRADIENTS["positive"]})


def test_gradients_of_other_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="different shapes"):
        refine("orthogonal", GRADIENTS | {"negative": parts(1.0, 2.0)})


def test_a_gradient_that_is_not_finite_shows_in_its_norm() -> None:
    refinement = refine("orthogonal", GRADIENTS | {"negative": parts(1.0, math.inf, 0.0)})
    assert not math.isfinite(refinement.diagnostics.norm_negative or 0.0)


numbers = st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=4)


@given(numbers, numbers)
def test_what_is_left_has_no_part_along_the_negative(a: list[float], b: list[float]) -> None:
    positive, negative = parts(*a), parts(*b)
    refinement = refine("orthogonal", {"positive": positive, "negative": negative})
    diagnostics = refinement.diagnostics
    left = torch.tensor(whole(refinement.gradient), dtype=torch.float64)
    other = torch.tensor(b, dtype=torch.float64)
    norm = float(other.norm())
    along = abs(float(left @ other)) / norm if norm else 0.0
    # Float32 keeps 2^-24 of each number; and what counts as absent is left in.
    assert along <= 1e-6 * diagnostics.norm_positive
    assert diagnostics.norm_refined <= diagnostics.norm_positive * (1 + 1e-6)
