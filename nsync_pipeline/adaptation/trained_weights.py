"""What a training changes: the models of a family that can be adapted, and their new weights."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from nsync_pipeline.families.family import Family

WeightGroup = Literal["denoiser", "text_encoder", "embedding"]
"""Each has a learning rate of its own."""


@dataclass(frozen=True)
class TrainedWeights:
    """The trained parameters, in the order that makes them one vector: by name."""

    names: tuple[str, ...]  # as in their file: unet.<module>.lora_A.weight
    weights: tuple[nn.Parameter, ...]
    """float32; A (r, in), B (out, r); of convolutions (.., kh, kw); token vectors (k, D)"""
    groups: tuple[WeightGroup, ...]  # of each

    @classmethod
    def of(cls, found: Iterable[tuple[str, nn.Parameter, WeightGroup]]) -> "TrainedWeights":
        """Of names, weights and groups in any order."""
        entries = sorted(found, key=lambda entry: entry[0])
        names, weights, groups = zip(*entries, strict=True) if entries else ((), (), ())
        return cls(names, weights, groups)

    @property
    def count(self) -> int:
        """How many numbers are trained."""
        return sum(weight.numel() for weight in self.weights)

    @property
    def encode_prompts(self) -> bool:
        """Whether some of them take part in encoding prompts."""
        return any(group != "denoiser" for group in self.groups)


@dataclass(frozen=True)
class AdaptedModel:
    """A denoiser or a text encoder."""

    component: str  # as a diffusers pipeline calls it: unet, transformer, text_encoder, ...
    model: nn.Module
    group: WeightGroup

    def key(self, layer: str) -> str:
        """What a LoRA's file calls the layer that the model calls ``layer``."""
        # Older versions of transformers nest the model, and newer ones take such keys too.
        nested = self.group == "text_encoder" and not layer.startswith("text_model.")
        return f"{self.component}.text_model.{layer}" if nested else f"{self.component}.{layer}"


def denoiser_of(family: Family) -> AdaptedModel:
    return AdaptedModel(family.denoiser_prefix, family.denoiser, "denoiser")


def clip_encoders_of(family: Family) -> tuple[AdaptedModel, ...]:
    """The family's CLIP text encoders: those whose LoRA and token vectors diffusers can load."""
    kinds = (CLIPTextModel, CLIPTextModelWithProjection)
    return tuple(
        AdaptedModel(f"text_encoder_{number}".removesuffix("_1"), model, "text_encoder")
        for number, model in enumerate(family.text_encoders, start=1)
        if isinstance(model, kinds)
    )


def adapted_models_of(family: Family) -> tuple[AdaptedModel, ...]:
    """All of them, the denoiser first."""
    return (denoiser_of(family), *clip_encoders_of(family))
