"""The models of a family that can be adapted, and what a LoRA's file calls their layers."""

from dataclasses import dataclass

from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from nsync_pipeline.adaptation.trained_weights import WeightGroup
from nsync_pipeline.families.family import Family


@dataclass(frozen=True)
class AdaptedModel:
    """A denoiser or a text encoder."""

    component: str  # as a diffusers pipeline calls it: unet, transformer, text_encoder, ...
    model: nn.Module
    group: WeightGroup

    def key(self, layer: str) -> str:
        """What the file calls the layer that the model calls ``layer``."""
        # Older versions of transformers nest the model, and newer ones take such keys too.
        nested = self.group == "text_encoder" and not layer.startswith("text_model.")
        return f"{self.component}.text_model.{layer}" if nested else f"{self.component}.{layer}"


def denoiser_of(family: Family) -> AdaptedModel:
    """The family's denoiser."""
    return AdaptedModel(family.denoiser_prefix, family.denoiser, "denoiser")


def clip_encoders_of(family: Family) -> tuple[AdaptedModel, ...]:
    """The family's CLIP text encoders: those whose LoRA and token vectors diffusers can load."""
    kinds = (CLIPTextModel, CLIPTextModelWithProjection)
    return tuple(
        AdaptedModel(
            "text_encoder" if number == 1 else f"text_encoder_{number}", model, "text_encoder"
        )
        for number, model in enumerate(family.text_encoders, start=1)
        if isinstance(model, kinds)
    )


def adapted_models_of(family: Family) -> tuple[AdaptedModel, ...]:
    """All of them, the denoiser first."""
    return (denoiser_of(family), *clip_encoders_of(family))
