"""Which network each figure is measured on, and how often it is asked."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from nsync_pipeline.evaluation import features as evaluation_features
from nsync_pipeline.evaluation import stage as evaluation
from nsync_pipeline.evaluation.config import EvaluationSettings
from nsync_pipeline.metrics.distances import Floats, frechet_distance
from nsync_pipeline.metrics.extractor import ClipExtractor
from nsync_pipeline.params import Params
from nsync_pipeline.pictures.pixels import open_squares
from nsync_pipeline.pictures.style_pictures import read_style_pictures
from nsync_pipeline.report import stage as report
from nsync_pipeline.report.config import ReportSettings
from nsync_pipeline.workspace import BASE, Workspace
from tests.support.contexts import stage_context
from tests.support.style_workspace import STYLE, VARIANTS, build_style_workspace, style_params
from tests.support.tiny_clip import save_tiny_clip

INCEPTION = {"inception_extractor": "weights/inception.pth", "bootstrap_draws": 100}


class MeanColours:
    """In an Inception's place: three features, and a count of the pictures it was asked for."""

    name = "inception.pth"
    sha256 = "5" * 64
    preprocessing = "mean of all pixels"

    def __init__(self) -> None:
        self.asked = 0

    def plain_features(self, images: Iterable[Image.Image], batch_size: int) -> Floats:
        rows = mean_colours(images)
        self.asked += len(rows)
        return rows

    def image_features(self, images: Iterable[Image.Image], batch_size: int) -> Floats:
        raise AssertionError("KID and FID are on plain features")


def mean_colours(images: Iterable[Image.Image]) -> Floats:
    return np.array([np.asarray(image, dtype=np.float64).mean(axis=(0, 1)) for image in images])


@pytest.fixture
def inception(monkeypatch: pytest.MonkeyPatch) -> MeanColours:
    network = MeanColours()

    def load(name: str, revision: str | None, root: Path, device: str) -> MeanColours:
        assert (name, revision) == ("weights/inception.pth", None)
        return network

    monkeypatch.setattr(evaluation_features, "load_inception", load)
    return network


@pytest.fixture
def clip_batches(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the batches that CLIP is asked for."""
    asked: Counter[str] = Counter()
    vision, text = ClipExtractor._features, ClipExtractor._text

    def see(self: ClipExtractor, images: Sequence[Image.Image]) -> Tensor:
        asked["pictures"] += 1
        return vision(self, images)

    def read(self: ClipExtractor, texts: Sequence[str]) -> Tensor:
        asked["texts"] += 1
        return text(self, texts)

    monkeypatch.setattr(ClipExtractor, "_features", see)
    monkeypatch.setattr(ClipExtractor, "_text", read)
    return asked


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return build_style_workspace(tmp_path, test=4, train=6)


def evaluated(workspace: Workspace, params: Params) -> tuple[dict[str, Any], dict[str, Any]]:
    """``metrics.json`` and ``evaluation.json``."""
    evaluation.run(stage_context(EvaluationSettings, workspace, params, STYLE))
    folder = workspace.evaluation(STYLE)
    metrics, record = (
        json.loads((folder / name).read_text()) for name in ("metrics.json", "evaluation.json")
    )
    return metrics, record


def test_only_kid_and_fid_are_on_the_inception(
    workspace: Workspace, inception: MeanColours
) -> None:
    plain, without = evaluated(workspace, style_params(evaluation={"bootstrap_draws": 100}))
    metrics, record = evaluated(workspace, style_params(evaluation=INCEPTION))
    own = {"kid", "fid"}
    for name in VARIANTS:
        before, after = plain["variants"][name], metrics["variants"][name]
        assert {m for m in after if after[m] != before[m]} == own
    params = style_params()
    pictures = read_style_pictures(workspace, STYLE, params.training_runs())
    real, drawn = (
        mean_colours(open_squares([row.path for row in rows], pictures.side))
        for rows in (pictures.test, pictures.samples[BASE])
    )
    assert metrics["base"]["fid"] == pytest.approx(frechet_distance(drawn, real), rel=1e-5)
    assert {"kid", "fid"} <= set(metrics["floor"])
    assert without["extractors"]["KID and FID"] == without["extractors"]["CLIP"]
    assert record["extractors"]["KID and FID"] == ["inception.pth", "5" * 64]
    assert record["extractors"]["CLIP"] == without["extractors"]["CLIP"]


def test_the_report_names_the_inception(workspace: Workspace, inception: MeanColours) -> None:
    params = style_params(evaluation=INCEPTION)
    evaluated(workspace, params)
    report.run(stage_context(ReportSettings, workspace, params, STYLE))
    html = (workspace.report(STYLE) / "report.html").read_text("utf-8")
    assert f"inception.pth ({'5' * 16})" in html


def test_too_few_pictures_for_published_figures_are_warned_about(
    workspace: Workspace, inception: MeanColours
) -> None:
    """Four pictures: fewer than KID's 100, and FID's 10,000."""

    def told(record: dict[str, Any]) -> list[str]:
        return [w for w in record["warnings"] if w.startswith(("KID", "FID"))]

    kid, fid = told(evaluated(workspace, style_params(evaluation=INCEPTION))[1])
    assert kid.startswith("KID of 4 pictures")
    assert "10,000" in fid
    assert told(evaluated(workspace, style_params())[1]) == []


def test_the_same_pictures_are_evaluated_again_without_an_extractor(
    workspace: Workspace, inception: MeanColours, clip_batches: Counter[str]
) -> None:
    params = style_params(evaluation=INCEPTION)
    first = evaluated(workspace, params)
    # Held out and training; the base and two variants.
    assert inception.asked == 4 + 6 + 3 * 4
    assert min(clip_batches["pictures"], clip_batches["texts"]) > 0
    clip_batches.clear()
    assert evaluated(workspace, params) == first
    assert inception.asked == 4 + 6 + 3 * 4
    assert not clip_batches


def test_a_changed_picture_is_seen_again(workspace: Workspace, inception: MeanColours) -> None:
    params = style_params(evaluation=INCEPTION)
    before, _ = evaluated(workspace, params)
    asked = inception.asked
    picture = min((workspace.samples(STYLE, "nsync", 0) / "images").iterdir())
    Image.new("RGB", (64, 64), "green").save(picture)
    after, _ = evaluated(workspace, params)
    assert inception.asked == asked + 4  # the set that it is in
    assert after["variants"]["nsync"]["fid"] != before["variants"]["nsync"]["fid"]
    assert after["variants"]["lora"]["fid"] == before["variants"]["lora"]["fid"]


def test_another_preprocessing_of_the_same_weights_is_computed(
    workspace: Workspace, clip_batches: Counter[str]
) -> None:
    folder = save_tiny_clip(workspace.root / "clip")
    params = style_params(evaluation={"extractor": "clip", "bootstrap_draws": 100})
    before, _ = evaluated(workspace, params)
    config = folder / "preprocessor_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"image_std": [0.1, 0.2, 0.3]}))
    clip_batches.clear()
    after, _ = evaluated(workspace, params)
    assert clip_batches["pictures"] > 0
    assert after["base"]["style_cosine"] != before["base"]["style_cosine"]
