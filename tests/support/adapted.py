"""What is trained on a tiny family, away from its start; and what the family then predicts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nsync_pipeline.adaptation.trained_weights import TrainedWeights
from nsync_pipeline.families.family import Family

PROMPTS = ["a red house in the style of sks", "a tree"]


@torch.no_grad()
def moved(trained: TrainedWeights, by: float) -> TrainedWeights:
    """The same weights, each away from where it began: always as far."""
    generator = torch.Generator().manual_seed(1)
    for weight in trained.weights:
        weight.add_(torch.randn(weight.shape, generator=generator) * by)
    return trained


@torch.no_grad()
def predicted(family: Family, prompts: Sequence[str] = PROMPTS) -> Tensor:
    latents = torch.randn(2, *family.latent_shape, generator=torch.Generator().manual_seed(2))
    return family.predict(latents, torch.tensor([10, 700]), family.encode_prompts(prompts))
