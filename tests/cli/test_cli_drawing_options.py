"""The options of the drawing commands: what they stand for, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from nsync_pipeline.cli.generate import (
    asked_for,
    manner_of,
    next_free,
    strengths_of,
)
from nsync_pipeline.drawing.config import ORDINARY, GuidanceConfig
from nsync_pipeline.errors import UserError
from nsync_pipeline.generate.pictures import Manner
from nsync_pipeline.generate.prompts import AskedPrompt
from tests.support.command_line import nsync
from tests.support.drawing_workspace import drawing_params


def test_seeds_count_up_from_the_first(tmp_path: Path) -> None:
    assert asked_for(["a"], None, None, 3, 10) == [AskedPrompt("a", (10, 11, 12))]
    assert asked_for(["a"], None, [7], 2, 10) == [AskedPrompt("a", (7, 8))]
    assert asked_for(["a"], None, [7, 3], 1, 10) == [AskedPrompt("a", (7, 3))]
    (tmp_path / "p.txt").write_text("b\n")
    assert asked_for(["a"], tmp_path / "p.txt", [7], 1, 10) == [
        AskedPrompt("a", (7,)), AskedPrompt("b", (7,)),
    ]  # fmt: skip


def test_what_is_not_given_is_as_in_params() -> None:
    params = drawing_params(Path("base"))
    manner = manner_of(params, None, None, None, None)
    assert manner.sampler == params.generation.sampler
    assert (manner.size, manner.strengths) == (None, (1.0,))
    manner = manner_of(params, 7, "euler", 2.5, "512x768", (0.0, 1.0))
    assert (manner.sampler.steps, manner.sampler.scheduler) == (7, "euler")
    assert manner.sampler.guidance_scale == 2.5
    assert (manner.size, manner.strengths) == ((512, 768), (0.0, 1.0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0, None, None, None), "steps: input should be greater than or equal to 1"),
        ((None, None, 0.5, None), "guidance_scale: input should be greater"),
        ((None, None, None, "512"), "--size 512: height and width in pixels"),
        ((None, None, None, "axb"), "such as 512x768"),
    ],
)
def test_a_sampler_out_of_range_is_explained(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        manner_of(drawing_params(Path("base")), *given)


DIFFERENCE = {"form": "difference", "weight": 2.0, "lora_strength": 1.2}


def guided(guidance: dict[str, Any], **given: Any) -> Manner:
    """As ``generation.guidance`` of params.yaml says, but for what is given."""
    section = {"sampler": {"guidance_scale": given.pop("scale", 4.0)}, "guidance": guidance}
    params = drawing_params(Path("base"), generation=section)
    return manner_of(params, None, None, None, None, **given)


def test_guidance_is_as_in_params_but_for_what_is_given() -> None:
    found = guided(DIFFERENCE)
    assert found.strengths == (1.2,)
    assert found.at(1.2) == GuidanceConfig.model_validate(DIFFERENCE)
    found = guided(DIFFERENCE, form="base_empty", strengths=(0.0, 1.0))
    assert (found.guidance, found.strengths) == (GuidanceConfig(form="base_empty"), (0.0, 1.0))
    assert guided(DIFFERENCE, weight=3.0).guidance.weight == 3.0


def test_the_guidance_of_what_was_trained_is_not_the_bases() -> None:
    found = guided(DIFFERENCE, of_base=True)
    assert (found.guidance, found.strengths) == (ORDINARY, (1.0,))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weight": 2.0}, "weight has no effect with form ordinary"),
        ({"form": "base_empty", "scale": 1.0}, "base_empty has no effect"),
    ],
)
def test_a_guidance_without_effect_is_explained_in_a_line(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        guided({}, **given)
    assert "\n" not in str(error.value)


def test_a_sweep_is_a_list_of_numbers() -> None:
    assert strengths_of(None, 0.5) == (0.5,)
    assert strengths_of(None, None) is None
    assert strengths_of("0,0.25, 1,0", 0.5) == (0.0, 0.25, 1.0)
    for sweep in ("0,a", "", "1,,2", "nan", "1,1000"):
        with pytest.raises(UserError, match="--scale-sweep"):
            strengths_of(sweep, 1.0)


def test_nothing_that_is_there_is_taken_again(tmp_path: Path) -> None:
    assert next_free(tmp_path, "ink", ".png") == tmp_path / "ink_001.png"
    (tmp_path / "ink_001.png").touch()
    assert next_free(tmp_path, "ink", ".png") == tmp_path / "ink_002.png"


def test_contradictions_are_refused() -> None:
    with pytest.raises(UserError, match="leave out --seeds"):
        asked_for(["a"], None, [1, 2], 2, 0)
    with pytest.raises(UserError, match="say what to draw"):
        asked_for([], None, None, 1, 0)


def test_generate_and_its_picture_drawn_again_by_command(tmp_path: Path, tiny_base: Path) -> None:
    (tmp_path / "params.yaml").write_text(
        f"base_model:\n  name: {tiny_base}\n  device: cpu\n"
        "styles:\n  ink:\n    source: folder\nvariants:\n  lora:\n    update_rule: none\n"
    )
    first = nsync(tmp_path, "generate", "a tree", "--seeds", "2", "--steps", "2", "--seed", "7")
    assert "2 pictures in pictures/drawn_001" in first.stdout, first.stderr
    again = nsync(tmp_path, "generate", "--again", "pictures/drawn_001/001_8.png", "-o", "again")
    assert "the same, pixel for pixel" in again.stdout, again.stderr
    both = nsync(tmp_path, "generate", "a tree", "--again", "pictures/drawn_001/001_8.png")
    assert both.returncode == 2
    assert "leave them out" in both.stderr
