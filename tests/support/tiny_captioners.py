"""Tiny untrained vision-language models with their processors, laid out as on the hub.

Their weights are large, so that what they answer depends on the picture they are shown. Texts are
spelled out byte by byte.
"""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>", "<img>", "</img>", "<video>",
    "<image>",
)  # fmt: skip
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LETTERS = "aeioudlnrst"
SPREAD = 0.6
"""Standard deviation of the weights."""


def save_tiny_internvl(folder: Path, seed: int = 0) -> Path:
    """An InternVL of 16 px tiles, each of 4 image tokens, and its processor; returns ``folder``."""
    tokenizer = _tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    config = InternVLConfig(
        vision_config={
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16, "image_size": [16, 16], "patch_size": [4, 4],
        },
        text_config={"model_type": "qwen2", **_text_settings(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )  # fmt: skip
    _save(folder, InternVLForConditionalGeneration, config, tokenizer, seed)
    GotOcr2ImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    # The hub's files name the processing by torchvision.
    settings = folder / "preprocessor_config.json"
    named = settings.read_text().replace("GotOcr2ImageProcessor", "GotOcr2ImageProcessorFast")
    settings.write_text(named)
    _write(folder, "<IMG_CONTEXT>", image_seq_length=4, processor_class="InternVLProcessor")
    return folder


def save_tiny_llava(folder: Path, seed: int = 0) -> Path:
    """A LLaVA of 16 px pictures and its processor; returns ``folder``."""
    tokenizer = _tokenizer(image_token="<image>")
    config = LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model", "hidden_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 2, "intermediate_size": 16, "image_size": 16, "patch_size": 4,
            "projection_dim": 16,
        },
        text_config={"model_type": "llama", **_text_settings(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )  # fmt: skip
    _save(folder, LlavaForConditionalGeneration, config, tokenizer, seed)
    CLIPImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    ).save_pretrained(folder)
    _write(
        folder,
        "<image>",
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        processor_class="LlavaProcessor",
    )
    return folder


def _tokenizer(**named: str) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*alphabet, *SPECIAL])}
    model = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=model,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=named,
    )


def _text_settings(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": len(tokenizer),
        "max_position_embeddings": 4096, "tie_word_embeddings": False,
    }  # fmt: skip


def _save(
    folder: Path, kind: Any, config: Any, tokenizer: PreTrainedTokenizerFast, seed: int
) -> None:
    model = kind(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.0, SPREAD, generator=generator)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    # So that it says letters, and never ends by itself.
    vocabulary = tokenizer.get_vocab().items()
    model.generation_config.suppress_tokens = [i for text, i in vocabulary if text not in LETTERS]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write(folder: Path, image_token: str, **processor: Any) -> None:
    (folder / "processor_config.json").write_text(json.dumps(processor))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE.replace("IMAGE", image_token))
