"""The judges' stage: trained on drawings of their own, blurred, noised and compressed a little."""

import io
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from nsync_pipeline.sketchbook.judges import Judges, as_batch, build_judges
from nsync_pipeline.sketchbook.scene import Scene
from nsync_pipeline.sketchbook.verdicts import LABELS
from pretraining.checkpoint import load_checkpoint, save_checkpoint
from pretraining.data import judged_data
from pretraining.schedule import (
    cosine_rate,
    set_rate,
    step_generator,
    training_device,
)
from pretraining.settings import PretrainingSettings
from pretraining.training_log import LOG_EVERY, training_log


def train_judges(settings: PretrainingSettings, work: Path, resume: bool) -> Judges:
    """Train both networks, or go on from the last checkpoint."""
    chosen = settings.judges
    described = f"{settings.seed} {settings.data.model_dump_json()} {chosen.model_dump_json()}"
    device = training_device()
    torch.manual_seed(settings.seed)
    judges = build_judges(chosen.width)
    nets = torch.nn.ModuleList([judges.content, judges.style]).to(device)
    nets.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(nets.parameters(), lr=chosen.learning_rate, weight_decay=0.02)
    path = work / "judges.pt"
    state = load_checkpoint(path, described, resume)
    start = 0
    if state is not None:
        nets.load_state_dict(state["judges"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    if start >= chosen.steps:
        nets.eval()
        return judges

    data = judged_data(work, settings.data.judged_pictures, settings.seed)
    objects, colours, places, skies = (torch.from_numpy(t) for t in scene_targets(data.scenes))
    styles = torch.tensor([LABELS["styles"].index(style) for style in data.styles])
    nets.train()
    with training_log("judges", chosen.steps, work, described) as log:
        for step in range(start, chosen.steps):
            rng = step_generator(settings.seed, "judges", step)
            picked = rng.choice(len(data.pictures), chosen.batch, replace=False)
            rows = torch.from_numpy(picked)
            worn = np.stack([worn_picture(picture, rng) for picture in data.pictures[picked]])
            pixels = as_batch(worn, device)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                said = [logits.float().cpu() for logits in judges.content(pixels)]
                said_style = judges.style(pixels)[0].float().cpu()
            colour_logits = said[1].reshape(len(rows), len(LABELS["objects"]), -1)
            losses = {
                "objects": F.binary_cross_entropy_with_logits(said[0], objects[rows]),
                "colours": _cross_entropy(colour_logits, colours[rows]),
                "places": F.cross_entropy(said[2], places[rows]),
                "skies": F.cross_entropy(said[3], skies[rows]),
                "styles": F.cross_entropy(said_style, styles[rows]),
            }
            set_rate(optimizer, cosine_rate(chosen.learning_rate, step, chosen.steps))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(torch.stack(list(losses.values())).sum())
            optimizer.step()
            done = step + 1
            if done % LOG_EVERY == 0 or done == chosen.steps:
                log.step(step, {name: value.item() for name, value in losses.items()})
            if done % settings.checkpoint_every == 0 or done == chosen.steps:
                save_checkpoint(
                    path,
                    {
                        "settings": described,
                        "step": done,
                        "judges": nets.state_dict(),
                        "optimizer": optimizer.state_dict(),
                    },
                )
    nets.eval()
    return judges


def save_judges(judges: Judges, width: int, folder: Path) -> None:
    """Both networks as float16 safetensors, and the labels' order."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, net in (("content", judges.content), ("style", judges.style)):
        state = {
            key: value.detach().half().contiguous() if value.is_floating_point() else value
            for key, value in net.state_dict().items()
        }
        save_file(state, folder / f"{name}.safetensors")
    described = {"width": width, "labels": LABELS}
    (folder / "judges.json").write_text(json.dumps(described, indent=2) + "\n")


def scene_targets(
    scenes: list[Scene],
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Presence (N, 8), colour (N, 8) with -100 where absent, place (N,) and sky (N,)."""
    presence = np.zeros((len(scenes), len(LABELS["objects"])), dtype=np.float32)
    colours = np.full(presence.shape, -100, dtype=np.int64)
    for row, scene in enumerate(scenes):
        for thing in scene.things:
            column = LABELS["objects"].index(thing.name)
            presence[row, column] = 1
            colours[row, column] = LABELS["colours"].index(thing.colour)
    places = np.array([LABELS["places"].index(scene.place) for scene in scenes])
    skies = np.array([LABELS["skies"].index(scene.sky) for scene in scenes])
    return presence, colours, places, skies


def worn_picture(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A (128, 128, 3) picture with mild blur, noise or compression, or as it is."""
    kind = float(rng.random())
    if kind < 0.3:
        blur = ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.9)))
        return np.asarray(Image.fromarray(picture).filter(blur))
    if kind < 0.55:
        noise = rng.standard_normal(picture.shape, dtype=np.float32) * rng.uniform(2, 14)
        return (picture + noise).clip(0, 255).astype(np.uint8)
    if kind < 0.7:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=int(rng.integers(35, 90)))
        return np.asarray(Image.open(buffer))
    return picture


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over the objects that are there; (B, 8, 7) logits, (B, 8) targets."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
