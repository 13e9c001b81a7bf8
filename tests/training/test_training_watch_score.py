"""The style score of looks, by hand."""

import math

import numpy as np
import pytest

from nsync_pipeline.training.looks import LookScore, best_look, style_targets


def test_a_margin_is_the_cosine_to_the_style_less_that_to_the_nearest_rival() -> None:
    """The style is the x axis, its rivals the y axis and the diagonal between y and z."""
    half = math.sqrt(0.5)
    targets = style_targets(
        np.array([[0.6, 0.8, 0.0], [0.6, -0.8, 0.0]]),  # their mean is along x
        np.array([[0.0, 1.0, 0.0]]),
        np.array([[0.0, half, half]]),
    )
    pictures = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    # 1 - 0; 0.6 - 0.8 (of y, as the diagonal's is 0.8 * 0.707); 0 - 0.707 (of the diagonal).
    assert targets.margins(pictures) == pytest.approx((1.0, -0.2, -half))


def test_the_standard_error_is_over_pictures() -> None:
    """0.1, 0.2, 0.6: mean 0.3, variance (0.04 + 0.01 + 0.09) / 2 = 0.07."""
    score = LookScore(50, (0.1, 0.2, 0.6))
    assert score.style_margin == pytest.approx(0.3)
    assert score.standard_error == pytest.approx(math.sqrt(0.07 / 3))


def test_one_picture_has_no_standard_error() -> None:
    score = LookScore(50, (0.1,))
    assert score.standard_error is None
    assert not score.lead_over(LookScore(100, (0.0,))).told_apart


def test_looks_are_compared_picture_by_picture() -> None:
    """Pictures far apart, differences 0.10, 0.12, 0.08: mean 0.1, error 0.02 / sqrt(3) = 0.0115."""
    a, b = LookScore(50, (0.9, 0.12, -0.5)), LookScore(100, (0.8, 0.0, -0.58))
    lead = a.lead_over(b)
    assert lead.style_margin == pytest.approx(0.1)
    assert lead.standard_error == pytest.approx(0.02 / math.sqrt(3))
    assert lead.told_apart
    assert a.standard_error is not None
    assert a.standard_error > 0.3  # unpaired, the two could not be told apart


def test_the_best_look_is_the_earliest_of_the_highest() -> None:
    scores = {step: LookScore(step, (margin,)) for step, margin in ((4, 0.5), (6, 0.5), (2, 0.1))}
    assert best_look(scores).step == 4
