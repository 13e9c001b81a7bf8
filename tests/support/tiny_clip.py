"""A tiny untrained CLIP as transformers saves it: the real class, a few thousand weights."""

import json
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

from tests.support.tiny_models import WIDTH, tiny_tokenizer

TINY_SIDE = 16
"""Pixels a side of what the tiny CLIP looks at."""

MEAN, DEVIATION = (0.5, 0.4, 0.3), (0.25, 0.25, 0.5)


def save_tiny_clip(folder: Path, seed: int = 0) -> Path:
    """Save an untrained ``CLIPModel`` with tokenizer and preprocessing, and return its folder."""
    tokenizer = tiny_tokenizer()
    both = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2}  # fmt: skip
    ends = {
        f"{end}_token_id": getattr(tokenizer, f"{end}_token_id") for end in ("bos", "eos", "pad")
    }
    config = CLIPConfig(
        text_config={**both, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 32},
        vision_config={**both, "image_size": TINY_SIDE, "patch_size": 8},
        projection_dim=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    preprocessing = {
        "crop_size": {"height": TINY_SIDE, "width": TINY_SIDE},
        "image_mean": list(MEAN),
        "image_std": list(DEVIATION),
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return folder
