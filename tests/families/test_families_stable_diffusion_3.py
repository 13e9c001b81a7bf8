"""Stable Diffusion 3 as a family: its conventions are the diffusers pipeline's."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.loading import load_family
from tests.support.tiny_models import save_tiny_stable_diffusion_3
from tests.support.tiny_style import tiny_family

PROMPTS = ["a red house", "", "a tree " * 40]


@pytest.fixture(scope="module", params=[True, False], ids=["t5", "no_t5"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_stable_diffusion_3(tmp_path_factory.mktemp("sd3"), t5=request.param)


@pytest.fixture(scope="module")
def family(folder: Path) -> Any:
    return tiny_family(folder)


@pytest.fixture(scope="module")
def pipeline(folder: Path, family: Any) -> Any:
    none = {} if len(family.text_encoders) == 3 else {"text_encoder_3": None, "tokenizer_3": None}
    return StableDiffusion3Pipeline.from_pretrained(folder, **none)


def test_prompts_are_encoded_as_the_pipeline_encodes_them(family: Any, pipeline: Any) -> None:
    """The CLIPs' 32 tokens, 16 + 24 wide and filled up to 48; then the 256 of T5."""
    with torch.no_grad():
        said = pipeline.encode_prompt(PROMPTS, None, None, device="cpu")
    embeds = family.encode_prompts(PROMPTS)
    assert embeds.tokens.shape == (3, 32 + 256, 48)
    torch.testing.assert_close(embeds.tokens, said[0])
    torch.testing.assert_close(embeds.pooled, said[2])
    torch.testing.assert_close(embeds.tokens[1], said[1][0])  # what the pipeline guides by
    torch.testing.assert_close(embeds.pooled[1], said[3][0])


def test_zeros_stand_for_a_t5_that_is_not_there(family: Any) -> None:
    t5 = family.encode_prompts(["a red house"]).tokens[:, 32:]
    assert bool(t5.any()) == (len(family.text_encoders) == 3)
    assert len(family.tokenizers) == len(family.text_encoders)


def test_noise_schedule_is_the_shifted_one_the_model_was_trained_with(family: Any) -> None:
    """``s = 3 u / (1 + 2 u)``; at u = 1/2, 3/4. diffusers has the same, from 1 down, in float32."""
    schedule = family.noise_schedule
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert (schedule.prediction_type, len(schedule)) == ("flow", 1000)
    assert float(schedule.noise[499]) == 0.75
    torch.testing.assert_close(schedule.noise.flip(0).float(), scheduler.sigmas)
    torch.testing.assert_close(schedule.timesteps.flip(0), scheduler.timesteps)
    torch.testing.assert_close(schedule.signal + schedule.noise, torch.ones_like(schedule.noise))
    latents, noise = torch.full((1, 1, 1, 1), 5.0), torch.full((1, 1, 1, 1), -2.0)
    expected = scheduler.scale_noise(latents, scheduler.timesteps[500:501], noise)
    found = schedule.signal[499] * latents + schedule.noise[499] * noise
    torch.testing.assert_close(found.float(), expected)


def test_latents_are_shifted_and_scaled_as_the_pipeline_does(family: Any, pipeline: Any) -> None:
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        raw = pipeline.vae.encode(pixels).latent_dist.mean
        shown = pipeline.vae.decode(raw).sample / 2 + 0.5
    latents = family.encode_pictures(pixels)
    assert latents.shape == (2, *family.latent_shape) == (2, 8, 8, 8)
    torch.testing.assert_close(latents, (raw - 0.0609) * 1.5305)
    torch.testing.assert_close(family.decode_latents(latents), shown.clamp(0, 1))


def test_prediction_is_the_transformers(family: Any) -> None:
    """On pictures that are no squares, too."""
    latents = torch.randn(2, 8, 8, 12, generator=torch.Generator().manual_seed(3))
    timesteps = family.noise_schedule.timesteps[[10, 900]]
    embeds = family.encode_prompts(["a tree", "a car"])
    with torch.no_grad():
        expected = family.denoiser(
            hidden_states=latents,
            timestep=timesteps,
            encoder_hidden_states=embeds.tokens,
            pooled_projections=embeds.pooled,
        ).sample
        torch.testing.assert_close(family.predict(latents, timesteps, embeds), expected)


def test_resolution_must_be_of_whole_patches(folder: Path) -> None:
    """A patch is two latents of four pixels a side: 40 is five of them, 36 four and a half."""
    assert load_family(BaseModelConfig(name=str(folder), resolution=40)).latent_shape == (8, 10, 10)
    past_the_schema = BaseModelConfig.model_construct(
        **(
            BaseModelConfig().__dict__
            | {
                "name": str(folder),
                "resolution": 36,
                "device": "cpu",
            }
        )
    )  # fmt: skip - past the schema, which asks for multiples of 8 for all models
    with pytest.raises(BaseModelError, match="36 is not a multiple of the 8 pixels"):
        load_family(past_the_schema)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dynamic_shifting": True}, "depends on the picture's size"),
        ({"shift_terminal": 0.1}, "stretched"),
    ],
)
def test_a_schedule_that_is_not_one_table_is_refused(
    folder: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    settings = copy / "scheduler" / "scheduler_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | changes))
    with pytest.raises(BaseModelError, match=message):
        tiny_family(copy)


def test_a_scheduler_of_another_kind_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    index = copy / "model_index.json"
    index.write_text(index.read_text().replace("FlowMatchEulerDiscrete", "DDIM"))
    with pytest.raises(BaseModelError, match="its scheduler is DDIMScheduler; taken is FlowMatch"):
        tiny_family(copy)
