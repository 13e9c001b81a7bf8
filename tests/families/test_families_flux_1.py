"""FLUX.1: what is taken and what is refused, how prompts are counted, and what guidance is told."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nsync_pipeline.adaptation.config import LoraSettings, TextualInversionSettings
from nsync_pipeline.adaptation.trainables import add_trainables, remove_trained
from nsync_pipeline.drawing.config import GuidanceConfig, SamplerConfig
from nsync_pipeline.drawing.sampling import PictureRequest, draw_pictures
from nsync_pipeline.errors import BaseModelError, TrainingError
from nsync_pipeline.families.checkpoint_file import kind_of_checkpoint
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.families.prompt_counting import tokenizer_of
from tests.support.tiny_flow_models import save_tiny_flux_1
from tests.support.tiny_style import tiny_family


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_flux_1(tmp_path_factory.mktemp("flux") / "base")


@pytest.fixture(scope="module")
def family(folder: Path) -> Family:
    return tiny_family(folder)


def config_of(name: Path) -> BaseModelConfig:
    return BaseModelConfig(name=str(name), device="cpu", resolution=32)


def drawn(family: Family, scale: float, guidance: GuidanceConfig | None = None) -> np.ndarray:
    sampler = SamplerConfig(scheduler="model", steps=2, guidance_scale=scale, batch_size=1)
    request = PictureRequest("a", "a red house", 1)
    asked = () if guidance is None else (guidance,)
    ((picture,),) = draw_pictures(family, [request], sampler, *asked)
    return picture.pixels.astype(int)


def test_the_scale_of_guidance_is_told_in_drawing_and_is_one_in_training(family: Family) -> None:
    """One pass a step whatever the scale, at which nothing is told but the prompt."""
    rows: list[int] = []
    hook = family.denoiser.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    pictures = [drawn(family, scale) for scale in (1.0, 6.0)]
    hook.remove()
    assert rows == [1] * 4
    assert np.abs(pictures[0] - pictures[1]).max() > 1
    assert family.told_guidance == 1.0


def test_guidance_by_the_base_is_a_difference_or_nothing(family: Family) -> None:
    generator = torch.Generator().manual_seed(0)
    trained = add_trainables(family, LoraSettings(rank=2), None, generator)
    try:
        with torch.no_grad():
            for weight in trained.weights:
                weight.add_(0.2)
        with pytest.raises(BaseModelError, match=r"no empty prompt\. Set it to ordinary or diff"):
            drawn(family, 3.0, GuidanceConfig(form="base_empty"))
        own = drawn(family, 3.0)
        once = drawn(family, 3.0, GuidanceConfig(form="difference", weight=1.0))
        twice = drawn(family, 3.0, GuidanceConfig(form="difference", weight=2.0))
        assert np.abs(once - own).max() <= 1
        assert np.abs(twice - own).max() > 1
    finally:
        remove_trained(family)


def test_prompts_are_counted_by_t5(folder: Path, family: Family) -> None:
    """A word that it knows is a token; of what CLIP says only the sum is told."""
    counter = tokenizer_of(config_of(folder))
    long = " ".join(["a red house"] * 20)
    assert counter.prompt_tokens(long) == family.prompt_tokens(long) == 60
    assert counter.max_prompt_tokens == family.max_prompt_tokens == 511
    embeds = family.encode_prompts([long, ""])
    assert embeds.tokens.shape[:2] == (2, 512)
    assert embeds.pooled is not None


def test_token_vectors_are_refused(family: Family) -> None:
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(TrainingError, match="no CLIP text encoder whose tokens are read"):
        add_trainables(family, None, TextualInversionSettings(), generator)


def test_schnell_is_refused_by_its_name_and_by_its_settings(folder: Path, tmp_path: Path) -> None:
    named = Path(shutil.copytree(folder, tmp_path / "FLUX.1-schnell"))
    unnamed = save_tiny_flux_1(tmp_path / "mine", guidance_embeds=False)
    for place in (named, unnamed):
        with pytest.raises(
            BaseModelError, match=r"distilled .*such as black-forest-labs/FLUX\.1-d"
        ):
            load_family(config_of(place))


def test_a_single_file_is_told_by_its_keys(tmp_path: Path) -> None:
    keys = ["double_blocks.0.img_mod.lin.weight", "single_blocks.0.modulation.lin.weight"]
    for name, more in {"dev": ["guidance_in.in_layer.weight"], "schnell": []}.items():
        tensors = {f"model.diffusion_model.{key}": torch.zeros(1) for key in [*keys, *more]}
        save_file(tensors, tmp_path / f"{name}.safetensors")
    kind = kind_of_checkpoint(tmp_path / "dev.safetensors", False)
    assert (kind.family, kind.settings) == ("flux_1", "black-forest-labs/FLUX.1-dev")
    assert {"text_encoder_2", "tokenizer_2"} <= set(kind.components)
    with pytest.raises(BaseModelError, match=r"told no guidance.* Take FLUX\.1 dev"):
        kind_of_checkpoint(tmp_path / "schnell.safetensors", False)
