"""What a model card says of how its pictures were drawn, and of other programs."""

from typing import Any

import pytest

from nsync_pipeline.drawing.config import GuidanceConfig
from nsync_pipeline.evaluation.curves import Choice, Curves
from nsync_pipeline.export.card import drawn_with, suggested_strength
from nsync_pipeline.metrics.bootstrap import Interval
from nsync_pipeline.metrics.curves import Scale
from nsync_pipeline.samples.config import GenerationConfig


@pytest.mark.parametrize(
    ("guidance", "said"),
    [
        ({}, "ordinary guidance at 4, the LoRA at strength 1. "),
        ({"form": "base_empty", "lora_strength": 0.5}, "does the same: the model with the LoRA at "
         "strength 0.50 as `model`"),
        # 4 times strength 0.375 is 1.5.
        ({"form": "difference"}, "nearly the same: the model with the LoRA at strength 0.38"),
        ({"form": "difference", "weight": 2.0, "lora_strength": 1.5}, "strength 0.75 as `model`"),
    ],
)  # fmt: skip
def test_a_card_says_how_its_pictures_were_drawn(guidance: dict[str, Any], said: str) -> None:
    generation = {"sampler": {"guidance_scale": 4.0}, "guidance": guidance}
    text = drawn_with(GenerationConfig.model_validate(generation))
    assert said in text
    assert "DualModelGuider" in text


def choice(way: GuidanceConfig, margin: float) -> Choice:
    figures = {"style_margin": Interval(margin, 0.1, 0.9), "prompt_fidelity": Interval(27.5)}
    return Choice(way.key, figures, ())


def curves_of(best: GuidanceConfig, ordinary: GuidanceConfig) -> Curves:
    return Curves(
        ways=[GuidanceConfig(), GuidanceConfig(lora_strength=1.5), CONTRAST],
        style=Scale("style_margin", 0.0, 1.0),
        content=Scale("prompt_fidelity", 20.0, 30.0),
        variants={},
        areas={},
        area_differences=[],
        choosing=20,
        judging=21,
        best={"nsync": choice(best, 0.5)},
        best_ordinary={"nsync": choice(ordinary, 0.25)},
        now={},
        comparisons=[],
    )


CONTRAST = GuidanceConfig(form="difference", weight=2.0)
STRONG = GuidanceConfig(lora_strength=1.5)


def test_a_card_suggests_the_strength_that_was_measured() -> None:
    text = suggested_strength(curves_of(STRONG, STRONG), "nsync", 4.0)
    assert text.startswith("**Suggested strength: 1.5** (in ComfyUI `strength_model`, in A1111 the")
    assert "`<lora:...:1.5>`): style margin 0.250 (0.100 to 0.900) and CLIP-T 27.5" in text
    assert "best of 3 ways" in text
    assert "20 held-out captions; the figures are of 21 others" in text
    assert "Better still" not in text
    assert suggested_strength(curves_of(STRONG, STRONG), "lora", 4.0) == ""


def test_a_card_names_what_is_better_than_any_strength() -> None:
    """4 times strength 0.5 is the weight 2."""
    text = suggested_strength(curves_of(CONTRAST, STRONG), "nsync", 4.0)
    assert "Suggested strength: 1.5" in text
    assert "Better still is the base's own guidance at 4 and 2 times what the LoRA changes" in text
    assert "the model with the LoRA at strength 0.50 as `model`" in text


def test_a_card_guesses_nothing_where_strengths_were_measured() -> None:
    generation = GenerationConfig()
    assert "try a higher strength" in drawn_with(generation)
    assert "try" not in drawn_with(generation, measured=True)
