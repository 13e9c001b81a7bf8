"""What diffusers itself draws with the files that a training saved, beside our own sampler."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from nsync_pipeline.drawing.config import SamplerConfig
from nsync_pipeline.drawing.sampling import PictureRequest, draw_pictures
from nsync_pipeline.drawing.schedulers import build_scheduler
from nsync_pipeline.families.family import Family

SAMPLER = SamplerConfig(scheduler="ddim", steps=3, guidance_scale=3.0, batch_size=2)


def sampler_of(family: Family) -> SamplerConfig:
    """``SAMPLER``; a flow model's own scheduler, for there is no DDIM of flows."""
    is_flow = family.noise_schedule.prediction_type == "flow"
    return SAMPLER.model_copy(update={"scheduler": "model"}) if is_flow else SAMPLER


def pipeline_of(base: Path) -> Any:
    pipeline = DiffusionPipeline.from_pretrained(base, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def our_pictures(family: Family, prompts: list[str]) -> np.ndarray:
    """(N, H, W, 3), 0 to 255."""
    requests = [PictureRequest(f"{seed}", prompt, seed) for seed, prompt in enumerate(prompts)]
    batches = draw_pictures(family, requests, sampler_of(family))
    return np.stack([picture.pixels for batch in batches for picture in batch]).astype(int)


def their_pictures(
    pipeline: Any,
    family: Family,
    prompts: list[str],
    guidance: Callable[[float], dict[str, Any]] = lambda scale: {"guidance_scale": scale},
) -> np.ndarray:
    """The same pictures by the diffusers pipeline, which is called with ``guidance``."""
    pipeline.scheduler = build_scheduler(family, sampler_of(family))
    images = pipeline(
        prompt=list(prompts),  # Z-Image writes into it
        generator=[torch.Generator().manual_seed(seed) for seed in range(len(prompts))],
        num_inference_steps=SAMPLER.steps,
        **guidance(SAMPLER.guidance_scale),
        height=family.resolution,
        width=family.resolution,
    ).images
    return np.stack([np.asarray(image) for image in images]).astype(int)
