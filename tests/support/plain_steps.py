"""One sample's loss by the parts of a diffusers pipeline alone, of each family."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from diffusers.pipelines.z_image.pipeline_z_image import calculate_shift
from torch import Tensor

from tests.support.tiny_flow_models import save_tiny_flow_model, save_tiny_flux_1
from tests.support.tiny_models import (
    save_tiny_stable_diffusion,
    save_tiny_stable_diffusion_3,
    save_tiny_stable_diffusion_xl,
)


@torch.no_grad()
def latents_of_a_kl(pipeline: Any, pixels: Tensor) -> Tensor:
    vae = pipeline.vae
    latents = vae.encode(pixels).latent_dist.mode() - (vae.config.shift_factor or 0.0)
    return torch.as_tensor(latents * vae.config.scaling_factor)


@torch.no_grad()
def latents_of_flux_2(pipeline: Any, pixels: Tensor) -> Tensor:
    return torch.as_tensor(pipeline._encode_vae_image(pixels, torch.Generator()))


@torch.no_grad()
def latents_of_qwen(pipeline: Any, pixels: Tensor) -> Tensor:
    config = pipeline.vae.config
    latents = pipeline.vae.encode(pixels[:, :, None]).latent_dist.mode()[:, :, 0]
    mean, deviation = torch.tensor(config.latents_mean), torch.tensor(config.latents_std)
    return torch.as_tensor((latents - mean.view(1, -1, 1, 1)) / deviation.view(1, -1, 1, 1))


@dataclass(frozen=True)
class Kind:
    """A family, and how its pipeline's parts compute a loss."""

    save: Callable[[Path], Path]
    plain: Callable[[Any, Tensor, Tensor, Tensor, str, tuple[int, ...]], Tensor]
    latents: Callable[[Any, Tensor], Tensor] = latents_of_a_kl
    guidance: Callable[[float], dict[str, Any]] = lambda scale: {"guidance_scale": scale}
    """What its pipeline is called with."""


def noise_prediction(
    pipeline: Any, latents: Tensor, noise: Tensor, entry: Tensor, prompt: str, geometry: Any
) -> Tensor:
    """The loss of one sample of Stable Diffusion: epsilon or v."""
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    embeds = pipeline.encode_prompt(prompt, "cpu", 1, False)[0]
    noisy = scheduler.add_noise(latents, noise, entry)
    predicted = pipeline.unet(noisy, entry, encoder_hidden_states=embeds).sample
    of_v = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, entry) if of_v else noise
    return torch.nn.functional.mse_loss(predicted, target)


def xl_noise_prediction(
    pipeline: Any, latents: Tensor, noise: Tensor, entry: Tensor, prompt: str, geometry: Any
) -> Tensor:
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    embeds, empty, pooled, empty_pooled = pipeline.encode_prompt(prompt or "a", device="cpu")
    noisy = scheduler.add_noise(latents, noise, entry)
    predicted = pipeline.unet(
        noisy,
        entry,
        encoder_hidden_states=embeds if prompt else empty,
        added_cond_kwargs={
            "text_embeds": pooled if prompt else empty_pooled,
            "time_ids": torch.tensor([geometry], dtype=torch.float32),
        },
    ).sample
    return torch.nn.functional.mse_loss(predicted, noise)


def flow_matching(
    pipeline: Any, latents: Tensor, noise: Tensor, entry: Tensor, prompt: str, geometry: Any
) -> Tensor:
    """diffusers' table begins with noise alone, the pipeline's here with the least."""
    scheduler = pipeline.scheduler
    place = len(scheduler.sigmas) - 1 - entry
    sigma, timestep = scheduler.sigmas[place], scheduler.timesteps[place]
    embeds, _, pooled, _ = pipeline.encode_prompt(prompt, None, None, device="cpu")
    predicted = pipeline.transformer(
        hidden_states=(1.0 - sigma) * latents + sigma * noise,
        timestep=timestep,
        encoder_hidden_states=embeds,
        pooled_projections=pooled,
    ).sample
    return torch.nn.functional.mse_loss(predicted, noise - latents)


def straight_path(
    pipeline: Any, latents: Tensor, noise: Tensor, entry: Tensor, tokens: int, mu: float | None
) -> tuple[Tensor, Tensor]:
    """What the denoiser is given, and ``s``: of the even path shifted by ``mu``, as diffusers."""
    settings = pipeline.scheduler.config
    if mu is None:
        mu = calculate_shift(
            tokens, settings.base_image_seq_len, settings.max_image_seq_len, settings.base_shift,
            settings.max_shift,
        )  # fmt: skip
    sigma = pipeline.scheduler.time_shift(mu, 1.0, (entry + 1) / 1000)
    return (1.0 - sigma) * latents + sigma * noise, sigma


