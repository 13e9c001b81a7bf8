"""Several ways of drawing: chosen on one half of the captions, judged on the other."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nsync_pipeline.drawing.config import GuidanceConfig
from nsync_pipeline.evaluation import stage as evaluation
from nsync_pipeline.evaluation.config import EvaluationSettings
from nsync_pipeline.evaluation.curves import Curves, Drawn, Scoring, measure_curves
from nsync_pipeline.evaluation.record import read_evaluation
from nsync_pipeline.metrics.bootstrap import prompt_draws
from nsync_pipeline.metrics.curves import halves
from nsync_pipeline.metrics.distances import Floats
from nsync_pipeline.metrics.scores import PictureSet, make_reference, score_ceiling
from nsync_pipeline.metrics.trainings import seed_weights
from nsync_pipeline.metrics.verdict import GuardrailConfig
from nsync_pipeline.report import stage as report
from nsync_pipeline.report.config import ReportSettings
from nsync_pipeline.report.curves import curves_section
from nsync_pipeline.stage import StageResult
from nsync_pipeline.workspace import BASE, TrainingRun, Workspace
from tests.support.contexts import stage_context
from tests.support.style_workspace import STYLE, VARIANTS, build_style_workspace, style_params

CAPTIONS, NUMBERS, DRAWS = 16, 24, 60
WAYS = (
    GuidanceConfig(),
    GuidanceConfig(lora_strength=1.5),
    GuidanceConfig(form="difference", weight=2.0),
)
NOW, STRONG, CONTRAST = (way.key for way in WAYS)
RUNS = (TrainingRun("lora", 0), TrainingRun("nsync", 0))
REAL_STYLE, GENERIC = np.eye(NUMBERS)[:2]
CONTENTS = np.eye(NUMBERS)[4 : 4 + CAPTIONS]  # a direction a caption
CHOOSING, JUDGING = halves(range(CAPTIONS), np.random.default_rng(3))


def drawn(style: Floats | float, content: float = 1.0, seed: int = 0) -> PictureSet:
    """A picture a caption: so much of the style, the rest generic, and so much of its content."""
    share = np.broadcast_to(np.asarray(style, dtype=float), CAPTIONS)[:, None]
    noise = np.random.default_rng(seed).normal(size=(CAPTIONS, NUMBERS)) * 0.05
    rows = share * REAL_STYLE + (1 - share) * GENERIC + content * CONTENTS + noise
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return PictureSet(rows, CONTENTS, rows, rows, rows, np.arange(CAPTIONS))


TEST, BASE_SET = drawn(1.0, seed=1), drawn(0.0, seed=2)
TRAIN = replace(drawn(1.0, seed=3), unit=CAPTIONS + np.arange(CAPTIONS))


def measured(
    sets: dict[tuple[str, str], PictureSet], can_judge: bool = True, captions: int = CAPTIONS
) -> Curves:
    """What is said of these sets, by variant and way; those not given show little of the style."""
    reference = make_reference(TEST, TRAIN, {"generic": BASE_SET.style}, 0.01)
    rng = np.random.default_rng(0)
    draws = np.concatenate([prompt_draws(CAPTIONS, DRAWS, rng) for _ in range(2)], axis=1)
    scoring = Scoring(
        reference,
        draws,
        seed_weights(1, DRAWS, rng),
        score_ceiling(reference, CAPTIONS, draws, rng),
        GuardrailConfig(diversity_drop=10.0),
        lambda what, name: np.random.default_rng(3),
    )

    def first(pictures: PictureSet) -> PictureSet:
        return pictures.of_units(np.arange(captions))

    trainings = {
        (run, way.key): first(sets.get((run.variant, way.key), drawn(0.1, seed=9)))
        for run in RUNS
        for way in WAYS
    }
    shown = {BASE: first(BASE_SET)} | {run.name: trainings[run, NOW] for run in RUNS}
    known = {name: scoring.on(of, name, draws) for name, of in shown.items()}
    return measure_curves(
        WAYS, RUNS, Drawn(shown[BASE], trainings), scoring, known, lambda *_: None, can_judge
    )


def test_what_is_good_on_the_captions_that_choose_alone_is_found_out_by_the_others() -> None:
    share = np.full(CAPTIONS, 0.1)
    share[CHOOSING] = 1.0
    curves = measured({("lora", STRONG): drawn(share), ("lora", CONTRAST): drawn(0.6)})
    assert (curves.choosing, curves.judging) == (len(CHOOSING), len(JUDGING))
    found = curves.best["lora"]
    assert found.way == STRONG
    assert found.figures["style_margin"].value < 0  # on all captions it is above
    assert curves.variants["lora"][STRONG]["style_margin"].value > 0
    honest = measured({("lora", CONTRAST): drawn(0.6)}).best["lora"]
    assert honest.figures["style_margin"].value > found.figures["style_margin"].value


@pytest.mark.parametrize("way", [NOW, STRONG, CONTRAST])
def test_the_captions_that_judge_have_no_say_in_the_choice(way: str) -> None:
    sets = {("lora", STRONG): drawn(0.5), ("lora", CONTRAST): drawn(0.6)}
    before = measured(sets).best["lora"].way
    for style in (0.0, 1.0):
        share = np.full(CAPTIONS, {NOW: 0.1, STRONG: 0.5, CONTRAST: 0.6}[way])
        share[JUDGING] = style
        assert measured({**sets, ("lora", way): drawn(share)}).best["lora"].way == before


def test_style_that_costs_content_is_not_the_best() -> None:
    sets = {("lora", STRONG): drawn(1.0, content=0.1), ("lora", CONTRAST): drawn(0.7)}
    curves = measured(sets)
    assert curves.best["lora"].way == CONTRAST
    assert curves.best["lora"].breaks == ()
    # Of the ways that other programs draw in, the present one breaks fewer guardrails.
    assert curves.best_ordinary["lora"].way == NOW
    assert curves.now["lora"] == curves.best_ordinary["lora"]


def test_variants_are_compared_at_each_ones_best() -> None:
    """As drawn now they are the same; at its best one is ahead."""
    curves = measured({("lora", STRONG): drawn(0.4), ("nsync", CONTRAST): drawn(1.0, seed=5)})
    (found,) = curves.comparisons
    assert (found.a, found.b, found.verdict) == ("nsync", "lora", "better")
    assert found.style_margin.value == pytest.approx(
        curves.best["nsync"].figures["style_margin"].value
        - curves.best["lora"].figures["style_margin"].value
    )
    (area,) = curves.area_differences
    assert (area.a, area.b) == ("nsync", "lora")
    assert area.difference.value == pytest.approx(
        curves.areas["nsync"].value - curves.areas["lora"].value
    )
    assert area.difference.low is not None
    assert area.difference.low > 0


def test_a_way_with_less_of_both_leaves_the_area_as_it_is() -> None:
    better = {("lora", STRONG): drawn(0.8)}
    worse = {**better, ("lora", CONTRAST): drawn(0.3, content=0.5)}
    assert measured(better).areas["lora"].value == pytest.approx(
        measured(worse).areas["lora"].value
    )


def test_nothing_is_chosen_by_too_few_captions_or_by_features_that_know_nothing() -> None:
    for curves in (measured({}, can_judge=False), measured({}, captions=3)):
        assert (curves.best, curves.now, curves.comparisons) == ({}, {}, [])
        assert set(curves.variants["lora"]) == {NOW, STRONG, CONTRAST}
    assert measured({}, can_judge=False).areas == {}


GENERATION = {"points": [{"lora_strength": 1.5}, {"form": "difference", "weight": 2.0}]}
GOOD = {STRONG: {"lora": 6, "nsync": 8}, CONTRAST: {"lora": 8, "nsync": 2}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, StageResult]:
    """A workspace of three ways of drawing, with its evaluation and report."""
    workspace = build_style_workspace(tmp_path_factory.mktemp("made"), test=8, points=GOOD)
    params = style_params(generation=GENERATION)
    said = evaluation.run(stage_context(EvaluationSettings, workspace, params, STYLE))
    report.run(stage_context(ReportSettings, workspace, params, STYLE))
    return workspace, said


def test_an_evaluation_says_what_each_way_of_drawing_shows(
    made: tuple[Workspace, StageResult],
) -> None:
    workspace, said = made
    metrics = json.loads((workspace.evaluation(STYLE) / "metrics.json").read_text())
    for name in VARIANTS:
        of_ways = metrics["ways"][name]
        assert list(of_ways) == sorted([NOW, STRONG, CONTRAST])
        assert of_ways[NOW] == metrics["variants"][name]
        for way, good in GOOD.items():
            assert of_ways[way]["style_recognised"] == pytest.approx(good[name] / 8, abs=0.01)
    record = read_evaluation(workspace.evaluation(STYLE))
    assert record.curves is not None
    assert tuple(record.curves.ways) == WAYS
    assert said.figures["nsync is best drawn"] == "strength 1.5"
    assert said.figures["nsync area"] == pytest.approx(1.0, abs=0.001)


def test_the_report_says_how_strongly_to_draw(made: tuple[Workspace, StageResult]) -> None:
    html = (made[0].report(STYLE) / "report.html").read_text("utf-8")
    assert "How strongly to draw" in html
    assert "<code>guidance: {lora_strength: 1.5}</code>" in html
    line = "--style woodblock --variant nsync --guidance-form ordinary --lora-scale 1.5</code>"
    assert line in html
    assert html.count(" ring") >= len(VARIANTS)
    assert "as params.yaml draws now, style recognised" in html
    assert "nsync against lora, as whole curves" in html


def test_variants_are_advised_in_the_order_of_the_settings(
    made: tuple[Workspace, StageResult],
) -> None:
    """An evaluation's file has them by name."""
    curves = read_evaluation(made[0].evaluation(STYLE)).curves
    pictures: Any = SimpleNamespace(in_ways=lambda name, ways: ("", []))
    for order in (("lora", "nsync"), ("nsync", "lora")):
        section = curves_section(curves, order, pictures)
        assert section is not None
        assert tuple(one.variant for one in section.suggestions) == order


def test_one_way_of_drawing_has_no_curve(
    made: tuple[Workspace, StageResult], tmp_path: Path
) -> None:
    """And the same figures and files as if others were never asked for."""
    alone = Workspace(tmp_path)
    for folder in ("data", "samples"):
        (tmp_path / folder).symlink_to(made[0].root / folder)
    evaluation.run(stage_context(EvaluationSettings, alone, style_params(), STYLE))
    before, after = (
        json.loads((workspace.evaluation(STYLE) / "evaluation.json").read_text())
        for workspace in (made[0], alone)
    )
    del before["curves"]
    assert before == after
    assert "ways" not in json.loads((alone.evaluation(STYLE) / "metrics.json").read_text())
