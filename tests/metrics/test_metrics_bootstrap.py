import numpy as np
import pytest

from nsync_pipeline.metrics.bootstrap import (
    Interval,
    holm,
    interval,
    mean_under,
    prompt_draws,
    prompt_means,
    two_sided_p,
)


def test_each_draw_takes_as_many_prompts_as_there_are() -> None:
    draws = prompt_draws(7, 100, np.random.default_rng(0))
    assert draws.shape == (100, 7)
    assert (draws.sum(axis=1) == 7).all()
    assert draws.std(axis=0).min() > 0


def test_pictures_are_averaged_within_their_prompt() -> None:
    means = prompt_means(np.array([1.0, 3.0, 10.0]), np.array([0, 0, 2]), 3)
    np.testing.assert_array_equal(means, [2.0, np.nan, 10.0])


def test_mean_under_counts_prompts_and_leaves_out_empty_ones() -> None:
    """Counts (2, 1, 0): (2 x 2 + 0) / 2, the empty one counts nothing; (0, 3, 0): none has any."""
    weights = np.array([[2.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 3.0, 0.0]])
    found = mean_under(weights, np.array([2.0, np.nan, 10.0]))
    np.testing.assert_array_equal(found, [2.0, 6.0, np.nan])


def test_interval_is_the_middle_of_the_draws() -> None:
    """Draws 0 .. 1000: the 2.5 % and 97.5 % quantiles are 25 and 975."""
    found = interval(400.0, np.arange(1001.0))
    assert (found.value, found.low, found.high) == pytest.approx((400.0, 25.0, 975.0))


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=50)
        draws = mean_under(prompt_draws(50, 400, rng), values)
        found = interval(values.mean(), draws)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.0 <= found.high
    assert 0.89 <= covered / 200 <= 0.99


def test_interval_without_any_finite_draw_has_no_ends() -> None:
    assert interval(1.0, np.array([np.nan, np.nan])) == Interval(1.0, None, None)


def test_p_value_counts_the_draws_beyond_zero() -> None:
    """One of 19 draws is at or below 0: 2 (1 + 1) / 20."""
    assert two_sided_p(np.array([-1.0] + [1.0] * 18)) == pytest.approx(0.2)
    assert two_sided_p(np.ones(1999)) == pytest.approx(0.001)
    assert two_sided_p(np.zeros(10)) == 1.0


def test_holm_multiplies_the_smallest_most_and_never_decreases() -> None:
    """Sorted 0.01, 0.02, 0.03: x3, x2, x1 is 0.03, 0.04, 0.03, made monotone 0.03, 0.04, 0.04."""
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
