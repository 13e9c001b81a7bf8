"""Tiny untrained models, of the real classes and in the layouts that the pipeline loads."""

from pathlib import Path
from typing import Literal

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WORDS = [
    "a", "an", "the", "in", "of", "on", "and", "under", "beside", "style", "painting",
    "illustration", "sks", "red", "blue", "green", "yellow", "white", "black", "house", "tree",
    "boat", "fish", "car", "sun", "moon", "sky", "grass", "snow", "sand", "water",
]  # fmt: skip
"""Words that are one token each; any other text is spelled out byte by byte."""

TINY_RESOLUTION = 32
"""Pixels a side of the tiny model's pictures: four to a latent."""

WIDTH = 16


def tiny_tokenizer() -> CLIPTokenizer:
    """A byte-level CLIP tokenizer: 514 tokens, and ``WORDS`` merged; it takes any text."""
    alphabet = _byte_characters()
    tokens = alphabet + [character + "</w>" for character in alphabet]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = _merged([*word[:-1], word[-1] + "</w>"], merges)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = [pieces[0] + pieces[1]]
            tokens.append(pieces[0])
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=32)


def save_tiny_stable_diffusion(
    folder: Path,
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon",
    seed: int = 0,
    autoencoder: Literal["kl", "tiny"] = "kl",
) -> Path:
    """Save an untrained ``StableDiffusionPipeline`` of 32 px pictures to ``folder``, and return it.

    Latents are (4, 8, 8), a prompt has at most 30 tokens; weights depend on ``seed`` alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer()
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                intermediate_size=2 * WIDTH,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=32,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(8, WIDTH),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            mid_block_type="UNetMidBlock2DCrossAttn",
            cross_attention_dim=WIDTH,
            attention_head_dim=2,
            norm_num_groups=4,
        )
        vae = _tiny_autoencoder() if autoencoder == "tiny" else _kl_autoencoder()
    scheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def _merged(pieces: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """``pieces`` after byte-pair encoding by ``merges``, the earlier ones first."""
    for left, right in merges:
        index = 0
        while index < len(pieces) - 1:
            if pieces[index : index + 2] == [left, right]:
                pieces[index : index + 2] = [left + right]
            index += 1
    return pieces


def _kl_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=TINY_RESOLUTION,
        scaling_factor=0.18215,
    )


def _tiny_autoencoder() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=4,
        scaling_factor=0.5,
    )


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte in byte-level BPE (as GPT-2 defined it)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]
