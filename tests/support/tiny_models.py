"""Tiny untrained models, of the real classes and in the layouts that the pipeline loads."""

from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

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
    alphabet = byte_characters()
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
            tiny_clip_config(tokenizer, WIDTH, layers=1, projection_dim=512)
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
        vae = _tiny_autoencoder() if autoencoder == "tiny" else kl_autoencoder()
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


def save_tiny_stable_diffusion_xl(folder: Path, seed: int = 0) -> Path:
    """Save an untrained ``StableDiffusionXLPipeline`` of 32 px pictures to ``folder``; return it.

    As the real one: two text encoders of unlike width, the second's projection, transformers of
    unlike depth a block, linear projections, time ids, zeros for the empty prompt.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer, tokenizer_2 = tiny_tokenizer(), tiny_tokenizer()
        tokenizer_2.pad_token = "!"
        text_encoder = CLIPTextModel(tiny_clip_config(tokenizer, WIDTH, layers=2))
        text_encoder_2 = CLIPTextModelWithProjection(
            tiny_clip_config(tokenizer_2, 24, layers=2, hidden_act="gelu")
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(8, WIDTH),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            cross_attention_dim=WIDTH + 24,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + 6 * 8,
            norm_num_groups=4,
        )
        vae = kl_autoencoder(scaling_factor=0.13025, force_upcast=True)
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    )
    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=scheduler,
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def save_tiny_stable_diffusion_3(
    folder: Path, seed: int = 0, t5: bool = True, second_attention: bool = False
) -> Path:
    """Save an untrained ``StableDiffusion3Pipeline`` of 32 px pictures to ``folder``; return it.

    As the real one: two CLIPs of unlike width and a T5 (or none), a schedule shifted by 3, latents
    that are shifted, normalised queries and keys. ``T5`` knows ``WORDS`` and letters. As 3.5 medium
    with ``second_attention``, of the picture to itself, in the first block.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer, tokenizer_2 = tiny_tokenizer(), tiny_tokenizer()
        tokenizer_2.pad_token = "!"
        text_encoder = CLIPTextModelWithProjection(tiny_clip_config(tokenizer, WIDTH, layers=2))
        text_encoder_2 = CLIPTextModelWithProjection(
            tiny_clip_config(tokenizer_2, 24, layers=2, hidden_act="gelu")
        )
        text_encoder_3, tokenizer_3 = tiny_t5(48)
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=8,
            out_channels=8,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=48,
            caption_projection_dim=16,
            pooled_projection_dim=WIDTH + 24,
            pos_embed_max_size=12,
            qk_norm="rms_norm",
            dual_attention_layers=(0,) if second_attention else (),
        )
        vae = kl_autoencoder(
            scaling_factor=1.5305,
            shift_factor=0.0609,
            latent_channels=8,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
    StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        text_encoder_3=text_encoder_3 if t5 else None,
        tokenizer_3=tokenizer_3 if t5 else None,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def tiny_clip_config(
    tokenizer: CLIPTokenizer, width: int, layers: int, **changes: object
) -> CLIPTextConfig:
    """Of a CLIP text encoder that reads 32 tokens."""
    settings: dict[str, object] = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "projection_dim": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPTextConfig(**(settings | changes))


def tiny_t5(width: int) -> tuple[T5EncoderModel, T5TokenizerFast]:
    tokenizer = _tiny_t5_tokenizer()
    settings = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
    )
    return T5EncoderModel(settings), tokenizer


def _tiny_t5_tokenizer() -> T5TokenizerFast:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in WORDS), *letters]
    scores = [(piece, -float(rank)) for rank, piece in enumerate(dict.fromkeys(pieces))]
    return T5TokenizerFast(vocab=scores, extra_ids=0)


def _merged(pieces: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """``pieces`` after byte-pair encoding by ``merges``, the earlier ones first."""
    for left, right in merges:
        index = 0
        while index < len(pieces) - 1:
            if pieces[index : index + 2] == [left, right]:
                pieces[index : index + 2] = [left + right]
            index += 1
    return pieces


def kl_autoencoder(**changes: Any) -> AutoencoderKL:
    settings: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (4, 8, 8),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "sample_size": TINY_RESOLUTION,
        "scaling_factor": 0.18215,
    }
    return AutoencoderKL(**(settings | changes))


def _tiny_autoencoder() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=4,
        scaling_factor=0.5,
    )


def byte_characters() -> list[str]:
    """The printable character that stands for each byte in byte-level BPE (as GPT-2 defined it)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]
