"""Every family's pictures are its diffusers pipeline's, at the same prompts, seeds and steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionXLPipeline
from torch import Tensor

from nsync_pipeline.drawing.config import SamplerConfig
from nsync_pipeline.drawing.sampling import PictureRequest, draw_pictures
from nsync_pipeline.drawing.schedulers import build_scheduler, denoiser_input
from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.family import Family, NoiseSchedule, PromptEmbeds
from tests.support.tiny_models import save_tiny_stable_diffusion_3, save_tiny_stable_diffusion_xl
from tests.support.tiny_style import tiny_family

REQUESTS = [
    PictureRequest(f"p{number}", prompt, 1000 + number)
    for number, prompt in enumerate(["a red house", "a blue boat on water", "the sun"])
]


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_stable_diffusion_xl(tmp_path_factory.mktemp("xl"))


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_stable_diffusion_3(tmp_path_factory.mktemp("sd3"))


def drawn(family: Family, sampler: SamplerConfig) -> dict[str, np.ndarray]:
    batches = draw_pictures(family, REQUESTS, sampler)
    return {picture.request.id: picture.pixels for batch in batches for picture in batch}


def assert_the_same(
    family: Family, sampler: SamplerConfig, pipeline: Any, size: dict[str, int]
) -> None:
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        [request.prompt for request in REQUESTS],
        generator=[torch.Generator().manual_seed(request.seed) for request in REQUESTS],
        num_inference_steps=sampler.steps,
        guidance_scale=sampler.guidance_scale,
        **size,
    ).images
    found = drawn(family, sampler)
    for request, image in zip(REQUESTS, expected, strict=True):
        difference = np.abs(found[request.id].astype(int) - np.asarray(image).astype(int))
        assert difference.max() <= 1  # of 255 levels: the pipeline rounds the same pixels
        assert found[request.id].std() > 1


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize("scheduler", ["model", "dpm"])
def test_pictures_of_stable_diffusion_xl(xl: Path, scheduler: Any, guidance_scale: float) -> None:
    family = tiny_family(xl)
    sampler = SamplerConfig(
        scheduler=scheduler, steps=5, guidance_scale=guidance_scale, batch_size=3
    )
    pipeline = StableDiffusionXLPipeline.from_pretrained(xl, add_watermarker=False)
    pipeline.scheduler = build_scheduler(family, sampler)
    assert_the_same(family, sampler, pipeline, {"height": 32, "width": 32})


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize("scheduler", ["model", "euler"])
def test_pictures_of_stable_diffusion_3(sd3: Path, scheduler: Any, guidance_scale: float) -> None:
    family = tiny_family(sd3)
    sampler = SamplerConfig(
        scheduler=scheduler, steps=5, guidance_scale=guidance_scale, batch_size=3
    )
    pipeline = StableDiffusion3Pipeline.from_pretrained(sd3)
    assert_the_same(family, sampler, pipeline, {"height": 32, "width": 32})


class Line:
    """A flow model that knows the way: data are normal around ``MEAN``, with deviation ``WIDTH``.

    ``E[x_0 | x_t] = MEAN + a (x_t - (1 - s) MEAN)`` with
    ``a = (1 - s) WIDTH^2 / ((1 - s)^2 WIDTH^2 + s^2)``, and the velocity is ``(x_t - E) / s``.
    """

    MEAN, WIDTH = 3.0, 0.5
    name = "line"
    device = torch.device("cpu")

    def __init__(self, family: Family) -> None:
        self.scheduler: Any = family.scheduler
        self.noise_schedule: NoiseSchedule = family.noise_schedule
        self.told: list[float] = []

    def predict(self, noisy: Tensor, timesteps: Tensor, embeds: PromptEmbeds | None) -> Tensor:
        self.told.append(float(timesteps[0]))
        s = timesteps[0] / 1000
        a = (1 - s) * self.WIDTH**2 / ((1 - s) ** 2 * self.WIDTH**2 + s**2)
        return (noisy - self.MEAN - a * (noisy - (1 - s) * self.MEAN)) / s


def along(line: Line, scheduler: Any, steps: int, noise: Tensor) -> Tensor:
    taken = build_scheduler(line, SamplerConfig(scheduler=scheduler, steps=steps))  # type: ignore[arg-type]
    latents = noise
    for timestep in taken.timesteps:
        inputs = denoiser_input(taken, latents, timestep)
        prediction = line.predict(inputs, timestep.expand(1), None)
        latents = taken.step(prediction, timestep, latents).prev_sample
    return latents


def test_flow_samplers_take_the_way_from_noise_to_data(sd3: Path) -> None:
    """Between two normal distributions the flow is a scaling: ``e`` ends at ``MEAN + WIDTH e``.

    In twice the steps, the second-order solver comes more than twice as near, and Euler twice.
    """
    line = Line(tiny_family(sd3))
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    end = line.MEAN + line.WIDTH * noise

    def error(scheduler: str, steps: int) -> float:
        return float((along(line, scheduler, steps, noise) - end).abs().max())

    dpm, euler = error("dpm", 20), error("euler", 20)
    assert dpm < 0.1
    assert dpm < euler / 2
    assert error("dpm", 40) < dpm / 2.5
    assert euler / 3 < error("euler", 40) < euler / 1.5


def test_dpm_tells_a_flow_model_the_exact_time(sd3: Path) -> None:
    line = Line(tiny_family(sd3))
    scheduler = build_scheduler(line, SamplerConfig(scheduler="dpm", steps=4))  # type: ignore[arg-type]
    torch.testing.assert_close(scheduler.timesteps, scheduler.sigmas[:-1] * 1000)
    assert scheduler.timesteps.is_floating_point()
    along(line, "dpm", 4, torch.zeros(1, 1, 2, 2))
    assert line.told == pytest.approx(scheduler.timesteps.tolist())


@pytest.mark.parametrize("scheduler", ["ddim", "pndm"])
def test_a_sampler_without_a_flow_form_is_refused(sd3: Path, scheduler: Any) -> None:
    with pytest.raises(BaseModelError, match=rf"{scheduler} has no form for flow matching"):
        build_scheduler(tiny_family(sd3), SamplerConfig(scheduler=scheduler))


def attention_calls(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> int:
    calls = []
    own = torch.nn.functional.scaled_dot_product_attention

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return own(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    call()
    return len(calls)


@pytest.mark.parametrize("base", ["tiny_base", "xl", "sd3"])
def test_attention_is_torchs_scaled_dot_product(
    base: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As often as there are attention layers: in the denoiser, and in the text encoders."""
    family = tiny_family(request.getfixturevalue(base))
    layers = sum(type(m).__name__ == "Attention" for m in family.denoiser.modules())
    embeds = family.encode_prompts(["a tree"])
    latents = torch.zeros(1, *family.latent_shape)
    timestep = family.noise_schedule.timesteps[:1]
    assert layers > 0
    assert layers == attention_calls(monkeypatch, lambda: family.predict(latents, timestep, embeds))
    assert attention_calls(monkeypatch, lambda: family.encode_prompts(["a tree"])) == sum(
        encoder.config.num_hidden_layers for encoder in family.text_encoders
    )
