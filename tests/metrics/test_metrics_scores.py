"""Whole sets: what good, generic, copied and collapsed checkpoints score."""

from dataclasses import replace

import numpy as np
import pytest

from nsync_pipeline.metrics.bootstrap import Interval, prompt_draws
from nsync_pipeline.metrics.scores import (
    PictureSet,
    Reference,
    SetScores,
    make_reference,
    score_ceiling,
    score_floor,
    score_set,
)
from nsync_pipeline.metrics.trainings import VariantScores, over_trainings, seed_weights
from nsync_pipeline.metrics.verdict import Comparison, GuardrailConfig, broken_guardrails, compare

CAPTIONS = 40
DIMENSIONS = 12
STYLE = np.eye(DIMENSIONS)[0] * 2.0
GENERIC = np.eye(DIMENSIONS)[1] * 2.0


def pictures(style: np.ndarray, seed: int, spread: float = 0.3) -> np.ndarray:
    """Rows of a style: its direction, each caption's own content, and noise."""
    content = np.random.default_rng(99).normal(size=(CAPTIONS, DIMENSIONS)) * 0.4
    noise = np.random.default_rng(seed).normal(size=(CAPTIONS, DIMENSIONS)) * spread
    rows = style + content + noise
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def as_set(rows: np.ndarray, first_unit: int = 0) -> PictureSet:
    captions = pictures(np.zeros(DIMENSIONS), 0, spread=0.0)[: len(rows)]
    return PictureSet(rows, captions, rows, rows, rows, first_unit + np.arange(len(rows)))


@pytest.fixture(scope="module")
def reference() -> Reference:
    return make_reference(
        test=as_set(pictures(STYLE, 1)),
        train=as_set(pictures(STYLE, 2), first_unit=CAPTIONS),
        rivals={"generic": pictures(GENERIC, 3)},
        copy_quantile=0.01,
    )


def ends(figure: Interval) -> tuple[float, float]:
    assert figure.low is not None
    assert figure.high is not None
    return figure.low, figure.high


def scored(reference: Reference, rows: np.ndarray) -> SetScores:
    rng = np.random.default_rng(0)
    draws = np.concatenate([prompt_draws(CAPTIONS, 400, rng) for _ in range(2)], axis=1)
    return score_set(as_set(rows), reference, draws, rng)


def test_pictures_of_the_style_score_as_real_ones_do(reference: Reference) -> None:
    rng = np.random.default_rng(0)
    draws = np.concatenate([prompt_draws(CAPTIONS, 400, rng) for _ in range(2)], axis=1)
    ceiling = score_ceiling(reference, CAPTIONS, draws, rng)
    floor = score_floor(reference, CAPTIONS, rng)
    figures = scored(reference, pictures(STYLE, 4)).figures
    assert figures["style_margin"].value == pytest.approx(ceiling["style_margin"].value, abs=0.05)
    for name in ("cmmd", "mmd", "cmmd_biased", "kid"):
        low, high = ends(floor[name])
        assert low <= figures[name].value <= 2 * high
    # Drawn for the captions of the real ones, they are nearer than two halves of other captions.
    low, high = ends(floor["fid"])
    assert 0.0 < figures["fid"].value < low < high
    assert figures["diversity"].value == pytest.approx(1.0, abs=0.1)
    assert ceiling["copy_rate"].value <= 0.01


def test_generic_pictures_are_told_from_the_style(reference: Reference) -> None:
    figures = scored(reference, pictures(GENERIC, 5)).figures
    style = scored(reference, pictures(STYLE, 4)).figures
    assert ends(figures["style_margin"])[1] < 0 < ends(style["style_margin"])[0]
    for distance in ("cmmd", "mmd"):
        assert ends(figures[distance])[0] > ends(style[distance])[1]


def test_every_value_lies_in_its_interval(reference: Reference) -> None:
    for name, figure in scored(reference, pictures(STYLE, 4)).figures.items():
        if figure.low is None:
            assert name in {"cmmd_biased", "fid"}
        else:
            low, high = ends(figure)
            assert low <= figure.value <= high, name


def test_copied_training_pictures_are_counted(reference: Reference) -> None:
    rows = pictures(STYLE, 4)
    rows[:10] = reference.train.pictures[:10]
    found = scored(reference, rows)
    clean = scored(reference, pictures(STYLE, 4)).pictures.copied.sum()
    assert found.pictures.copied[:10].all()
    assert found.figures["copy_rate"].value == pytest.approx(
        (10 + clean - scored(reference, pictures(STYLE, 4)).pictures.copied[:10].sum()) / CAPTIONS
    )
    assert found.pictures.nearest[:10].tolist() == list(range(10))


def test_a_collapsed_checkpoint_shows_in_diversity(reference: Reference) -> None:
    figures = scored(reference, np.repeat(pictures(STYLE, 4)[:1], CAPTIONS, axis=0)).figures
    assert figures["diversity"].value < 0.5


def test_captions_without_a_drawn_picture_only_count_as_real(reference: Reference) -> None:
    rng = np.random.default_rng(0)
    draws = np.concatenate([prompt_draws(CAPTIONS, 400, rng) for _ in range(2)], axis=1)
    some = as_set(pictures(STYLE, 4)).first(10)
    figures = score_set(some, reference, draws, rng).figures
    assert figures["style_margin"].value == pytest.approx(
        scored(reference, pictures(STYLE, 4)).pictures.style_margin[:10].mean()
    )
    low, high = ends(figures["cmmd"])
    assert low <= figures["cmmd"].value <= high


def test_a_single_drawn_caption_has_no_unbiased_distance(reference: Reference) -> None:
    rng = np.random.default_rng(0)
    draws = np.concatenate([prompt_draws(CAPTIONS, 100, rng) for _ in range(2)], axis=1)
    figures = score_set(as_set(pictures(STYLE, 4)).first(1), reference, draws, rng).figures
    assert "cmmd" not in figures
    assert np.isfinite([figure.value for figure in figures.values()]).all()


REAL = {"prompt_fidelity": Interval(100.0)}


def once(scores: SetScores) -> VariantScores:
    """A variant that was trained once."""
    return over_trainings([scores], seed_weights(1, 400, np.random.default_rng(0)))


def verdict_of(a: SetScores, b: SetScores) -> Comparison:
    scores = {"a": once(a), "b": once(b)}
    (found,) = compare([("a", "b")], scores, REAL, GuardrailConfig())
    return found


def test_a_checkpoint_in_the_style_is_better_than_a_generic_one(reference: Reference) -> None:
    style, generic = (scored(reference, pictures(s, 6)) for s in (STYLE, GENERIC))
    assert verdict_of(style, generic).verdict == "better"
    assert verdict_of(generic, style).verdict == "worse"


def test_two_checkpoints_of_one_distribution_are_inconclusive(reference: Reference) -> None:
    first, second = (scored(reference, pictures(STYLE, seed)) for seed in (7, 8))
    assert verdict_of(first, second).verdict == "inconclusive"


def test_a_checkpoint_against_itself_is_inconclusive(reference: Reference) -> None:
    same = scored(reference, pictures(STYLE, 7))
    found = verdict_of(same, same)
    assert found.verdict == "inconclusive"
    assert (found.style_margin.low, found.style_margin.high) == (0.0, 0.0)


def test_style_bought_with_copies_is_a_trade_off(reference: Reference) -> None:
    rows = pictures(STYLE, 6)
    rows[:20] = reference.train.pictures[:20]
    found = verdict_of(scored(reference, rows), scored(reference, pictures(GENERIC, 6)))
    assert "copy_rate" in found.a_breaks
    assert found.verdict == "trade-off"


def with_fidelity(scores: VariantScores, value: float) -> VariantScores:
    return replace(scores, figures={**scores.figures, "prompt_fidelity": Interval(value)})


