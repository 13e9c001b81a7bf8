"""Figures over several trainings: intervals hold what another training seed could have given."""

from dataclasses import replace

import numpy as np
import pytest

from nsync_pipeline.metrics.bootstrap import (
    Interval,
    interval,
    mean_under,
    prompt_draws,
    two_sided_p,
)
from nsync_pipeline.metrics.picture_metrics import clopper_pearson
from nsync_pipeline.metrics.scores import PictureScores, SetScores
from nsync_pipeline.metrics.trainings import (
    VariantScores,
    of_base,
    over_trainings,
    seed_weights,
)
from nsync_pipeline.metrics.verdict import GuardrailConfig, compare

DRAWS = 2000
PROMPTS = 20
WIDENING_OF_THREE = np.sqrt(3 / 2) * 4.302653 / 1.959964
"""By the tables: the 97.5 % quantiles of Student's t at 2 degrees of freedom and of the normal."""


@pytest.fixture(scope="module")
def prompts() -> np.ndarray:
    return prompt_draws(PROMPTS, DRAWS, np.random.default_rng(0))


def training(prompts: np.ndarray, margins: np.ndarray, copies: int = 0) -> SetScores:
    """A training whose prompts have these margins; its CMMD is their mean, turned round."""
    draws = mean_under(prompts, margins)
    value = float(margins.mean())
    figures = {
        "style_margin": interval(value, draws),
        "cmmd": interval(-value, -draws),
        "cmmd_biased": Interval(1.0 - value),
        "prompt_fidelity": Interval(20.0),
        "diversity": Interval(1.0),
    }
    nothing = np.zeros(len(margins))
    copied = (np.arange(len(margins)) < copies).astype(np.int64)
    pictures = PictureScores(nothing, margins, copied, nothing, copied, nothing, copied)
    return SetScores(figures, pictures, {"style_margin": draws, "cmmd": -draws})


def variant(trainings: list[SetScores], seed: int = 1) -> VariantScores:
    weights = seed_weights(len(trainings), DRAWS, np.random.default_rng(seed))
    return over_trainings(trainings, weights)


def test_the_figures_of_one_training_are_its_own(prompts: np.ndarray) -> None:
    alone = training(prompts, np.linspace(-1, 1, PROMPTS), copies=2)
    found = variant([alone])
    copy_rate = Interval(0.1, *clopper_pearson(2, PROMPTS))
    assert found.figures == alone.figures | {"copy_rate": copy_rate}
    np.testing.assert_array_equal(found.draws["style_margin"], alone.draws["style_margin"])


def test_without_noise_of_the_seeds_the_interval_is_that_of_the_captions(
    prompts: np.ndarray,
) -> None:
    """Three trainings that are the same: whatever their weights, which sum to three."""
    alone = training(prompts, np.linspace(-1, 1, PROMPTS))
    over, of_one = variant([alone] * 3).figures["style_margin"], alone.figures["style_margin"]
    assert (over.low, over.high) == pytest.approx((of_one.low, of_one.high), abs=1e-12)


def test_pure_noise_of_the_seeds_is_as_wide_as_students_interval(prompts: np.ndarray) -> None:
    """-1, 0 and 1, whatever the caption: a draw is all -1 in 1 of 27, more than the tail of 2.5 %.

    So the ends of the resampled means are -1 and 1, and the widening takes them further out.
    """
    found = variant([training(prompts, np.full(PROMPTS, value)) for value in (-1.0, 0.0, 1.0)])
    figure = found.figures["style_margin"]
    assert figure.value == 0.0
    assert (figure.low, figure.high) == pytest.approx((-WIDENING_OF_THREE, WIDENING_OF_THREE))


def test_weights_resample_the_trainings_and_leave_their_number() -> None:
    weights = seed_weights(3, 500, np.random.default_rng(0))
    assert weights.sum(axis=1) == pytest.approx(3.0)
    counts = (weights - 1.0) / WIDENING_OF_THREE + 1.0
    np.testing.assert_allclose(counts, counts.round(), atol=1e-6)
    assert set(counts.round().ravel()) == {0, 1, 2, 3}


@pytest.mark.parametrize("trainings", [1, 2])
def test_too_few_trainings_are_not_resampled(trainings: int) -> None:
    weights = seed_weights(trainings, 10, np.random.default_rng(0))
    np.testing.assert_array_equal(weights, np.ones((10, trainings)))


