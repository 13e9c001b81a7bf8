"""Tiny untrained models of the families that read prompts by a language model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLModel,
)

from tests.support.tiny_models import (
    byte_characters,
    kl_autoencoder,
    tiny_clip_config,
    tiny_t5,
    tiny_tokenizer,
)

WIDTH = 16
DYNAMIC = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
"""Of a scheduler; 64 latents of the tiny picture are 16 tokens."""

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)


def tiny_language_tokenizer() -> Qwen2Tokenizer:
    """A byte a token, and the tokens that begin and end what somebody says."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: number for number, token in enumerate([*byte_characters(), *special])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], additional_special_tokens=special[1:])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _text_settings(layers: int, **changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": 259,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 2048,
        "bos_token_id": None,
        "eos_token_id": 256,
        "pad_token_id": 256,
    } | changes


def _seen(**changes: Any) -> dict[str, Any]:
    """Of the part of a vision-language model that looks at pictures: none are shown."""
    return {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16} | changes


def _qwen_autoencoder() -> AutoencoderKLQwenImage:
    return AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.5, 1.0, 2.0],
    )


def _z_image(dynamic: bool) -> Any:
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**(DYNAMIC if dynamic else {"shift": 6.0})),
        vae=kl_autoencoder(
            scaling_factor=0.36,
            shift_factor=0.12,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=Qwen3Model(Qwen3Config(**_text_settings(layers=3))),
        tokenizer=tiny_language_tokenizer(),
        transformer=ZImageTransformer2DModel(
            in_channels=4,
            dim=WIDTH,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=WIDTH,
            axes_dims=[4, 2, 2],
            axes_lens=[512, 32, 32],
        ),
    )


def _flux_2_klein(dynamic: bool) -> Any:
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )
    vae.bn.running_mean.copy_(torch.linspace(-0.5, 0.5, 16))
    vae.bn.running_var.copy_(torch.linspace(0.5, 2.0, 16))
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**(DYNAMIC if dynamic else {})),
        vae=vae,
        text_encoder=Qwen3ForCausalLM(Qwen3Config(**_text_settings(layers=28, hidden_size=8))),
        tokenizer=tiny_language_tokenizer(),
        transformer=Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=24,
            timestep_guidance_channels=16,
            axes_dims_rope=(2, 2, 2, 2),
            guidance_embeds=False,
        ),
    )


def _qwen_image(dynamic: bool) -> Any:
    text = _text_settings(layers=2, rope_scaling={"type": "mrope", "mrope_section": [1, 1, 2]})
    settings = Qwen2_5_VLConfig(
        text_config=text, vision_config=_seen(out_hidden_size=WIDTH, fullatt_block_indexes=[0])
    )
    stretched = DYNAMIC | {"shift_terminal": 0.02}
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**(stretched if dynamic else {"shift": 3.0})),
        vae=_qwen_autoencoder(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(settings),
        tokenizer=tiny_language_tokenizer(),
        transformer=QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 2, 2),
        ),
    )


def _krea_2(dynamic: bool) -> Any:
    text = _text_settings(
        layers=3, rope_scaling={"rope_type": "default", "mrope_section": [2, 1, 1]}
    )
    vision = _seen(out_hidden_size=WIDTH, num_position_embeddings=16, deepstack_visual_indexes=[])
    settings = Qwen3VLConfig(text_config=text, vision_config=vision)
    return Krea2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**(DYNAMIC if dynamic else {"shift": 3.0})),
        vae=_qwen_autoencoder(),
        text_encoder=Qwen3VLModel(settings),
        tokenizer=tiny_language_tokenizer(),
        transformer=Krea2Transformer2DModel(
            in_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=32,
            timestep_embed_dim=16,
            text_hidden_dim=WIDTH,
            num_text_layers=2,
            text_num_attention_heads=2,
            text_num_key_value_heads=1,
            text_intermediate_size=16,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(4, 2, 2),
        ),
        text_encoder_select_layers=(1, 3),
    )


def save_tiny_flux_1(folder: Path, dynamic: bool = True, guidance_embeds: bool = True) -> Path:
    """Save an untrained FLUX.1 of 32 px pictures; without ``guidance_embeds`` it is a schnell."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer, (t5, tokenizer_2) = tiny_tokenizer(), tiny_t5(WIDTH)
        pipeline = FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(**(DYNAMIC if dynamic else {"shift": 3.0})),
            vae=kl_autoencoder(
                scaling_factor=0.36,
                shift_factor=0.12,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
            text_encoder=CLIPTextModel(tiny_clip_config(tokenizer, WIDTH, layers=2)),
            tokenizer=tokenizer,
            text_encoder_2=t5,
            tokenizer_2=tokenizer_2,
            transformer=FluxTransformer2DModel(
                in_channels=16,
                num_layers=1,
                num_single_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=WIDTH,
                pooled_projection_dim=WIDTH,
                guidance_embeds=guidance_embeds,
                axes_dims_rope=(2, 2, 4),
            ),
        )
        _as_large_as_trained(pipeline)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def _as_large_as_trained(pipeline: Any) -> None:
    with torch.no_grad():
        for weight in pipeline.transformer.parameters():
            weight.copy_(torch.randn_like(weight) / max(weight.shape[-1], 4) ** 0.5)


PIPELINES: dict[str, Callable[[bool], Any]] = {
    "z_image": _z_image,
    "flux_2_klein": _flux_2_klein,
    "qwen_image": _qwen_image,
    "krea_2": _krea_2,
}


def save_tiny_flow_model(folder: Path, family: str, dynamic: bool = True) -> Path:
    """Save an untrained pipeline of ``family``, for 32 px pictures, to ``folder``; return it.

    With ``dynamic`` its schedule depends on the picture's size. Weights are as large as trained
    ones, so that what a layer does shows.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = PIPELINES[family](dynamic)
        _as_large_as_trained(pipeline)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder
