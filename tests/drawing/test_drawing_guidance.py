"""Guidance with what was trained: each form is its formula, and the ordinary one is as it was."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from nsync_pipeline.adaptation.config import LoraSettings, LoraStart, TextualInversionSettings
from nsync_pipeline.adaptation.in_use import as_base, at_strength
from nsync_pipeline.adaptation.lora import has_lora, lora_layers
from nsync_pipeline.adaptation.trainables import add_trainables, remove_trained
from nsync_pipeline.drawing.config import ORDINARY, GuidanceConfig, SamplerConfig
from nsync_pipeline.drawing.guidance import Guidance
from nsync_pipeline.drawing.sampling import PictureRequest, _encoded, _sample, draw_pictures
from nsync_pipeline.drawing.schedulers import build_scheduler, denoiser_input, starting_latents
from nsync_pipeline.families.family import Family, PromptEmbeds
from nsync_pipeline.samples.config import BaseSamplesSettings, GenerationConfig, SamplesSettings
from nsync_pipeline.training.config import TrainingConfig, WatchConfig
from tests.support.tiny_models import (
    save_tiny_stable_diffusion,
    save_tiny_stable_diffusion_3,
    save_tiny_stable_diffusion_xl,
)
from tests.support.tiny_style import tiny_family

REQUESTS = [PictureRequest("a", "a red house", 5), PictureRequest("b", "a fish", 6)]
SIZE = (8, 8)
BASES: dict[str, Callable[[Path], Path]] = {
    "epsilon": save_tiny_stable_diffusion,
    "v_prediction": partial(save_tiny_stable_diffusion, prediction_type="v_prediction"),
    "xl": save_tiny_stable_diffusion_xl,
    "flow": save_tiny_stable_diffusion_3,
}


def add_moved_lora(family: Family, **settings: Any) -> None:
    """A LoRA away from zero, on the denoiser and the text encoders."""
    stream = torch.Generator().manual_seed(1)
    lora = LoraSettings(rank=2, alpha=3.0, text_encoder=True, **settings)
    with torch.no_grad():
        for weight in add_trainables(family, lora, None, stream).weights:
            weight.add_(torch.randn(weight.shape, generator=stream) * 0.1)


@pytest.fixture(scope="module", params=list(BASES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    family = tiny_family(BASES[request.param](tmp_path_factory.mktemp("base")))
    add_moved_lora(family)
    return family


@pytest.fixture(scope="module")
def plain(tiny_base: Path) -> Iterator[Family]:
    family = tiny_family(tiny_base)
    yield family
    remove_trained(family)


@contextmanager
def without_trained(family: Family) -> Iterator[None]:
    """PEFT's own switch."""
    models = (family.denoiser, *family.text_encoders)
    layers = [layer for model in models for _, layer in lora_layers(model)]
    for layer in layers:
        layer.enable_adapters(False)
    yield
    for layer in layers:
        layer.enable_adapters(True)


def latents(family: Family, guidance: GuidanceConfig, scale: float) -> Tensor:
    sampler = SamplerConfig(steps=2, guidance_scale=scale, batch_size=2, scheduler="model")
    guided = Guidance(guidance, scale)
    with at_strength(family, guidance.lora_strength):
        embeds = _encoded(family, REQUESTS, sampler, guided)
        with guided.in_one_pass(family):
            return _sample(family, REQUESTS, SIZE, embeds, sampler, guided)


@torch.no_grad()
def by_formula(
    family: Family, scale: float, direction: Callable[[Callable[[str, bool], Tensor]], Tensor]
) -> Tensor:
    """A pass for each prediction that ``direction`` asks for: of which prompts, by the base."""
    sampler = SamplerConfig(steps=2, guidance_scale=scale, batch_size=2, scheduler="model")
    scheduler = build_scheduler(family, sampler)
    streams = [torch.Generator().manual_seed(request.seed) for request in REQUESTS]
    noise = [torch.randn(1, family.latent_shape[0], *SIZE, generator=s) for s in streams]
    x = starting_latents(scheduler, torch.cat(noise))
    for timestep in scheduler.timesteps:
        scaled = denoiser_input(scheduler, x, timestep)

        def predicted(
            prompt: str, by_base: bool, scaled: Tensor = scaled, t: Any = timestep
        ) -> Any:
            if by_base:
                with without_trained(family):
                    return predicted(prompt, False, scaled, t)
            texts = [""] * 2 if prompt == "0" else [request.prompt for request in REQUESTS]
            return family.predict(scaled, t.expand(2), family.encode_prompts(texts))

        x = scheduler.step(direction(predicted), timestep, x).prev_sample
    return x