def test_no_more_prompt_fidelity_is_asked_for_than_real_pictures_have(reference: Reference) -> None:
    """The base scores 70, real pictures 47, and a drop of 2 is allowed."""
    any_set = once(scored(reference, pictures(STYLE, 6)))
    base, real = with_fidelity(any_set, 70.0), {"prompt_fidelity": Interval(47.0)}
    allowed = GuardrailConfig(prompt_fidelity_drop=2.0)
    assert broken_guardrails(with_fidelity(any_set, 45.5), base, real, allowed) == ()
    assert broken_guardrails(with_fidelity(any_set, 44.5), base, real, allowed) == (
        "prompt_fidelity",
    )


def test_many_comparisons_ask_for_more(reference: Reference) -> None:
    """Holm: the same pair compared three times has p-values three times as large at least."""
    style, half = scored(reference, pictures(STYLE, 6)), scored(reference, pictures(GENERIC, 6))
    scores = {"a": once(style), "b": once(half)}
    alone = compare([("a", "b")], scores, REAL, GuardrailConfig())[0]
    among = compare([("a", "b")] * 3, scores, REAL, GuardrailConfig())[0]
    assert among.p_style_margin == pytest.approx(3 * alone.p_style_margin)
    assert among.p_cmmd == pytest.approx(3 * alone.p_cmmd)


def seen_by_judge(scores: VariantScores, content: float) -> VariantScores:
    return replace(scores, figures={**scores.figures, "content_recognised": Interval(content)})


def test_what_a_judge_sees_of_the_content_is_the_guardrail_of_the_drawn_world(
    reference: Reference,
) -> None:
    """By CLIP-T nothing is lost; the judge sees a tenth less of what was asked for."""
    any_set = once(scored(reference, pictures(STYLE, 6)))
    whole, less = seen_by_judge(any_set, 0.96), seen_by_judge(any_set, 0.86)
    assert broken_guardrails(less, whole, REAL, GuardrailConfig()) == ("content_recognised",)
    assert broken_guardrails(whole, less, REAL, GuardrailConfig()) == ()


def apart(by: float, content: tuple[float, float] = (0.9, 0.9)) -> Comparison:
    """``a`` is ``by`` of the way from the base to real pictures behind ``b``, beyond chance."""

    def at(share: float, content: float) -> VariantScores:
        values = {"style_margin": share - 0.5, "cmmd": 10 - 10 * share, "copy_rate": 0.0}
        values |= {"diversity": 1.0, "content_recognised": content}
        draws = np.linspace(-0.001, 0.001, 200)
        return VariantScores(
            {name: Interval(value) for name, value in values.items()},
            {"style_margin": share - 0.5 + draws, "cmmd": 10 - 10 * share - 10 * draws},
            1,
        )

    scores = {"a": at(0.8 - by, content[0]), "b": at(0.8, content[1]), "base": at(0.0, 0.9)}
    scores["b"].draws.update({name: 0 * d + d.mean() for name, d in scores["b"].draws.items()})
    real = at(1.0, 1.0).figures
    (found,) = compare([("a", "b")], scores, real, GuardrailConfig())
    assert found.p_style_margin < 0.05
    return found


@pytest.mark.parametrize(
    ("by", "verdict"), [(0.01, "as good"), (0.04, "as good"), (0.06, "worse"), (0.5, "worse")]
)
def test_what_nobody_could_see_makes_none_worse(by: float, verdict: str) -> None:
    assert apart(by).verdict == verdict
    assert apart(-by).verdict == verdict.replace("worse", "better")


def test_of_two_as_near_to_the_style_the_one_that_lost_content_is_worse() -> None:
    assert apart(0.01, content=(0.86, 0.96)).verdict == "worse"
    assert apart(0.01, content=(0.96, 0.86)).verdict == "better"
    assert apart(-0.5, content=(0.86, 0.96)).verdict == "trade-off"
