"""What a model card says of how its pictures were drawn, and of other programs."""

from typing import Any

import pytest

from nsync_pipeline.export.card import drawn_with
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
