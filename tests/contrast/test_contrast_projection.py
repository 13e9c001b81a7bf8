"""Projections on spans and cones: what holds for any vectors and any metric."""

from typing import Any, get_args

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.optimize import nnls
from torch import Tensor

from nsync_pipeline.contrast.config import Conflict, ContrastConfig
from nsync_pipeline.contrast.refiner import Refiner

SIZE = 6
vectors = st.lists(st.integers(-9, 9).map(float), min_size=SIZE, max_size=SIZE)
stretches = st.lists(st.floats(0.01, 100.0), min_size=SIZE, max_size=SIZE)


def double(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def left(
    positive: Tensor, negatives: list[Tensor], metric: Tensor | None = None, **contrast: Any
) -> Tensor:
    """``g'`` by the rule ``orthogonal``, in float64."""
    settings = ContrastConfig(negatives=len(negatives), **contrast)
    refiner = Refiner([positive.shape], "orthogonal", settings)
    weighting = None if metric is None else (metric,)
    return refiner((positive,), *[(n,) for n in negatives], metric=weighting).gradient[0]


def within(values: Tensor, positive: Tensor) -> bool:
    """Nothing, beside the positive gradient."""
    return bool((values.abs() <= 1e-9 * (1 + positive.norm())).all())


@given(vectors, st.lists(vectors, min_size=1, max_size=5))
def test_what_is_left_is_that_of_least_squares(a: list[float], ns: list[list[float]]) -> None:
    """Whatever the rank: numpy's ``lstsq`` goes by singular values, this by inner products."""
    positive, negatives = double(a), [double(n) for n in ns]
    span = torch.stack(negatives, dim=1)
    solution = torch.linalg.lstsq(span, positive[:, None], driver="gelsd").solution[:, 0]
    assert within(left(positive, negatives) - (positive - span @ solution), positive)


@given(vectors, st.lists(vectors, min_size=1, max_size=4), stretches)
def test_what_is_left_is_orthogonal_to_all_negatives_in_the_metric(
    a: list[float], ns: list[list[float]], m: list[float]
) -> None:
    positive, negatives, metric = double(a), [double(n) for n in ns], double(m)
    refined = left(positive, negatives, metric)
    for negative in negatives:
        product = float((refined * metric) @ negative)
        length = float(((positive**2) @ metric).sqrt() * ((negative**2) @ metric).sqrt())
        assert abs(product) <= 1e-9 * (1 + length)


@given(vectors, st.lists(vectors, min_size=1, max_size=4), st.booleans())
@example(
    [-3.0, 0.0, 5.0, 7.0, 9.0, 1.0],
    [
        [2.0, 4.0, 0.0, 5.0, -3.0, -2.0], [7.0, 7.0, 1.0, -6.0, 4.0, 0.0],
        [-4.0, 6.0, 0.0, 3.0, 9.0, 8.0], [-2.0, 5.0, -7.0, -3.0, 0.0, 5.0],
    ],
    True,  # scipy's nnls is wrong by more than |g+| here
)  # fmt: skip
def test_refining_twice_changes_nothing(
    a: list[float], ns: list[list[float]], positive_part: bool
) -> None:
    positive, negatives = double(a), [double(n) for n in ns]
    once = left(positive, negatives, positive_part=positive_part)
    twice = left(once, negatives, positive_part=positive_part)
    assert within(twice - once, positive)


@given(vectors, vectors, st.floats(1e-3, 1e3), st.booleans())
def test_the_length_of_a_negative_does_not_matter(
    a: list[float], n: list[float], factor: float, positive_part: bool
) -> None:
    positive, negative = double(a), double(n)
    found = left(positive, [negative], positive_part=positive_part)
    scaled = left(positive, [factor * negative], positive_part=positive_part)
    assert within(scaled - found, positive)


@given(vectors, vectors)
def test_without_the_positive_part_nor_does_its_sign(a: list[float], n: list[float]) -> None:
    positive, negative = double(a), double(n)
    assert within(left(positive, [negative]) - left(positive, [-negative]), positive)


@given(vectors, st.permutations(range(4)), st.lists(vectors, min_size=4, max_size=4), st.booleans())
def test_the_order_of_the_negatives_does_not_matter(
    a: list[float], order: list[int], ns: list[list[float]], positive_part: bool
) -> None:
    positive, negatives = double(a), [double(n) for n in ns]
    found = left(positive, negatives, positive_part=positive_part)
    reordered = left(positive, [negatives[i] for i in order], positive_part=positive_part)
    assert within(reordered - found, positive)


@given(vectors, st.lists(vectors, min_size=1, max_size=5))
def test_the_positive_part_leaves_nothing_shared(a: list[float], ns: list[list[float]]) -> None:
    """``g'.n <= 0`` for each negative, ``g'.(g+ - g') = 0``, and the distance is the smallest."""
    positive, negatives = double(a), [double(n) for n in ns]
    refined = left(positive, negatives, positive_part=True)
    for negative in negatives:
        assert float(refined @ negative) <= 1e-9 * (1 + float(positive.norm() * negative.norm()))
    assert abs(float(refined @ (positive - refined))) <= 1e-9 * (1 + float(positive @ positive))
    _, smallest = nnls(torch.stack(negatives, dim=1).numpy(), positive.numpy())
    assert float(refined.norm()) == pytest.approx(smallest, abs=1e-9 * (1 + float(positive.norm())))


def test_negatives_apart_by_rounding_alone_are_one_direction() -> None:
    """As float32 rounds: an angle of 1e-8 says nothing, and would be blown up 1e8 times."""
    positive, negative = double([1.0, 1.0, 0, 0, 0, 0]), double([1.0, 0, 0, 0, 0, 0])
    rounded = negative + double([0, 1e-8, 0, 0, 0, 0])
    assert left(positive, [negative, rounded])[1] == pytest.approx(1.0, abs=1e-6)


def test_the_step_of_adamw_is_orthogonal_to_the_negative_in_its_metric() -> None:
    """AdamW divides by ``sqrt(v) + eps``: without the metric, its step is not orthogonal."""
    generator = torch.Generator().manual_seed(3)
    positive, negative = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    second_moment = torch.rand(50, generator=generator, dtype=torch.float64) ** 4
    epsilon = 1e-8
    metric = 1 / (second_moment.sqrt() + epsilon)

    def along_the_negative(refined: Tensor) -> float:
        weight = torch.nn.Parameter(torch.zeros(50, dtype=torch.float64))
        # No momentum, and a second moment that one step hardly changes.
        optimizer = torch.optim.AdamW(
            [weight], lr=1.0, betas=(0.0, 1 - 1e-12), eps=epsilon, weight_decay=0.0
        )
        optimizer.state[weight] = {
            "step": torch.tensor(1e14),
            "exp_avg": torch.zeros_like(weight),
            "exp_avg_sq": second_moment.clone(),
        }
        weight.grad = refined
        optimizer.step()
        step = weight.detach()
        return float(step @ negative / (step.norm() * negative.norm()))

    assert abs(along_the_negative(left(positive, [negative], metric))) < 1e-6
    assert abs(along_the_negative(left(positive, [negative]))) > 1e-2


@given(vectors, vectors, st.floats(1.0, 1e3), st.sampled_from(get_args(Conflict)))
def test_no_strength_raises_the_positives_loss(
    a: list[float], n: list[float], strength: float, conflict: Conflict
) -> None:
    """``g'.g+ >= 0``; of a negative that is shared, it is 0 beyond ``1 / cos^2``."""
    positive, negative = double(a), double(n)
    refined = left(positive, [negative], strength=strength, conflict=conflict)
    square, shared = float(positive @ positive), float(positive @ negative)
    assert float(refined @ positive) >= -1e-9 * (1 + square)
    if shared > 0:
        cosine = shared / float(positive.norm() * negative.norm())
        kept = square * max(0.0, 1 - strength * cosine**2)
        assert float(refined @ positive) == pytest.approx(kept, abs=1e-9 * (1 + square))
    elif conflict == "leave":
        assert within(refined - positive, positive)
    elif shared < 0:
        away = float((refined - positive) @ negative)
        assert (away < 0) is (conflict == "push_away")


@given(vectors, st.lists(vectors, min_size=1, max_size=3), st.floats(0, 1))
def test_a_safeguard_keeps_its_share_of_the_positives_descent(
    a: list[float], ns: list[list[float]], margin: float
) -> None:
    positive, negatives = double(a), [double(n) for n in ns]
    settings = ContrastConfig(negatives=len(ns), margin=margin)
    refiner = Refiner([positive.shape], "safeguarded", settings)
    refined = refiner((positive,), *[(n,) for n in negatives]).gradient[0]
    square = float(positive @ positive)
    assert float(refined @ positive) >= (margin - 1e-9) * square - 1e-9


@given(vectors, vectors)
def test_the_papers_rule_is_a_margin_of_1_less_the_squared_cosine(
    a: list[float], n: list[float]
) -> None:
    """Where the positive shares something with a negative that is as long, or longer."""
    positive, negative = sorted((double(a), double(n)), key=lambda vector: float(vector.norm()))
    shared = float(positive @ negative)
    assume(shared != 0)
    negative, shared = (negative, shared) if shared > 0 else (-negative, -shared)
    cosine = shared / float(positive.norm() * negative.norm())
    settings = ContrastConfig(margin=max(0.0, 1 - cosine**2))
    refiner = Refiner([positive.shape], "safeguarded", settings)
    refined = refiner((positive,), (negative,)).gradient[0]
    assert within(refined - left(positive, [negative]), positive)