BASE, OWN = True, False


def test_base_empty_predicts_the_empty_prompt_without_the_lora(family: Family) -> None:
    def direction(e: Callable[[str, bool], Tensor]) -> Tensor:
        return e("0", BASE) + 4.0 * (e("c", OWN) - e("0", BASE))

    found = latents(family, GuidanceConfig(form="base_empty"), 4.0)
    torch.testing.assert_close(found, by_formula(family, 4.0, direction), rtol=1e-4, atol=1e-4)
    assert (found - latents(family, ORDINARY, 4.0)).abs().max() > 0.01


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_difference_adds_what_the_lora_changes_to_the_bases_own_guidance(
    family: Family, scale: float
) -> None:
    def direction(e: Callable[[str, bool], Tensor]) -> Tensor:
        base = e("0", BASE) + scale * (e("c", BASE) - e("0", BASE))
        return base + 2.5 * (e("c", OWN) - e("c", BASE))

    found = latents(family, GuidanceConfig(form="difference", weight=2.5), scale)
    torch.testing.assert_close(found, by_formula(family, scale, direction), rtol=1e-4, atol=1e-4)
    assert (found - latents(family, ORDINARY, scale)).abs().max() > 0.01


def test_at_weight_0_the_difference_is_the_base(family: Family) -> None:
    found = latents(family, GuidanceConfig(form="difference", weight=0.0), 4.0)
    with without_trained(family):
        base = latents(family, ORDINARY, 4.0)
    torch.testing.assert_close(found, base, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 4.0])
@torch.no_grad()
def test_ordinary_guidance_is_bit_equal_to_two_halves_of_a_batch(
    family: Family, scale: float
) -> None:
    """As pictures were drawn before there were other forms."""
    sampler = SamplerConfig(steps=2, guidance_scale=scale, batch_size=2, scheduler="model")
    scheduler = build_scheduler(family, sampler)
    streams = [torch.Generator().manual_seed(request.seed) for request in REQUESTS]
    noise = [torch.randn(1, family.latent_shape[0], *SIZE, generator=s) for s in streams]
    x = starting_latents(scheduler, torch.cat(noise))
    own = _encoded(family, REQUESTS, sampler, Guidance(ORDINARY, scale)).own
    conditions = [own[request.prompt] for request in REQUESTS]
    if scale > 1:
        conditions = [own[""]] * 2 + conditions
    for timestep in scheduler.timesteps:
        scaled = denoiser_input(scheduler, x, timestep)
        inputs = torch.cat([scaled, scaled]) if scale > 1 else scaled
        found = family.predict(inputs, timestep.expand(len(inputs)), PromptEmbeds.cat(conditions))
        if scale > 1:
            empty, prompted = found.chunk(2)
            found = empty + scale * (prompted - empty)
        x = scheduler.step(found, timestep, x).prev_sample
    assert torch.equal(latents(family, ORDINARY, scale), x)


@torch.no_grad()
def test_at_strength_0_the_base_draws(family: Family) -> None:
    """Bit for bit."""
    found = latents(family, GuidanceConfig(lora_strength=0.0), 4.0)
    with without_trained(family):
        assert torch.equal(found, latents(family, ORDINARY, 4.0))


