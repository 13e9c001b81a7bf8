"""Evaluation and report over several trainings of each variant."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from nsync_pipeline.blind.choices import read_choices
from nsync_pipeline.blind.page import FORMAT, blind_page
from nsync_pipeline.blind.questions import draw_questions, picture_digests
from nsync_pipeline.evaluation import stage as evaluation
from nsync_pipeline.evaluation.config import EvaluationSettings
from nsync_pipeline.evaluation.record import read_evaluation
from nsync_pipeline.pictures.style_pictures import read_style_pictures
from nsync_pipeline.report import stage as report
from nsync_pipeline.report.config import ReportSettings
from nsync_pipeline.stage import StageResult
from nsync_pipeline.workspace import BASE, Workspace
from tests.support.contexts import stage_context
from tests.support.style_workspace import STYLE, VARIANTS, build_style_workspace, style_params

SEEDS = (0, 4, 7)
TEST_PICTURES = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("made")
    return build_style_workspace(root, test=TEST_PICTURES, training_seeds=SEEDS)


@pytest.fixture(scope="module")
def told(made: Workspace) -> tuple[dict[str, Any], StageResult, str]:
    """The metrics of three trainings each, what the report said, and its page."""
    params = style_params(training_seeds=list(SEEDS))
    evaluation.run(stage_context(EvaluationSettings, made, params, STYLE))
    said = report.run(stage_context(ReportSettings, made, params, STYLE))
    return metrics_of(made), said, page_of(made)


def metrics_of(workspace: Workspace) -> dict[str, Any]:
    content = (workspace.evaluation(STYLE) / "metrics.json").read_text()
    metrics: dict[str, Any] = json.loads(content)
    return metrics


def page_of(workspace: Workspace) -> str:
    return (workspace.report(STYLE) / "report.html").read_text("utf-8")


def test_a_variants_figures_are_the_means_of_its_trainings(told: tuple[Any, ...]) -> None:
    metrics = told[0]
    for name in VARIANTS:
        of_seeds = metrics["trainings"][name]
        assert list(of_seeds) == ["0", "4", "7"]
        for metric, value in metrics["variants"][name].items():
            each = [figures[metric] for figures in of_seeds.values()]
            assert value == pytest.approx(sum(each) / 3, rel=1e-4, abs=1e-9)
    margins = [figures["style_margin"] for figures in metrics["trainings"]["nsync"].values()]
    assert len(set(margins)) == 3


def test_another_seed_leaves_the_figures_of_those_before_it(
    told: tuple[Any, ...], made: Workspace, tmp_path: Path
) -> None:
    """And those of the base and of real pictures."""
    alone = Workspace(tmp_path)
    for folder in ("data", "samples"):
        (tmp_path / folder).symlink_to(made.root / folder)
    evaluation.run(stage_context(EvaluationSettings, alone, style_params(), STYLE))
    before = metrics_of(alone)
    for name in VARIANTS:
        assert before["trainings"][name]["0"] == told[0]["trainings"][name]["0"]
    for name in (BASE, "ceiling", "floor"):
        assert before[name] == told[0][name]


def test_a_row_a_picture_says_its_training(told: tuple[Any, ...], made: Workspace) -> None:
    rows = pq.read_table(made.evaluation(STYLE) / "pictures.parquet").to_pylist()
    counted = Counter((row["variant"], row["training_seed"]) for row in rows)
    expected = {(BASE, None), *((name, seed) for name in VARIANTS for seed in SEEDS)}
    assert counted == dict.fromkeys(expected, TEST_PICTURES)


def test_three_trainings_are_compared_as_methods(told: tuple[Any, ...], made: Workspace) -> None:
    record = read_evaluation(made.evaluation(STYLE))
    assert all(found.of_methods for found in (*record.comparisons, *record.against_base))
    _, said, html = told
    assert "method" in str(said.figures["verdict"])
    assert "Each was trained three times" in html
    assert "this compares methods" in html
    assert "checkpoints, not methods" not in html
    assert "paired over training seeds and captions" in html


def test_the_report_shows_each_training_and_whose_pictures_these_are(
    told: tuple[Any, ...],
) -> None:
    html = told[2]
    assert html.count('each" cx') == 2 * len(VARIANTS) * len(SEEDS)  # in two charts
    assert "Of 3 trainings of each variant this shows the one of training seed 0." in html
    assert "pictures of nsync-7" in html


def test_two_trainings_are_still_checkpoints(made: Workspace, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for folder in ("data", "samples", "models"):
        (tmp_path / folder).symlink_to(made.root / folder)
    params = style_params(training_seeds=[0, 4])
    evaluation.run(stage_context(EvaluationSettings, workspace, params, STYLE))
    report.run(stage_context(ReportSettings, workspace, params, STYLE))
    record = read_evaluation(workspace.evaluation(STYLE))
    assert not any(found.of_methods for found in record.comparisons)
    html = page_of(workspace)
    assert "Each was trained two times" in html
    assert "this compares these checkpoints, not methods" in html
    assert "paired over captions" in html


def test_choices_on_a_page_of_any_training_are_about_its_variants(
    made: Workspace, tmp_path: Path
) -> None:
    params = style_params(training_seeds=list(SEEDS))
    workspace = Workspace(tmp_path)
    for folder in ("data", "samples"):
        (tmp_path / folder).symlink_to(made.root / folder)
    workspace.choices(STYLE).mkdir(parents=True)
    pictures = read_style_pictures(workspace, STYLE, params.training_runs())
    digests = picture_digests(pictures)
    for seed in (0, 7):
        page = blind_page(workspace, STYLE, "nsync", "lora", 40, seed)
        asked = draw_questions(pictures, digests, STYLE, "nsync", "lora", 40, seed).asked
        assert [pair.id for pair in page.pairs] == [question.id for question in asked]
        choices = {q.id: "left" if q.a_is_left else "right" for q in asked}
        content = {
            "format": FORMAT, "style": STYLE, "page": page.page_id, "asked": 40,
            "judge": "", "sitting": f"{seed:016x}", "saved": 1, "choices": choices,
        }  # fmt: skip
        (workspace.choices(STYLE) / f"{seed}.json").write_text(json.dumps(content))
    kept = read_choices(workspace, STYLE, list(VARIANTS), SEEDS)
    (found,) = kept.choices
    assert (found.a, found.b, found.people, kept.set_aside) == ("nsync", "lora", 2, ())
    assert found.outcomes == (1.0,) * (2 * TEST_PICTURES)
