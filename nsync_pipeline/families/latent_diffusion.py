"""What the families share: how a base model's parts are loaded, and what they do in common."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.autoencoders import Autoencoder
from nsync_pipeline.families.clip_tokenizers import (
    TOKENIZER_CLASSES,
    PromptTokenizers,
    load_tokenizers,
)
from nsync_pipeline.families.family import NoiseSchedule, PromptEmbeds, TokenCounter
from nsync_pipeline.families.noise_schedules import diffusion_schedule, load_scheduler
from nsync_pipeline.families.pipeline_folder import PipelineFolder
from nsync_pipeline.families.placement import Placement, compile_in_place
from nsync_pipeline.families.weights import load_frozen

UNET_LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
"""The attention and feed-forward projections of a UNet's transformer blocks."""
JOINT_LORA_TARGETS = (
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
)  # fmt: skip
"""The joint attention of a transformer, of pictures and of prompts, as diffusers' script has it."""


class LatentDiffusion:
    """A frozen base model but for how prompts become embeddings: what ``Family`` says.

    The denoiser has the placement's ``dtype``. The CLIP text encoders and the VAE stay in float32
    on every device: a prompt or a picture goes through them once, and half precision shows.
    """

    models: ClassVar[str]  # for messages
    pipeline_class: ClassVar[str]  # what the index of a diffusers pipeline calls it
    base_id: ClassVar[str]  # the hub id of one that is not distilled
    components: ClassVar[tuple[str, ...]]  # the pipeline's subfolders that a whole model needs
    clip_encoders: ClassVar[Mapping[str, Any]]  # the classes of the CLIP text encoders
    denoiser_class: ClassVar[Any] = UNet2DConditionModel
    autoencoder_class: ClassVar[type[Autoencoder]] = Autoencoder
    noise_schedule_of: ClassVar[Callable[[str, Any], NoiseSchedule]] = diffusion_schedule
    packed: ClassVar[bool] = False  # the denoiser takes four latents as one of four times channels
    native_resolution: ClassVar[int | None] = None  # where the denoiser's settings do not say it
    token_side: ClassVar[int | None] = None  # latents a side, where the weights do not say it
    counted_by: ClassVar[tuple[str, ...]] = ()  # what counts a prompt's tokens, where not its CLIPs
    checkpoint_resolution: ClassVar[int] = 1024  # of a single file, which says no more of it
    architecture: str | None = None
    quantization: str | None = None
    told_guidance: float | None = None
    lora_targets: tuple[str, ...] = UNET_LORA_TARGETS
    denoiser_prefix: str = "unet"
    text_encoders: tuple[Any, ...]
    tokenizers: tuple[Any, ...]

    def __init__(
        self, folder: PipelineFolder, resolution: int | None, placement: Placement
    ) -> None:
        """Load the pipeline in ``folder``: BaseModelError where it cannot be, or draw so large."""
        folder.require(self.required())
        self.name, self.embedded = folder.name, folder.embedded
        self.device, self.dtype = placement.device, placement.dtype
        self.vae_tiling = placement.vae_tiling
        self._placement = placement
        self.tokenizer = self.load_tokenizer(folder)
        self.max_prompt_tokens = self.tokenizer.max_prompt_tokens
        self.load_text_encoders(folder)
        self.autoencoder = self.autoencoder_class(folder, placement)
        self.vae: Any = self.autoencoder.module
        waits = torch.device("cpu") if placement.group_offload else self.device
        self.quantization = placement.quantization
        denoiser: Any = load_frozen(
            self.denoiser_class,
            folder,
            self.denoiser_prefix,
            waits,
            self.dtype,
            placement.quantization,
        )  # fmt: skip
        if placement.group_offload:
            denoiser.enable_group_offload(
                self.device, torch.device("cpu"), "block_level", num_blocks_per_group=1
            )
        self.denoiser: nn.Module = denoiser
        self.scheduler: Any = load_scheduler(folder)
        self.revision = folder.revision(self.components)
        self.pixels_per_latent = self.autoencoder.pixels_per_latent
        self.patch = self.patch_of(self.denoiser.config)
        self.latent_shape = self._latent_shape(resolution)
        schedule = type(self).noise_schedule_of(folder.name, self.scheduler)
        self.noise_schedule = schedule.of_size(*self.latent_shape[1:])
        self.resolution = self.latent_shape[1] * self.pixels_per_latent
        self.autoencoder.save_memory(self.resolution)
        if placement.compile:
            compile_in_place(self.denoiser)

    @classmethod
    def required(cls) -> dict[str, Sequence[str]]:
        """The classes that each component may have; none named: any."""
        return {
            "scheduler": (),
            **cls.required_of_prompts(),
            cls.denoiser_prefix: (cls.denoiser_class.__name__,),
            "vae": tuple(cls.autoencoder_class.kinds),
        }

    @classmethod
    def required_of_prompts(cls) -> dict[str, Sequence[str]]:
        """The same, of tokenizers and text encoders."""
        tokenizers = [name.replace("text_encoder", "tokenizer") for name in cls.clip_encoders]
        return {
            **{name: (kind.__name__,) for name, kind in cls.clip_encoders.items()},
            **dict.fromkeys(tokenizers, TOKENIZER_CLASSES),
        }

    @classmethod
    def load_tokenizer(cls, folder: PipelineFolder) -> TokenCounter:
        """What counts a prompt's tokens; BaseModelError where it cannot be loaded."""
        return load_tokenizers(folder, count=len(cls.clip_encoders))

    def load_text_encoders(self, folder: PipelineFolder) -> None:
        """Set ``text_encoders`` and ``tokenizers``."""
        place, clip = self._placement, self.tokenizer
        if not isinstance(clip, PromptTokenizers):  # something else counts a prompt's tokens
            clip = load_tokenizers(folder, len(self.clip_encoders))
        self.clip_tokenizers = clip.each
        self.tokenizers = tuple(of.tokenizer for of in self.clip_tokenizers)
        self.text_encoders = tuple(
            load_frozen(kind, folder, name, place.resting_place, place.full_dtype)
            for name, kind in self.clip_encoders.items()
        )

    @classmethod
    def patch_of(cls, config: Any) -> int:
        """Latents a side that a denoiser of these settings takes as one."""
        return 2 if cls.packed else int(config.get("patch_size") or 1)

    @classmethod
    def numbers_a_token(cls, config: Mapping[str, Any]) -> int:
        """What a language model says of a prompt's token to a denoiser of these settings."""
        return 0

    def _latent_shape(self, resolution: int | None) -> tuple[int, int, int]:
        """The shape (C, h, w) of a square picture's latents: of ``resolution``, or the model's own.

        BaseModelError where the denoiser cannot draw so.
        """
        config: Any = self.denoiser.config
        channels, each = self.autoencoder.channels, self.pixels_per_latent
        if config.in_channels != (4 if self.packed else 1) * channels:
            raise BaseModelError(
                f"{self.name}: its denoiser takes {config.in_channels} channels and its latents "
                f"have {channels}: it is made for inpainting or the like, not for text to image."
            )
        least = each * self.patch
        if resolution is None and self.native_resolution is None:
            own = config.sample_size
            side = int(own if isinstance(own, int) else own[0])
            return channels, side, side
        wanted = resolution or self.native_resolution
        assert wanted is not None
        if wanted % least:
            raise BaseModelError(
                f"base_model.resolution: {wanted} is not a multiple of the {least} pixels that "
                f"one latent{' patch' if self.patch > 1 else ''} of {self.name} covers."
            )
        return channels, wanted // each, wanted // each

    def prompt_tokens(self, prompt: str) -> int:
        return self.tokenizer.prompt_tokens(prompt)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> PromptEmbeds:
        return self.embed_prompts(prompts)

    def embed_prompts(self, prompts: Sequence[str]) -> PromptEmbeds:
        raise NotImplementedError

    def clip_states(self, prompts: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        """The CLIPs' penultimate hidden states side by side (B, L, D1 + D2); outputs (B, P) each.

        The outputs are pooled and projected where the encoder does so.
        """
        hidden, outputs = [], []
        encoders = self.text_encoders[: len(self.clip_encoders)]
        for tokenizer, encoder in zip(self.clip_tokenizers, encoders, strict=True):
            ids = tokenizer.padded(prompts)["input_ids"].to(self.device)
            with self._placement.in_use(encoder):
                output = encoder(ids, output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
            outputs.append(output[0])
        return torch.cat(hidden, dim=-1), outputs

    def encode_pictures(self, pixels: Tensor) -> Tensor:
        return self.autoencoder.encode(pixels)

    def decode_latents(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents)

    def predict(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        prompt_embeds: PromptEmbeds,
        geometry: Tensor | None = None,
    ) -> Tensor:
        output = self.denoiser(
            noisy_latents.to(self.device, self.dtype),
            timestep=timesteps.to(self.device),
            encoder_hidden_states=prompt_embeds.tokens.to(self.device, self.dtype),
            **self.conditions(noisy_latents, prompt_embeds, geometry),
        ).sample
        return torch.as_tensor(output.to(self._placement.full_dtype))

    def conditions(
        self, noisy_latents: Tensor, prompt_embeds: PromptEmbeds, geometry: Tensor | None
    ) -> Mapping[str, Any]:
        """What the denoiser is given besides latents, timesteps and the prompts' tokens."""
        return {}

    def guided(self, empty: Tensor, prompted: Tensor, scale: float) -> Tensor:
        return empty + scale * (prompted - empty)
