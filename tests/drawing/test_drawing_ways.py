"""Ways of drawing: how each is named, said in params.yaml and given to a command."""

from typing import Any, cast

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nsync_pipeline.cli.generate import GuidanceForm, manner_of, strengths_of
from nsync_pipeline.drawing.config import DrawnWays, GuidanceConfig
from nsync_pipeline.errors import ParamsError
from nsync_pipeline.evaluation.config import EvaluationSettings
from nsync_pipeline.params import Params, parse_params
from nsync_pipeline.samples.config import (
    BaseSamplesSettings,
    DrawnCaptions,
    GenerationConfig,
    SamplesSettings,
)
from nsync_pipeline.studio.settings_form import settings_groups

STRENGTHS, WEIGHTS = st.floats(-100, 100), st.floats(0, 50)


@st.composite
def ways(draw: st.DrawFn) -> GuidanceConfig:
    form = draw(st.sampled_from(["ordinary", "base_empty", "difference"]))
    weight = {"weight": draw(WEIGHTS)} if form == "difference" else {}
    return GuidanceConfig.model_validate({"form": form, "lora_strength": draw(STRENGTHS), **weight})


def params_with(**generation: Any) -> Params:
    return parse_params(
        {
            "styles": {"ink": {"source": "folder"}},
            "variants": {"lora": {"update_rule": "none"}},
            "generation": generation,
        }
    )


@given(ways(), ways())
def test_another_way_has_another_folder(one: GuidanceConfig, other: GuidanceConfig) -> None:
    assert (one.key == other.key) is (one.model_dump_json() == other.model_dump_json())
    assert "/" not in one.key


@given(ways())
def test_what_is_suggested_for_params_is_the_way(way: GuidanceConfig) -> None:
    said = yaml.safe_load(way.said)
    told = {k: v if isinstance(v, str) else float(v) for k, v in said.items()}
    assert GuidanceConfig.model_validate(told) == way


@given(ways(), ways())
def test_what_is_suggested_for_the_command_is_the_way(
    way: GuidanceConfig, now: GuidanceConfig
) -> None:
    """Whatever params.yaml says."""
    words = way.options.split()
    given_ = dict(zip(words[::2], words[1::2], strict=True))
    manner = manner_of(
        params_with(guidance=now.model_dump()),
        None, None, None, None,
        strengths=strengths_of(None, float(given_["--lora-scale"])),
        form=cast(GuidanceForm, given_["--guidance-form"]),
        weight=float(given_["--guidance-weight"]) if "--guidance-weight" in given_ else None,
    )  # fmt: skip
    assert manner.at(manner.strengths[0]) == way


def test_each_way_is_drawn_once_and_guidance_first() -> None:
    strong = GuidanceConfig(lora_strength=1.5)
    asked = DrawnWays(guidance=strong, points=(GuidanceConfig(), strong, GuidanceConfig()))
    assert asked.ways == (strong, GuidanceConfig())


def test_points_count_among_settings_only_where_there_are_any() -> None:
    """Of samples and their evaluation; the base's samples never hang on them."""
    common: dict[str, Any] = {"seed": 0, "base_model": {}}
    judged: dict[str, Any] = {
        "seed": 0, "source": "folder", "device": "cpu", "variants": ("lora",),
        "training_seeds": (0,), "evaluation": {},
    }  # fmt: skip
    asked = GenerationConfig(points=(GuidanceConfig(lora_strength=1.5),))
    for generation, counts in ((GenerationConfig(), False), (asked, True)):
        of_variant = SamplesSettings(**common, placeholder="sks", generation=generation)
        of_base = BaseSamplesSettings(**common, generic_style="print", generation=generation)
        of_results = EvaluationSettings(**judged, drawn=generation)
        assert ("points" in of_variant.identity()["generation"]) is counts
        assert set(of_base.identity()["generation"]) == set(DrawnCaptions.model_fields)
        assert ("drawn" in of_results.identity()) is counts


def test_a_mistake_in_a_point_is_named() -> None:
    with pytest.raises(ParamsError, match=r"generation\.points\.0\.strength: unknown key.*weight"):
        params_with(points=[{"strength": 1.5}])
    with pytest.raises(ParamsError, match="weight has no effect with form ordinary"):
        params_with(points=[{"weight": 1.0}])
    with pytest.raises(ValidationError, match="base_empty has no effect with guidance_scale 1"):
        GenerationConfig.model_validate(
            {"points": ({"form": "base_empty"},), "sampler": {"guidance_scale": 1.0}}
        )


def test_points_are_nothing_to_pictures_on_demand() -> None:
    """Also where a point would not go with what is asked for."""
    params = params_with(points=[{"form": "base_empty", "lora_strength": 0.5}])
    assert manner_of(params, None, None, 1.0, None).sampler.guidance_scale == 1.0


def test_the_studios_form_shows_points_as_they_are_written() -> None:
    params = params_with(points=[{"lora_strength": 1.5}, {"form": "difference"}])
    shown = {s.key: s.value for group in settings_groups(params, "ink") for s in group.settings}
    written = yaml.safe_load(shown["generation.points"])
    assert written == [{"lora_strength": 1.5}, {"form": "difference"}]
