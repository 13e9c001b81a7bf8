"""The CLIP stage: pictures and prompts of the drawn world into one space."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from nsync_pipeline.sketchbook.canvas import PICTURE_SIZE
from nsync_pipeline.sketchbook.judges import as_batch
from pretraining.checkpoint import load_checkpoint, save_checkpoint
from pretraining.data import world_data
from pretraining.prompts import training_prompt
from pretraining.schedule import (
    cosine_rate,
    set_rate,
    step_generator,
    training_device,
)
from pretraining.settings import ClipSettings, PretrainingSettings
from pretraining.tokenizer import train_tokenizer
from pretraining.training_log import LOG_EVERY, training_log

MAX_LOGIT_SCALE = 4.6  # log 100


def build_clip(settings: ClipSettings, tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained CLIP whose text side fits the tokenizer."""
    both = {
        "hidden_size": settings.width,
        "intermediate_size": settings.feed_forward,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "projection_dim": settings.projection,
    }
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPModel(
        CLIPConfig(
            text_config={
                **both,
                **ends,
                "vocab_size": len(tokenizer),
                "max_position_embeddings": settings.text_length,
            },
            vision_config={**both, "image_size": PICTURE_SIZE, "patch_size": settings.patch},
            projection_dim=settings.projection,
        )
    )


def tokenized(tokenizer: CLIPTokenizer, prompts: list[str], whole_length: bool = True) -> Tensor:
    """(B, L) token ids, cut at the tokenizer's length and padded to it.

    Without `whole_length` they are padded to the longest prompt: the same to CLIP, whose text
    side looks back only and pools at the first end token, and less to compute.
    """
    encoded = tokenizer(
        prompts,
        padding="max_length" if whole_length else "longest",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )
    ids: Tensor = encoded.input_ids
    return ids


def train_clip(settings: PretrainingSettings, work: Path, resume: bool) -> CLIPModel:
    """Contrastive training on pictures and prompts, or go on from the last checkpoint."""
    chosen = settings.clip
    described = f"{settings.seed} {settings.data.model_dump_json()} {chosen.model_dump_json()}"
    device = training_device()
    torch.manual_seed(settings.seed)
    tokenizer = train_tokenizer(chosen.text_length)
    clip = build_clip(chosen, tokenizer).to(device)
    optimizer = torch.optim.AdamW(clip.parameters(), lr=chosen.learning_rate, weight_decay=0.02)
    path = work / "clip.pt"
    state = load_checkpoint(path, described, resume)
    start = 0
    if state is not None:
        clip.load_state_dict(state["clip"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    if start >= chosen.steps:
        return clip.eval()

    data = world_data(work, settings.data.world_pictures, settings.seed)
    clip.train()
    with training_log("clip", chosen.steps, work, described) as log:
        for step in range(start, chosen.steps):
            rng = step_generator(settings.seed, "clip", step)
            picked = rng.choice(len(data.pictures), chosen.batch, replace=False)
            prompts = [
                training_prompt(data.scenes[i].caption, data.styles[i], rng, allow_empty=False)
                for i in picked
            ]
            pixels = as_batch(data.pictures[picked], device)
            ids = tokenized(tokenizer, prompts, whole_length=False).to(device)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                output = clip(input_ids=ids, pixel_values=pixels)
            logits = output.logits_per_image.float()
            targets = torch.arange(len(logits), device=device)
            loss = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
            set_rate(optimizer, cosine_rate(chosen.learning_rate, step, chosen.steps))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                clip.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
            done = step + 1
            if done % LOG_EVERY == 0 or done == chosen.steps:
                hits = (logits.argmax(dim=1) == targets).float().mean()
                log.step(step, {"loss": loss.item(), "retrieval": hits.item()})
            if done % settings.checkpoint_every == 0 or done == chosen.steps:
                save_checkpoint(
                    path,
                    {
                        "settings": described,
                        "step": done,
                        "clip": clip.state_dict(),
                        "optimizer": optimizer.state_dict(),
                    },
                )
    return clip.eval()