def holds_zero(found: Interval) -> bool:
    assert found.low is not None
    assert found.high is not None
    return found.low < 0 < found.high


@pytest.mark.parametrize("trainings", [3, 5])
def test_the_interval_holds_the_truth_as_often_as_it_says(trainings: int) -> None:
    """2,000 variants whose true margin is 0: each training is off by N(0, 1), each caption too."""
    rng = np.random.default_rng(5)
    prompts = prompt_draws(PROMPTS, 200, rng)
    weights = seed_weights(trainings, 200, rng)
    counts = prompt_draws(trainings, 200, rng)
    inside, plain = 0, 0
    for _ in range(2000):
        captions = rng.normal(size=PROMPTS)  # as hard for each training
        seeds = rng.normal(size=trainings)
        draws = mean_under(prompts, captions)[:, None] + seeds
        found = interval(0.0, (weights * draws).mean(axis=1))
        unwidened = interval(0.0, (counts * draws).mean(axis=1))
        inside += holds_zero(found)
        plain += holds_zero(unwidened)
    assert 0.92 < inside / 2000 < 0.985
    assert plain / 2000 < 0.9  # what the widening is for


def test_methods_that_differ_by_the_noise_of_their_seeds_are_inconclusive(
    prompts: np.ndarray,
) -> None:
    """All three trainings of a are ahead, by chance; captions alone would call that certain."""
    base = training(prompts, np.zeros(PROMPTS))
    ahead = [training(prompts, np.full(PROMPTS, value)) for value in (0.2, 1.0, 2.0)]
    scores = {"a": variant(ahead), "b": variant([base] * 3)}
    (found,) = compare([("a", "b")], scores, scores["b"].figures, GuardrailConfig())
    assert found.of_methods
    assert found.verdict == "inconclusive"
    certain = [training(prompts, np.full(PROMPTS, value)) for value in (0.9, 1.0, 1.1)]
    scores["a"] = variant(certain)
    (found,) = compare([("a", "b")], scores, scores["b"].figures, GuardrailConfig())
    assert found.verdict == "better"


def test_seeds_are_paired(prompts: np.ndarray) -> None:
    """b is a, a little worse at each seed: their common noise is no doubt about who is ahead."""
    a = [training(prompts, np.full(PROMPTS, value)) for value in (-3.0, 0.0, 3.0)]
    b = [training(prompts, np.full(PROMPTS, value - 0.1)) for value in (-3.0, 0.0, 3.0)]
    scores = {"a": variant(a), "b": variant(b)}
    assert two_sided_p(scores["a"].draws["style_margin"]) > 0.05
    (found,) = compare([("a", "b")], scores, scores["b"].figures, GuardrailConfig())
    assert found.verdict == "better"


@pytest.mark.parametrize(
    ("trainings", "of_methods"), [(1, False), (2, False), (3, True), (5, True)]
)
def test_a_verdict_on_methods_takes_three_trainings(
    prompts: np.ndarray, trainings: int, of_methods: bool
) -> None:
    """Against the base, which has none, those of the variant are counted."""
    one = training(prompts, np.linspace(0, 1, PROMPTS))
    scores = {"a": variant([one] * trainings), "base": of_base(with_copy_rate(one))}
    (found,) = compare([("a", "base")], scores, scores["base"].figures, GuardrailConfig())
    assert (found.trainings, found.of_methods) == (trainings, of_methods)


def test_copies_are_averaged_and_as_uncertain_as_those_of_one_training(
    prompts: np.ndarray,
) -> None:
    """1, 2 and 3 of 20."""
    each = [training(prompts, np.zeros(PROMPTS), copies) for copies in (1, 2, 3)]
    assert variant(each).figures["copy_rate"] == Interval(0.1, *clopper_pearson(2, PROMPTS))
    none = variant([training(prompts, np.zeros(PROMPTS))] * 3).figures["copy_rate"]
    assert none.high == pytest.approx(1 - 0.025 ** (1 / PROMPTS))


def test_a_metric_that_one_training_lacks_is_left_out(prompts: np.ndarray) -> None:
    whole = training(prompts, np.zeros(PROMPTS))
    lacking = replace(whole, figures={k: v for k, v in whole.figures.items() if k != "cmmd"})
    assert "cmmd" not in variant([whole, lacking]).figures


def with_copy_rate(scores: SetScores) -> SetScores:
    return replace(scores, figures=scores.figures | {"copy_rate": Interval(0.0)})
