"""The autoencoder stage: pictures to latents of about unit variance, and back."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from nsync_pipeline.sketchbook.canvas import PICTURE_SIZE
from nsync_pipeline.sketchbook.judges import as_batch
from pretraining.checkpoint import load_checkpoint, save_checkpoint
from pretraining.data import abstract_data, world_data
from pretraining.schedule import (
    cosine_rate,
    normal,
    set_rate,
    step_generator,
    training_device,
)
from pretraining.settings import PretrainingSettings, VaeSettings
from pretraining.training_log import LOG_EVERY, training_log


def build_vae(settings: VaeSettings) -> AutoencoderTiny:
    """An untrained autoencoder, f = 4."""
    widths = (settings.width,) * len(settings.encoder_blocks)
    return AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=settings.encoder_blocks,
        num_decoder_blocks=settings.decoder_blocks,
        latent_channels=settings.latent_channels,
        scaling_factor=1.0,
        force_upcast=False,
    )


def difference_loss(made: Tensor, real: Tensor) -> Tensor:
    """Mean L1 between neighbour differences of two (B, C, H, W) pictures, at 1 and 2 px."""
    total = made.new_zeros(())
    for reach in (1, 2):
        error = made - real
        total = total + (error[..., reach:] - error[..., :-reach]).abs().mean()
        total = total + (error[..., reach:, :] - error[..., :-reach, :]).abs().mean()
    return total / 4


def moment_loss(latents: Tensor) -> Tensor:
    """How far each channel of (B, C, h, w) latents is from mean 0 and deviation 1."""
    deviation, mean = torch.std_mean(latents, dim=(0, 2, 3))
    return (mean**2).mean() + ((deviation - 1) ** 2).mean()


def train_vae(settings: PretrainingSettings, work: Path, resume: bool) -> AutoencoderTiny:
    """Train from drawn and abstract pictures, or go on from the last checkpoint."""
    chosen = settings.vae
    described = f"{settings.seed} {settings.data.model_dump_json()} {chosen.model_dump_json()}"
    device = training_device()
    torch.manual_seed(settings.seed)
    vae = build_vae(chosen).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=chosen.learning_rate, weight_decay=1e-3)
    path = work / "vae.pt"
    state = load_checkpoint(path, described, resume)
    start = 0
    if state is not None:
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    if start >= chosen.steps:
        return vae.eval()

    pictures = world_data(work, settings.data.world_pictures, settings.seed).pictures
    abstracts = abstract_data(work, settings.data.abstract_pictures, settings.seed)
    vae.train()
    with training_log("vae", chosen.steps, work, described) as log:
        for step in range(start, chosen.steps):
            rng = step_generator(settings.seed, "vae", step)
            whole = step >= round(chosen.steps * (1 - chosen.whole_share))
            real = as_batch(_crops(pictures, abstracts, chosen, whole, rng), device)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                latents = vae.encode(real).latents
                noise = normal(rng, tuple(latents.shape)).to(device)
                made = vae.decode(latents + chosen.latent_noise * noise).sample
            made, latents = made.float(), latents.float()
            error, edges = F.l1_loss(made, real), difference_loss(made, real)
            moments = moment_loss(latents)
            loss = (
                error
                + F.mse_loss(made, real)
                + chosen.gradient_weight * edges
                + chosen.moment_weight * moments
            )
            set_rate(optimizer, cosine_rate(chosen.learning_rate, step, chosen.steps))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            optimizer.step()
            done = step + 1
            if done % LOG_EVERY == 0 or done == chosen.steps:
                figures = {"loss": loss, "l1": error, "edges": edges, "moments": moments}
                log.step(step, {name: value.item() for name, value in figures.items()})
            if done % settings.checkpoint_every == 0 or done == chosen.steps:
                save_checkpoint(
                    path,
                    {
                        "settings": described,
                        "step": done,
                        "vae": vae.state_dict(),
                        "optimizer": optimizer.state_dict(),
                    },
                )
    return vae.eval()


def _crops(
    pictures: NDArray[np.uint8],
    abstracts: NDArray[np.uint8],
    settings: VaeSettings,
    whole: bool,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """(B, s, s, 3) a batch of crops, or as many pixels of whole pictures."""
    side = PICTURE_SIZE if whole else settings.crop
    count = max(1, settings.batch * settings.crop**2 // side**2)
    crops = np.empty((count, side, side, 3), dtype=np.uint8)
    for place in range(count):
        source = abstracts if rng.random() < settings.abstract_share else pictures
        index, turned, mirrored = rng.integers((len(source), 2, 2))
        top, left = rng.integers(0, PICTURE_SIZE - side + 1, 2)
        crop = source[index, top : top + side, left : left + side]
        crop = crop[:, ::-1] if mirrored else crop
        crops[place] = crop.transpose(1, 0, 2) if turned else crop
    return crops


@torch.no_grad()
def encoded(vae: AutoencoderTiny, pictures: NDArray[np.uint8], batch: int = 64) -> Tensor:
    """(N, C, 32, 32) latents of (N, 128, 128, 3) pictures, in float16 on the CPU."""
    device = next(vae.parameters()).device
    parts = []
    for start in range(0, len(pictures), batch):
        with torch.autocast(device.type, dtype=torch.bfloat16):
            latents = vae.encode(as_batch(pictures[start : start + batch], device)).latents
        parts.append(latents.half().cpu())
    return torch.cat(parts)


@torch.no_grad()
def reconstructed(vae: AutoencoderTiny, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, 128, 128, 3) pictures after encoding and decoding."""
    device = next(vae.parameters()).device
    made = []
    for start in range(0, len(pictures), 64):
        real = as_batch(pictures[start : start + 64], device)
        decoded = vae.decode(vae.encode(real).latents).sample.clamp(-1, 1)
        made.append(((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(made)