def z_image(
    pipeline: Any, latents: Tensor, noise: Tensor, entry: Tensor, prompt: str, geometry: Any
) -> Tensor:
    noisy, sigma = straight_path(pipeline, latents, noise, entry, tokens=16, mu=None)
    embeds, _ = pipeline.encode_prompt(prompt, "cpu", False)
    found = pipeline.transformer([noisy[0][:, None]], 1.0 - sigma, embeds).sample[0]
    return torch.nn.functional.mse_loss(-found[:, 0], (noise - latents)[0])


def flux_1(
    pipeline: Any, latents: Tensor, noise: Tensor, entry: Tensor, prompt: str, geometry: Any
) -> Tensor:
    """Told a guidance of 1, as its trainers tell it."""
    noisy, sigma = straight_path(pipeline, latents, noise, entry, tokens=16, mu=None)
    embeds, pooled, places = pipeline.encode_prompt(prompt, device="cpu")
    found = pipeline.transformer(
        hidden_states=pipeline._pack_latents(noisy, 1, 4, 8, 8),
        timestep=sigma,
        guidance=torch.ones(1),
        pooled_projections=pooled,
        encoder_hidden_states=embeds,
        txt_ids=places,
        img_ids=pipeline._prepare_latent_image_ids(1, 4, 4, torch.device("cpu"), torch.float32),
    ).sample
    target = pipeline._pack_latents(noise - latents, 1, 4, 8, 8)
    return torch.nn.functional.mse_loss(found, target)


def flux_2_klein(
    pipeline: Any, latents: Tensor, noise: Tensor, entry: Tensor, prompt: str, geometry: Any
) -> Tensor:
    mu = compute_empirical_mu(64, num_steps=200)
    noisy, sigma = straight_path(pipeline, latents, noise, entry, tokens=64, mu=mu)
    embeds, places = pipeline.encode_prompt(prompt, "cpu")
    found = pipeline.transformer(
        hidden_states=pipeline._pack_latents(noisy),
        timestep=sigma,
        encoder_hidden_states=embeds,
        txt_ids=places,
        img_ids=pipeline._prepare_latent_ids(noisy),
    ).sample
    return torch.nn.functional.mse_loss(found, pipeline._pack_latents(noise - latents))


def qwen_image(
    pipeline: Any, latents: Tensor, noise: Tensor, entry: Tensor, prompt: str, geometry: Any
) -> Tensor:
    noisy, sigma = straight_path(pipeline, latents, noise, entry, tokens=16, mu=None)
    embeds, mask = pipeline.encode_prompt(prompt or " ", "cpu")
    found = pipeline.transformer(
        hidden_states=pipeline._pack_latents(noisy, 1, 4, 8, 8),
        timestep=sigma,
        encoder_hidden_states=embeds,
        encoder_hidden_states_mask=mask,
        img_shapes=[[(1, 4, 4)]],
    ).sample
    target = pipeline._pack_latents(noise - latents, 1, 4, 8, 8)
    return torch.nn.functional.mse_loss(found, target)


def krea_2(
    pipeline: Any, latents: Tensor, noise: Tensor, entry: Tensor, prompt: str, geometry: Any
) -> Tensor:
    noisy, sigma = straight_path(pipeline, latents, noise, entry, tokens=16, mu=None)
    embeds, mask = pipeline.encode_prompt(prompt, torch.device("cpu"))
    found = pipeline.transformer(
        hidden_states=pipeline._pack_latents(noisy, 1, 4, 8, 8),
        encoder_hidden_states=embeds,
        timestep=sigma,
        position_ids=pipeline.prepare_position_ids(embeds.shape[1], 4, 4, torch.device("cpu")),
        encoder_attention_mask=mask,
    ).sample
    target = pipeline._pack_latents(noise - latents, 1, 4, 8, 8)
    return torch.nn.functional.mse_loss(found, target)


KINDS = {
    "epsilon": Kind(save_tiny_stable_diffusion, noise_prediction),
    "v_prediction": Kind(
        lambda folder: save_tiny_stable_diffusion(folder, "v_prediction"), noise_prediction
    ),
    "xl": Kind(save_tiny_stable_diffusion_xl, xl_noise_prediction),
    "sd3": Kind(save_tiny_stable_diffusion_3, flow_matching),
    "sd35": Kind(partial(save_tiny_stable_diffusion_3, second_attention=True), flow_matching),
    "z_image": Kind(
        partial(save_tiny_flow_model, family="z_image"),
        z_image,
        guidance=lambda scale: {"guidance_scale": scale - 1.0},
    ),
    "flux_1": Kind(save_tiny_flux_1, flux_1),
    "flux_2_klein": Kind(
        partial(save_tiny_flow_model, family="flux_2_klein"), flux_2_klein, latents_of_flux_2
    ),
    "qwen_image": Kind(
        partial(save_tiny_flow_model, family="qwen_image"),
        qwen_image,
        latents_of_qwen,
        lambda scale: {"true_cfg_scale": scale, "negative_prompt": [" ", " "]},
    ),
    "krea_2": Kind(
        partial(save_tiny_flow_model, family="krea_2"),
        krea_2,
        latents_of_qwen,
        lambda scale: {"guidance_scale": scale - 1.0},
    ),
}
