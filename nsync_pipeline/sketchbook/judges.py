"""The judges: two small classifiers that say what a picture shows and in which style."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from nsync_pipeline.files import read_json
from nsync_pipeline.sketchbook.scene import COLOURS, OBJECTS
from nsync_pipeline.sketchbook.verdicts import LABELS, Verdicts

HEADS: dict[str, tuple[int, ...]] = {  # for each network, the outputs of its heads
    "content": (
        len(OBJECTS),
        len(OBJECTS) * len(COLOURS),
        len(LABELS["places"]),
        len(LABELS["skies"]),
    ),
    "style": (len(LABELS["styles"]),),
}


class JudgeNet(nn.Module):
    """A small convolutional network with one or more linear heads."""

    def __init__(self, width: int, heads: tuple[int, ...]) -> None:
        """`width` channels after the second layer, 4 times as many before the heads."""
        super().__init__()
        widths = [3, width // 2, width, 2 * width, 3 * width, 4 * width, 4 * width]
        strides = (2, 2, 2, 2, 1, 2)
        layers: list[nn.Module] = []
        for before, after, stride in zip(widths, widths[1:], strides, strict=False):
            layers += [
                nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*layers)
        self.heads = nn.ModuleList(nn.Linear(2 * widths[-1], outputs) for outputs in heads)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Logits of each head, (B, outputs), for (B, 3, 128, 128) pictures in -1..1."""
        maps = self.features(pictures)
        pooled = torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)
        return [head(pooled) for head in self.heads]


@dataclass(frozen=True)
class Judges:
    """Both networks, ready to judge."""

    content: JudgeNet
    style: JudgeNet

    @torch.no_grad()
    def judge(self, pictures: NDArray[np.uint8], batch: int = 128) -> Verdicts:
        """Judge (N, 128, 128, 3) RGB pictures."""
        device = next(self.content.parameters()).device
        rows: list[list[Tensor]] = []
        for start in range(0, len(pictures), batch):
            pixels = as_batch(pictures[start : start + batch], device)
            objects, colours, places, skies = self.content(pixels)
            (styles,) = self.style(pixels)
            colours = colours.reshape(-1, len(OBJECTS), len(COLOURS))
            choices = [of.softmax(-1) for of in (colours, places, skies, styles)]
            rows.append([objects.sigmoid(), *choices])
        joined = [torch.cat(parts).cpu().numpy() for parts in zip(*rows, strict=True)]
        return Verdicts(*joined)


def as_batch(pictures: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(B, H, W, 3) bytes to (B, 3, H, W) floats in -1..1, channels last."""
    batch = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return batch.contiguous(memory_format=torch.channels_last)


def build_judges(width: int) -> Judges:
    """Untrained judges."""
    return Judges(JudgeNet(width, HEADS["content"]), JudgeNet(width, HEADS["style"]))


def load_judges(folder: Path) -> Judges:
    """The judges of a folder that pretraining wrote, in float32.

    Raises:
        ValueError: they were trained on labels other than the world's of today.
    """
    described = read_json(folder / "judges.json")
    labels = {name: tuple(values) for name, values in described["labels"].items()}
    if labels != LABELS:
        raise ValueError(f"{folder} holds judges of other labels: {labels}; expected {LABELS}")
    judges = build_judges(described["width"])
    for name, net in (("content", judges.content), ("style", judges.style)):
        state = load_file(folder / f"{name}.safetensors")
        net.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        )
        net.eval()
    return judges
