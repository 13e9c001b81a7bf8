"""Which architecture a family is, as the model specification names them."""

from types import SimpleNamespace
from typing import Any

import pytest

from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.family import architecture_of
from nsync_pipeline.families.loading import load_family


def family(prefix: str, widths: tuple[int, ...], prediction_type: str) -> Any:
    return SimpleNamespace(
        embedded=False,
        architecture="stable-diffusion-3" if prefix == "transformer" else None,
        text_encoders=[SimpleNamespace(config=SimpleNamespace(hidden_size=w)) for w in widths],
        noise_schedule=SimpleNamespace(prediction_type=prediction_type),
    )


@pytest.mark.parametrize(
    ("prefix", "widths", "prediction_type", "expected"),
    [
        ("unet", (768,), "epsilon", "stable-diffusion-v1"),
        ("unet", (1024,), "epsilon", "stable-diffusion-v2-512"),
        ("unet", (1024,), "v_prediction", "stable-diffusion-v2-768-v"),
        ("unet", (768, 1280), "epsilon", "stable-diffusion-xl-v1-base"),
        ("transformer", (768, 1280, 4096), "flow", "stable-diffusion-3"),
    ],
)
def test_the_published_models_are_told_apart(
    prefix: str, widths: tuple[int, ...], prediction_type: str, expected: str
) -> None:
    assert architecture_of(family(prefix, widths, prediction_type)) == expected


def test_the_embedded_base_is_not_taken_for_stable_diffusion_1() -> None:
    assert architecture_of(load_family(BaseModelConfig(device="cpu"))) == "sketchbook"
