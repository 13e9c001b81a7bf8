"""Stable Diffusion XL as a family: its conventions are the diffusers pipeline's."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.families.prompt_counting import tokenizer_of
from tests.support.tiny_models import save_tiny_stable_diffusion_xl
from tests.support.tiny_style import tiny_family

PROMPTS = ["a red house", "", "a tree " * 40]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_stable_diffusion_xl(tmp_path_factory.mktemp("xl"))


@pytest.fixture(scope="module")
def family(folder: Path) -> Any:
    return tiny_family(folder)


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    return StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)


def test_the_family_is_told_by_the_index(folder: Path, family: Any) -> None:
    assert type(family).__name__ == "StableDiffusionXL"
    assert (family.resolution, family.latent_shape) == (32, (4, 8, 8))
    assert family.max_prompt_tokens == 30
    assert tokenizer_of(BaseModelConfig(name=str(folder))).prompt_tokens("a red house") == 3
    with pytest.raises(BaseModelError, match=r"Stable Diffusion XL.*set it to stable_diffusion_xl"):
        load_family(BaseModelConfig(name=str(folder), family="stable_diffusion", device="cpu"))


def test_prompts_are_encoded_as_the_pipeline_encodes_them(family: Any, pipeline: Any) -> None:
    """Both penultimate hidden states side by side; pooled: the second encoder's projection."""
    with torch.no_grad():
        said = pipeline.encode_prompt([PROMPTS[0], PROMPTS[2]], device="cpu")
    embeds = family.encode_prompts(PROMPTS)
    assert embeds.tokens.shape == (3, 32, 16 + 24)
    torch.testing.assert_close(embeds.tokens[[0, 2]], said[0])
    torch.testing.assert_close(embeds.pooled[[0, 2]], said[2])
    assert not said[1].any()  # what the pipeline guides by: the model says zeros
    assert torch.equal(embeds.tokens[1], said[1][0])
    assert torch.equal(embeds.pooled[1], said[3][0])


def test_the_empty_prompt_is_encoded_where_the_model_asks_for_it(
    folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    index = json.loads((copy / "model_index.json").read_text())
    index["force_zeros_for_empty_prompt"] = False
    (copy / "model_index.json").write_text(json.dumps(index))
    pipeline = StableDiffusionXLPipeline.from_pretrained(copy, add_watermarker=False)
    with torch.no_grad():
        said = pipeline.encode_prompt(["a tree"], device="cpu")
    embeds = tiny_family(copy).encode_prompts([""])
    assert embeds.tokens.any()
    torch.testing.assert_close(embeds.tokens, said[1])
    torch.testing.assert_close(embeds.pooled, said[3])


def test_the_unet_is_told_pooled_prompt_and_geometry(family: Any) -> None:
    """None is a whole picture of the latents' size, here 32 pixels high and 48 wide."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 8, 12, generator=generator)
    timesteps = torch.tensor([10, 900])
    embeds = family.encode_prompts(["a tree", "a car"])
    geometry = torch.tensor([[1001, 700, 3, 0, 32, 48], [64, 64, 0, 16, 32, 48]])

    def told(time_ids: torch.Tensor) -> torch.Tensor:
        added = {"text_embeds": embeds.pooled, "time_ids": time_ids.float()}
        return family.denoiser(
            latents, timesteps, encoder_hidden_states=embeds.tokens, added_cond_kwargs=added
        ).sample

    with torch.no_grad():
        cropped = family.predict(latents, timesteps, embeds, geometry)
        torch.testing.assert_close(cropped, told(geometry))
        whole = torch.tensor([[32, 48, 0, 0, 32, 48]]).expand(2, 6)
        plain = family.predict(latents, timesteps, embeds)
        torch.testing.assert_close(plain, told(whole))
    assert float((cropped - plain).abs().max()) > 1e-3


def test_bfloat16_tells_large_sizes_apart(folder: Path) -> None:
    """1023 and 1024 are the same number in bfloat16, whose digits are 8 bits."""
    family = load_family(BaseModelConfig(name=str(folder), device="cpu", dtype="bfloat16"))
    embeds = family.encode_prompts(["a tree"])
    assert embeds.tokens.dtype == torch.float32
    latents = torch.zeros(1, *family.latent_shape)
    with torch.no_grad():
        outputs = [
            family.predict(
                latents, torch.tensor([10]), embeds, torch.tensor([[1024, width, 0, 0, 32, 32]])
            )
            for width in (1023, 1024)
        ]
    assert outputs[0].dtype == torch.float32
    assert not torch.equal(*outputs)


def test_latents_are_the_pipelines(family: Any, pipeline: Any) -> None:
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        raw = pipeline.vae.encode(pixels).latent_dist.mean
        shown = pipeline.vae.decode(raw).sample / 2 + 0.5
    latents = family.encode_pictures(pixels)
    torch.testing.assert_close(latents, raw * 0.13025)
    torch.testing.assert_close(family.decode_latents(latents), shown.clamp(0, 1))


def test_the_vae_stays_in_float32_where_the_unet_is_float16(folder: Path) -> None:
    """As ``force_upcast`` asks: half precision overflows in it."""
    family: Any = load_family(BaseModelConfig(name=str(folder), device="cpu", dtype="float16"))
    assert next(family.denoiser.parameters()).dtype == torch.float16
    assert next(family.vae.parameters()).dtype == torch.float32
    assert family.encode_pictures(torch.zeros(1, 3, 32, 32)).dtype == torch.float32


def test_a_unet_of_other_conditions_is_refused(folder: Path, tmp_path: Path) -> None:
    """The refiner's is told five numbers of a picture and has one text encoder's pooled output."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    settings = copy / "unet" / "config.json"
    config = json.loads(settings.read_text()) | {"projection_class_embeddings_input_dim": 64}
    settings.write_text(json.dumps(config))
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    name = "add_embedding.linear_1.weight"
    tensors[name] = tensors[name][:, :64].contiguous()
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match=r"takes 64 numbers .* takes 72"):
        tiny_family(copy)
