"""The denoiser stage: prompts to latents, by v-prediction, with the text encoder along."""

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, DPMSolverMultistepScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTextModel

from nsync_pipeline.sketchbook.canvas import PICTURE_SIZE
from pretraining.checkpoint import load_checkpoint, save_checkpoint
from pretraining.clip import tokenized
from pretraining.data import DrawnData, world_data
from pretraining.growth import grow
from pretraining.prompts import training_prompt
from pretraining.schedule import (
    cosine_rate,
    normal,
    set_rate,
    step_generator,
    training_device,
    update_average,
)
from pretraining.settings import PretrainingSettings
from pretraining.shards import ShardGradients, one_thread_each, shard_rows
from pretraining.tokenizer import train_tokenizer
from pretraining.training_log import LOG_EVERY, training_log
from pretraining.vae import encoded

F_DOWN = 4  # picture pixels a latent pixel


@dataclass(frozen=True)
class Denoiser:
    """The trained (averaged) parts of the stage, and the latents' scale they work at."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    scaling_factor: float  # the unet sees encoder output times this


def build_scheduler() -> DPMSolverMultistepScheduler:
    """v-prediction over 1000 steps; samples well in 20 to 25."""
    return DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        algorithm_type="dpmsolver++",
        solver_order=2,
        timestep_spacing="linspace",
        steps_offset=1,
    )


def build_unet(settings: PretrainingSettings) -> UNet2DConditionModel:
    """An untrained denoiser of (B, C, 32, 32) latents."""
    chosen = settings.unet
    plain = len(chosen.channels) - 1  # levels: attention is at the innermost alone
    return UNet2DConditionModel(
        sample_size=PICTURE_SIZE // F_DOWN,
        in_channels=settings.vae.latent_channels,
        out_channels=settings.vae.latent_channels,
        layers_per_block=chosen.layers,
        block_out_channels=chosen.channels,
        down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * plain,
        cross_attention_dim=settings.clip.width,
        attention_head_dim=chosen.heads,
        norm_num_groups=16,
        time_embedding_dim=256,
    )


def velocity(clean: Tensor, noise: Tensor, signal: Tensor) -> Tensor:
    """v = sqrt(a) e - sqrt(1 - a) x of (B, C, h, w) latents, `signal` a of shape (B, 1, 1, 1)."""
    return signal.sqrt() * noise - (1 - signal).sqrt() * clean


def train_unet(
    settings: PretrainingSettings,
    work: Path,
    resume: bool,
    vae: AutoencoderTiny,
    clip: CLIPModel,
    grow_from: Path | None = None,
) -> Denoiser:
    """Train on the cached latents of the drawn world, or go on from the last checkpoint.

    ``grow_from``: the pipeline of an earlier base, one level smaller, whose weights it starts with.
    """
    chosen = settings.unet
    described = f"{settings.seed} {settings.model_dump_json(exclude={'checkpoint_every'})}"
    described += " grown" if grow_from else ""
    device = training_device()
    torch.manual_seed(settings.seed)
    unet = build_unet(settings).to(device, memory_format=torch.channels_last)
    text_config = copy.deepcopy(clip.config.text_config)
    if device.type == "cpu":  # plain attention: a fifth faster a step than the fused kernels there
        unet.set_attn_processor(AttnProcessor())
        text_config._attn_implementation = "eager"
    text_encoder = CLIPTextModel(text_config).to(device)
    text_encoder.load_state_dict(_text_weights(clip, text_encoder))
    if grow_from:
        grow(unet, UNet2DConditionModel.from_pretrained(grow_from / "unet").float())
        earlier = CLIPTextModel.from_pretrained(grow_from / "text_encoder").float()
        text_encoder.load_state_dict(earlier.state_dict())
    weights = [*unet.parameters(), *text_encoder.parameters()]
    averages = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(weights, lr=chosen.learning_rate, weight_decay=0.01)
    path = work / "unet.pt"
    state = load_checkpoint(path, described, resume)
    start, factor = 0, 0.0
    if state is not None:
        unet.load_state_dict(state["unet"])
        text_encoder.load_state_dict(state["text_encoder"])
        optimizer.load_state_dict(state["optimizer"])
        averages = [average.to(device) for average in state["averages"]]
        start, factor = state["step"], state["scaling_factor"]
    if start < chosen.steps:
        data = world_data(work, settings.data.world_pictures, settings.seed)
        latents = cached_latents(vae, data, work)
        factor = scaling_factor(latents)

    tokenizer = train_tokenizer(settings.clip.text_length)
    signals = build_scheduler().alphas_cumprod.to(device)
    unet.train()
    text_encoder.train()
    rows_of_shards = shard_rows(chosen.batch, chosen.shards if device.type == "cpu" else 1)
    with (
        training_log("unet", chosen.steps, work, described) as log,
        one_thread_each(len(rows_of_shards)) as pool,
    ):
        for step in range(start, chosen.steps):
            rng = step_generator(settings.seed, "unet", step)
            picked = rng.choice(len(latents), chosen.batch, replace=False)
            prompts = [training_prompt(data.scenes[i].caption, data.styles[i], rng) for i in picked]
            ids = tokenized(tokenizer, prompts).to(device)
            clean = (latents[torch.from_numpy(picked)].float() * factor).to(device)
            noise = normal(rng, tuple(clean.shape)).to(device)
            # one timestep from each of B equal bands: the loss varies less from step to step
            bands = (np.arange(chosen.batch) + rng.uniform(0, 1, chosen.batch)) / chosen.batch
            timesteps = torch.from_numpy((bands * len(signals)).astype(np.int64)).to(device)
            signal = signals[timesteps].reshape(-1, 1, 1, 1)
            noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
            noisy = noisy.contiguous(memory_format=torch.channels_last)
            target = velocity(clean, noise, signal)

            def shard_gradients(
                rows: slice,
                ids: Tensor = ids,
                noisy: Tensor = noisy,
                timesteps: Tensor = timesteps,
                target: Tensor = target,
            ) -> ShardGradients:
                with torch.autocast(device.type, dtype=torch.bfloat16):
                    prompt_embeds = text_encoder(ids[rows]).last_hidden_state
                    predicted = unet(noisy[rows], timesteps[rows], prompt_embeds).sample
                loss = F.mse_loss(predicted.float(), target[rows])
                return ShardGradients(loss.detach(), torch.autograd.grad(loss, weights))

            shards = list(pool.map(shard_gradients, rows_of_shards))
            loss = torch.stack([shard.loss for shard in shards]).mean()
            for weight, *parts in zip(weights, *(shard.gradients for shard in shards), strict=True):
                weight.grad = torch.stack(parts).mean(dim=0)
            set_rate(optimizer, cosine_rate(chosen.learning_rate, step, chosen.steps))
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            update_average(averages, weights, chosen.ema, step)
            done = step + 1
            if done % LOG_EVERY == 0 or done == chosen.steps:
                log.step(step, {"loss": loss.item()})
            if done % settings.checkpoint_every == 0 or done == chosen.steps:
                save_checkpoint(
                    path,
                    {
                        "settings": described,
                        "step": done,
                        "scaling_factor": factor,
                        "unet": unet.state_dict(),
                        "text_encoder": text_encoder.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "averages": averages,
                    },
                )
    with torch.no_grad():
        for weight, average in zip(weights, averages, strict=True):
            weight.copy_(average)
    return Denoiser(unet.eval(), text_encoder.eval(), factor)


def cached_latents(vae: AutoencoderTiny, data: DrawnData, work: Path) -> Tensor:
    """(N, C, 32, 32) float16 latents of all pictures, encoded once for each autoencoder."""
    digest = hashlib.sha256()
    for weight in vae.state_dict().values():
        digest.update(weight.detach().float().cpu().numpy().tobytes())
    path = work / f"latents-{len(data.pictures)}-{digest.hexdigest()[:12]}.pt"
    if path.exists():
        cached: Tensor = torch.load(path, weights_only=True)["latents"]
        return cached
    latents = encoded(vae, data.pictures)
    save_checkpoint(path, {"latents": latents})
    return latents


def scaling_factor(latents: Tensor) -> float:
    """1 / deviation, so that scaled latents have unit variance."""
    return round(1 / float(latents[:4096].float().std()), 4)


def _text_weights(clip: CLIPModel, text_encoder: CLIPTextModel) -> dict[str, Tensor]:
    """CLIP's text weights under the names that a `CLIPTextModel` gives them."""
    prefix = "text_model."
    trained = {name.removeprefix(prefix): w for name, w in clip.text_model.state_dict().items()}
    return {name: trained[name.removeprefix(prefix)].clone() for name in text_encoder.state_dict()}
