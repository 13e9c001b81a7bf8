"""Stable Diffusion as a family: its conventions are the diffusers pipeline's."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline

from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.families.prompt_counting import tokenizer_of
from tests.support.tiny_models import TINY_RESOLUTION, WORDS, save_tiny_stable_diffusion


def config_of(folder: Path, **changes: object) -> BaseModelConfig:
    return BaseModelConfig(name=str(folder), device="cpu", **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["kl", "tiny"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_stable_diffusion(
        tmp_path_factory.mktemp("base"), "v_prediction", autoencoder=request.param
    )


def test_everything_is_frozen_and_in_eval(tiny_base: Path) -> None:
    family = load_family(config_of(tiny_base))
    for module in (family.denoiser, family.vae, family.text_encoders[0]):  # type: ignore[attr-defined]
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_latents_and_pictures_follow_the_pipelines_conventions(folder: Path) -> None:
    """The pipeline decodes ``latents / scaling_factor`` to [-1, 1] and shows (x / 2 + 0.5)."""
    family = load_family(config_of(folder))
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        encoded = pipeline.vae.encode(pixels)
        raw = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean
        shown = pipeline.vae.decode(raw).sample / 2 + 0.5
    latents = family.encode_pictures(pixels)
    assert latents.shape == (2, *family.latent_shape) == (2, 4, 8, 8)
    torch.testing.assert_close(latents, raw * pipeline.vae.config.scaling_factor)
    torch.testing.assert_close(family.decode_latents(latents), shown.clamp(0, 1))


def test_encoding_a_picture_twice_gives_the_same_latents(tiny_base: Path) -> None:
    family = load_family(config_of(tiny_base))
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    assert torch.equal(family.encode_pictures(pixels), family.encode_pictures(pixels))


def test_prompts_are_encoded_as_the_pipeline_encodes_them(tiny_base: Path) -> None:
    family = load_family(config_of(tiny_base))
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    prompts = ["a red house", "", "a tree " * 40]
    with torch.no_grad():
        expected = pipeline.encode_prompt(prompts, "cpu", 1, False)[0]
    torch.testing.assert_close(family.encode_prompts(prompts).tokens, expected)


def test_tokens_are_counted_whole_and_without_the_weights(tiny_base: Path) -> None:
    """Each of WORDS is one token; 'zq' is spelled 'z', 'q</w>'; 40 trees are not cut."""
    family = load_family(config_of(tiny_base))
    counter = tokenizer_of(config_of(tiny_base))
    for count in (family, counter):
        assert count.max_prompt_tokens == 30
        assert count.prompt_tokens("a red house") == 3
        assert count.prompt_tokens("a zq") == 3
        assert count.prompt_tokens("tree " * 40) == 40
        assert count.prompt_tokens(" ".join(WORDS)) == len(WORDS)
        assert count.prompt_tokens("") == 0


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_noise_schedule_is_the_models_own(tmp_path: Path, prediction_type: str) -> None:
    folder = save_tiny_stable_diffusion(tmp_path, prediction_type)  # type: ignore[arg-type]
    schedule = load_family(config_of(folder)).noise_schedule
    expected = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    ).alphas_cumprod
    assert schedule.prediction_type == prediction_type
    assert schedule.signal.dtype == schedule.noise.dtype == torch.float64
    torch.testing.assert_close(schedule.signal.square(), expected.double())
    torch.testing.assert_close(schedule.noise.square(), 1.0 - expected.double())


def test_prediction_is_the_unets_and_float32_at_any_dtype(tiny_base: Path) -> None:
    whole = load_family(config_of(tiny_base))
    half = load_family(config_of(tiny_base, dtype="bfloat16"))
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    timesteps = torch.tensor([10, 900])
    embeds = whole.encode_prompts(["a tree", "a car"])
    with torch.no_grad():
        expected = whole.denoiser(latents, timesteps, encoder_hidden_states=embeds.tokens).sample
        torch.testing.assert_close(whole.predict(latents, timesteps, embeds), expected)
        rough = half.predict(latents, timesteps, embeds)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, expected, atol=0.1, rtol=0.1)
    assert half.dtype == torch.bfloat16
    assert half.encode_pictures(torch.zeros(1, 3, 32, 32)).dtype == torch.float32


def test_resolution_is_the_models_own_or_the_one_asked_for(tiny_base: Path) -> None:
    assert load_family(config_of(tiny_base)).resolution == TINY_RESOLUTION
    larger = load_family(config_of(tiny_base, resolution=48))
    assert (larger.resolution, larger.latent_shape) == (48, (4, 12, 12))


def test_default_lora_targets_are_in_every_attention_block(tiny_base: Path) -> None:
    family = load_family(config_of(tiny_base))
    names = [name for name, _ in family.denoiser.named_modules()]
    for target in family.lora_targets:
        assert sum(name.endswith("." + target) for name in names) >= 3  # down, mid and up


def test_a_model_of_another_family_is_refused_by_name(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "inpainting"
    shutil.copytree(tiny_base, folder)
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionPipeline", "PixArtAlphaPipeline"))
    with pytest.raises(BaseModelError, match=r"PixArtAlphaPipeline.*taken are Stable Diffusion"):
        load_family(config_of(folder))
