"""Style, prompt fidelity, copying and diversity, on rows whose answers can be read off."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from nsync_pipeline.metrics.picture_metrics import (
    clopper_pearson,
    copy_threshold,
    nearest,
    prompt_fidelity,
    prototype,
    style_scores,
    vendi_at,
    vendi_score,
    worst_first,
)


def test_prototype_is_the_unit_mean_direction() -> None:
    np.testing.assert_allclose(prototype(np.eye(2)), [math.sqrt(0.5), math.sqrt(0.5)])


def test_prototype_of_opposite_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match="cancel"):
        prototype(np.array([[1.0, 0.0], [-1.0, 0.0]]))


def test_margin_is_the_target_cosine_less_the_best_rival() -> None:
    """(0.6, 0.8) has cosine 0.6 to the target, 0.8 to the first rival and -0.6 to the second."""
    scores = style_scores(
        np.array([[0.6, 0.8], [1.0, 0.0]]),
        target=np.array([1.0, 0.0]),
        others=np.array([[0.0, 1.0], [-1.0, 0.0]]),
    )
    np.testing.assert_allclose(scores.cosine, [0.6, 1.0])
    np.testing.assert_allclose(scores.margin, [-0.2, 1.0])
    assert scores.rival.tolist() == [0, 0]


def test_prompt_fidelity_is_a_hundred_times_the_cosine() -> None:
    pictures = np.array([[1.0, 0.0], [0.6, 0.8]])
    captions = np.array([[0.6, 0.8], [0.6, 0.8]])
    np.testing.assert_allclose(prompt_fidelity(pictures, captions), [60.0, 100.0])


def test_prompt_fidelity_refuses_captions_that_do_not_pair_up() -> None:
    with pytest.raises(ValueError, match="pair up"):
        prompt_fidelity(np.eye(2), np.eye(2)[:1])


def test_nearest_training_picture() -> None:
    """(1, 0) and (0, 1) are sqrt 2 apart."""
    found = nearest(np.array([[1.0, 0.0], [0.6, 0.8]]), np.array([[0.0, 1.0]]))
    assert found.index.tolist() == [0, 0]
    np.testing.assert_allclose(found.distance, [math.sqrt(2.0), math.sqrt(0.4)])


def test_at_most_the_quantile_of_real_pictures_counts_as_copies() -> None:
    distances = np.arange(1.0, 201.0)
    assert copy_threshold(distances, 0.01) == 2.0  # row floor(0.01 x 199) = 1
    assert (distances < 2.0).mean() <= 0.01
    assert copy_threshold(np.array([0.3, 0.2, 0.4]), 0.01) == 0.2


def test_clopper_pearson_interval_leaves_the_tails_of_the_binomial() -> None:
    low, high = clopper_pearson(3, 20)
    assert binom.sf(2, 20, low) == pytest.approx(0.025)  # three or more
    assert binom.cdf(3, 20, high) == pytest.approx(0.025)  # three or fewer


def test_clopper_pearson_at_the_ends() -> None:
    """No copy among n: (1 - high)^n = 0.025."""
    low, high = clopper_pearson(0, 50)
    assert low == 0.0
    assert high == pytest.approx(1.0 - 0.025 ** (1 / 50))
    low, high = clopper_pearson(50, 50)
    assert low == pytest.approx(0.025 ** (1 / 50))
    assert high == 1.0


def test_worst_copies_come_first() -> None:
    assert worst_first(np.array([0.5, 0.1, 0.3, 0.1]), 3) == [1, 3, 2]


def test_vendi_counts_orthogonal_pictures() -> None:
    assert vendi_score(np.eye(5)) == pytest.approx(5.0)
    assert vendi_score(np.ones((5, 1))) == pytest.approx(1.0)


def test_vendi_of_two_rows_follows_from_their_cosine() -> None:
    """K/2 has the eigenvalues (1 + c) / 2 and (1 - c) / 2; c = 0.6."""
    expected = math.exp(-(0.8 * math.log(0.8) + 0.2 * math.log(0.2)))
    assert vendi_score(np.array([[1.0, 0.0], [0.6, 0.8]])) == pytest.approx(expected)


def test_vendi_of_duplicated_data_is_unchanged() -> None:
    rows = np.random.default_rng(0).normal(size=(6, 4))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    once = vendi_score(rows)
    assert vendi_score(np.concatenate([rows, rows])) == pytest.approx(once)
    assert vendi_score(rows, np.full(6, 3.0)) == pytest.approx(once)


def test_vendi_weights_count_rows_that_often() -> None:
    rows = np.eye(3)
    weighted = vendi_score(rows, np.array([2.0, 1.0, 0.0]))
    assert weighted == pytest.approx(vendi_score(rows[[0, 0, 1]]))


def test_vendi_of_a_larger_set_is_taken_at_the_smaller_size() -> None:
    assert vendi_at(np.eye(10), 4, np.random.default_rng(0)) == pytest.approx(4.0)
