"""Stable Diffusion 1 and 2, and what has their layout: one CLIP text encoder, one UNet, one VAE."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDPMScheduler,
    SchedulerMixin,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.family import NoiseSchedule, PromptEmbeds
from nsync_pipeline.families.pipeline_folder import PipelineFolder
from nsync_pipeline.families.weights import load_frozen, loading_errors

PIPELINE_CLASS = "StableDiffusionPipeline"
COMPONENTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
TOKENIZER_COMPONENTS = ("text_encoder", "tokenizer")
VAES = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
VOCABULARIES = ("tokenizer.json", "vocab.json")
PREDICTION_TYPES = ("epsilon", "v_prediction")

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
"""The attention and feed-forward projections of the UNet's transformer blocks."""


@dataclass(frozen=True)
class PromptTokenizer:
    """CLIP's tokenizer, and the window of the text encoder behind it."""

    tokenizer: CLIPTokenizer
    window: int  # tokens, start and end counted

    @property
    def max_prompt_tokens(self) -> int:
        return self.window - 2

    def prompt_tokens(self, prompt: str) -> int:
        """How many tokens ``prompt`` has, start and end not counted; nothing is cut off."""
        return len(self.tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids)

    def padded(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask`` (B, window), cut and filled up to the window."""
        encoded = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.window,
            truncation=True,
            return_tensors="pt",
        )
        return {"input_ids": encoded.input_ids, "attention_mask": encoded.attention_mask}


class StableDiffusion:
    """A frozen Stable Diffusion; a ``Family``.

    The denoiser has ``dtype``. The text encoder and the VAE stay in float32 on every device: a
    prompt or a picture goes through them once, and half precision shows in the pictures.
    """

    lora_targets: tuple[str, ...] = LORA_TARGETS
    denoiser_prefix: str = "unet"

    def __init__(
        self,
        folder: PipelineFolder,
        resolution: int | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Load the pipeline in ``folder``.

        Raises:
            BaseModelError: it is of another family, its weights are missing or broken, or it
                cannot draw at ``resolution``.
        """
        _check_index(folder)
        self.name = folder.name
        self.embedded = folder.embedded
        self.device = device
        self.dtype = dtype
        self.tokenizer = load_tokenizer(folder)
        self.max_prompt_tokens = self.tokenizer.max_prompt_tokens
        path = folder.path
        self.text_encoder: Any = load_frozen(CLIPTextModel, path, "text_encoder", device)
        self.text_encoders: tuple[Any, ...] = (self.text_encoder,)
        self.tokenizers: tuple[Any, ...] = (self.tokenizer.tokenizer,)
        self.vae: Any = load_frozen(VAES[folder.index["vae"][1]], path, "vae", device)
        self.denoiser: nn.Module = load_frozen(UNet2DConditionModel, path, "unet", device, dtype)
        self.scheduler: Any = _load_scheduler(folder)
        self.noise_schedule = _noise_schedule(folder.name, self.scheduler)
        self.revision = folder.revision(COMPONENTS)
        self.pixels_per_latent = int(2 ** (len(_block_channels(self.vae)) - 1))
        self.latent_shape = self._latent_shape(resolution)
        self.resolution = self.latent_shape[1] * self.pixels_per_latent

    def _latent_shape(self, resolution: int | None) -> tuple[int, int, int]:
        unet: Any = self.denoiser.config
        channels = int(self.vae.config.latent_channels)
        if unet.in_channels != channels:
            raise BaseModelError(
                f"{self.name}: its denoiser takes {unet.in_channels} channels and its latents have "
                f"{channels}: it is made for inpainting or the like, not for text to image."
            )
        if resolution is None:
            own = unet.sample_size
            side = int(own if isinstance(own, int) else own[0])
        elif resolution % self.pixels_per_latent:
            raise BaseModelError(
                f"base_model.resolution: {resolution} is not a multiple of the "
                f"{self.pixels_per_latent} pixels that one latent of {self.name} covers."
            )
        else:
            side = resolution // self.pixels_per_latent
        return channels, side, side

    def prompt_tokens(self, prompt: str) -> int:
        """How many tokens ``prompt`` has, start and end not counted; nothing is cut off."""
        return self.tokenizer.prompt_tokens(prompt)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> PromptEmbeds:
        """The text encoder's last hidden states (B, L, D), float32, as the pipeline takes them."""
        return self.embed_prompts(prompts)

    def embed_prompts(self, prompts: Sequence[str]) -> PromptEmbeds:
        """As ``encode_prompts``, with gradients to what is trained in the text encoder."""
        encoded = self.tokenizer.padded(prompts)
        mask = None
        if getattr(self.text_encoder.config, "use_attention_mask", False):
            mask = encoded["attention_mask"].to(self.device)
        ids = encoded["input_ids"].to(self.device)
        return PromptEmbeds(self.text_encoder(ids, attention_mask=mask)[0])

    @torch.no_grad()
    def encode_pictures(self, pixels: Tensor) -> Tensor:
        """Latents (B, C, h, w), float32, of ``pixels`` (B, 3, H, W) in [-1, 1].

        ``AutoencoderKL`` gives a distribution: its mode is taken, so that a picture has one latent,
        computed once. ``AutoencoderTiny`` gives the latents themselves. Both are multiplied by
        ``scaling_factor``, which ``decode_latents`` divides by.
        """
        encoded = self.vae.encode(pixels.to(self.device, torch.float32))
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return torch.as_tensor(latents * self.vae.config.scaling_factor)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [0, 1], float32, of scaled ``latents``."""
        unscaled = latents.to(self.device, torch.float32) / self.vae.config.scaling_factor
        return torch.as_tensor((self.vae.decode(unscaled).sample / 2 + 0.5).clamp(0, 1))

    def predict(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        prompt_embeds: PromptEmbeds,
        geometry: Tensor | None = None,
    ) -> Tensor:
        """The UNet's output (B, C, h, w), float32, with gradients to its trainable weights."""
        output = self.denoiser(
            noisy_latents.to(self.device, self.dtype),
            timesteps.to(self.device),
            encoder_hidden_states=prompt_embeds.tokens.to(self.device, self.dtype),
        ).sample
        return torch.as_tensor(output.float())


def load_tokenizer(folder: PipelineFolder) -> PromptTokenizer:
    """The tokenizer of the pipeline in ``folder``.

    Raises:
        BaseModelError: it cannot be loaded.
    """
    vocabulary = folder.path / "tokenizer"
    if not any((vocabulary / name).is_file() for name in VOCABULARIES):
        # CLIPTokenizer would go on with a vocabulary of its own, of two tokens.
        raise BaseModelError(f"{vocabulary} has none of {', '.join(VOCABULARIES)}.")
    with loading_errors(vocabulary):
        tokenizer = CLIPTokenizer.from_pretrained(folder.path, subfolder="tokenizer")
    with loading_errors(folder.path / "text_encoder"):
        settings = json.loads((folder.path / "text_encoder" / "config.json").read_text("utf-8"))
        positions = int(settings["max_position_embeddings"])
    return PromptTokenizer(tokenizer, min(int(tokenizer.model_max_length), positions))


def _check_index(folder: PipelineFolder) -> None:
    found = folder.index.get("_class_name")
    if found != PIPELINE_CLASS:
        raise BaseModelError(
            f"{folder.name} is a {found}, and base_model.family is stable_diffusion, which takes a "
            f"{PIPELINE_CLASS} (Stable Diffusion 1 or 2)."
        )
    allowed = {
        "scheduler": None, "text_encoder": ["CLIPTextModel"],
        "tokenizer": ["CLIPTokenizer", "CLIPTokenizerFast"], "unet": ["UNet2DConditionModel"],
        "vae": list(VAES),
    }  # fmt: skip
    for component in COMPONENTS:
        entry = folder.index.get(component)
        kind = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        names = allowed[component]
        if kind is None or (names is not None and kind not in names):
            takes = " or ".join(names) if names else "a diffusers scheduler"
            raise BaseModelError(f"{folder.name}: its {component} is {kind}; taken is {takes}.")


def _load_scheduler(folder: PipelineFolder) -> Any:
    name = folder.index["scheduler"][1]
    kind: Any = getattr(diffusers, str(name), None)
    if kind is None or not issubclass(kind, SchedulerMixin):
        raise BaseModelError(f"{folder.name}: diffusers {diffusers.__version__} has no {name}.")
    with loading_errors(folder.path / "scheduler"):
        scheduler = kind.from_pretrained(folder.path, subfolder="scheduler")
        if scheduler.config.get("clip_sample"):
            # Made for pixels in [-1, 1]; latents go beyond, and the pipeline clears it too.
            scheduler = kind.from_config(scheduler.config, clip_sample=False)
    return scheduler


def _noise_schedule(name: str, scheduler: Any) -> NoiseSchedule:
    prediction_type = scheduler.config.get("prediction_type", "epsilon")
    if prediction_type not in PREDICTION_TYPES:
        raise BaseModelError(
            f"{name} predicts {prediction_type!r}; taken are {' and '.join(PREDICTION_TYPES)}."
        )
    training = DDPMScheduler.from_config(scheduler.config)
    alphas = training.alphas_cumprod.double()
    # In float64: near t = 0, 1 - a_t loses most of its float32 digits.
    return NoiseSchedule(
        prediction_type, alphas.sqrt(), (1.0 - alphas).sqrt(), torch.arange(len(alphas))
    )


def _block_channels(vae: Any) -> Sequence[int]:
    if isinstance(vae, AutoencoderTiny):
        return tuple(vae.config.encoder_block_out_channels)
    return tuple(vae.config.block_out_channels)
