"""What a training changes: parameters by name, each in a group with a learning rate of its own."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

WeightGroup = Literal["denoiser", "text_encoder", "embedding"]


@dataclass(frozen=True)
class TrainedWeights:
    """The trained parameters, in the order that makes them one vector: by name."""

    names: tuple[str, ...]  # as in their file: unet.<module>.lora_A.weight
    weights: tuple[
        nn.Parameter, ...
    ]  # float32; A (r, in), B (out, r); of convolutions (.., kh, kw)
    groups: tuple[WeightGroup, ...]  # of each

    @property
    def count(self) -> int:
        """How many numbers are trained."""
        return sum(weight.numel() for weight in self.weights)

    @property
    def encode_prompts(self) -> bool:
        """Whether some of them take part in encoding prompts."""
        return any(group != "denoiser" for group in self.groups)