@pytest.mark.parametrize("start", ["kaiming", "pissa"])
@torch.no_grad()
def test_a_strength_multiplies_what_a_layer_adds(plain: Family, start: LoraStart) -> None:
    """Of a start that is taken off again, too; afterwards all is as it was."""
    remove_trained(plain)
    add_moved_lora(plain, start=start)
    _, layer = next(lora_layers(plain.denoiser))
    trained = [weight.requires_grad for weight in layer.parameters()]
    x = torch.randn(3, layer.base_layer.weight.shape[1], generator=torch.Generator().manual_seed(2))
    base, full = layer.base_layer(x), layer(x)
    with at_strength(plain, 1.7):
        torch.testing.assert_close(layer(x), base + 1.7 * (full - base), rtol=1e-5, atol=1e-5)
    assert (full - base).abs().max() > 1e-3
    assert torch.equal(layer(x), full)
    assert [weight.requires_grad for weight in layer.parameters()] == trained
    remove_trained(plain)


def test_an_error_leaves_the_family_as_it_was(plain: Family) -> None:
    remove_trained(plain)
    add_moved_lora(plain)
    before = latents(plain, ORDINARY, 4.0)
    for context in (partial(at_strength, plain, 0.0), partial(at_strength, plain, 3.0),
                    partial(as_base, plain)):  # fmt: skip
        with pytest.raises(KeyError), context():
            raise KeyError
    assert torch.equal(latents(plain, ORDINARY, 4.0), before)
    remove_trained(plain)


def test_token_vectors_are_off_in_the_bases_part(plain: Family) -> None:
    """The word is then ordinary text, as to a base that never had them."""
    remove_trained(plain)
    prompts = ["a tree in the style of <sks>", ""]
    never = plain.encode_prompts(prompts).tokens
    settings = TextualInversionSettings(vectors=2)
    add_trainables(plain, None, settings, torch.Generator().manual_seed(1), placeholder="sks")
    own = plain.encode_prompts(prompts).tokens
    with as_base(plain):
        assert torch.equal(plain.encode_prompts(prompts).tokens, never)
    assert torch.equal(plain.encode_prompts(prompts).tokens, own)
    assert not torch.equal(own[0], never[0])
    request = [PictureRequest("a", prompts[0], 5)] * 2
    sampler = SamplerConfig(steps=2, guidance_scale=4.0, batch_size=2)
    drawn = [
        next(draw_pictures(plain, request, sampler, guidance))[0].pixels
        for guidance in (ORDINARY, GuidanceConfig(form="difference"))
    ]
    assert (drawn[0] != drawn[1]).any()
    remove_trained(plain)


def test_a_base_that_holds_nothing_is_drawn_as_it_is(plain: Family) -> None:
    remove_trained(plain)
    assert not has_lora(plain)
    sampler = SamplerConfig(steps=2, guidance_scale=4.0, batch_size=2)
    ordinary, other = (
        next(draw_pictures(plain, REQUESTS, sampler, guidance))
        for guidance in (ORDINARY, GuidanceConfig(form="difference", lora_strength=2.0))
    )
    for a, b in zip(ordinary, other, strict=True):
        assert (a.pixels == b.pixels).all()


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (GuidanceConfig, {"weight": 2.0}, "weight has no effect with form ordinary"),
        (
            GenerationConfig,
            {"guidance": {"form": "base_empty"}, "sampler": {"guidance_scale": 1.0}},
            "base_empty has no effect with guidance_scale 1",
        ),
        (
            WatchConfig,
            {"guidance": {"form": "base_empty"}, "guidance_scale": 1.0},
            "base_empty has no effect with guidance_scale 1",
        ),
    ],
)
def test_what_has_no_effect_is_refused(section: Any, values: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        section.model_validate(values)


def test_guidance_counts_among_what_samples_are_made_from_only_where_it_is_set() -> None:
    """Of a variant; the base's samples never hang on it."""
    common: dict[str, Any] = {"seed": 0, "base_model": {}}
    asked = GenerationConfig(guidance=GuidanceConfig(lora_strength=1.5))
    for generation, counts in ((GenerationConfig(), False), (asked, True)):
        of_variant = SamplesSettings(**common, placeholder="sks", generation=generation)
        of_base = BaseSamplesSettings(**common, generic_style="print", generation=generation)
        assert ("guidance" in of_variant.identity()["generation"]) is counts
        assert "guidance" not in of_base.identity()["generation"]
    assert TrainingConfig().watch.guidance == ORDINARY
