"""A straightforward contrastive training step, to measure this project's against.

As one writes it first, and as the method's authors train: in every step, each of the three branches
is a pass of its own, with its pictures encoded by the VAE and its prompts by the text encoder, a
backward pass into `.grad`, and a copy of the gradients; then rule `orthogonal_anchor` over all
trained numbers as one vector, clipping and AdamW. What is trained is a LoRA, or, as the authors do,
the text encoder's whole token table, of which one row is the style's.

Pictures are decoded once, before: only what a step computes is compared. Timesteps and noise are
those this project draws, so that both can be seen to compute the same step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nsync_pipeline.diffusion.draws import draw
from nsync_pipeline.families.family import Family
from nsync_pipeline.training.triplets import Triplet

BRANCHES = ("positive", "negative", "anchor")


@dataclass(frozen=True)
class Taken:
    """What a step computed, before the optimizer."""

    losses: dict[str, float]
    norm: float  # of the refined gradient


@dataclass
class StraightforwardLoop:
    """Takes steps on the ``weights`` of ``family``."""

    family: Family
    weights: Sequence[nn.Parameter]
    pictures: Sequence[Tensor]  # (3, H, W) in [-1, 1]
    negatives: Sequence[Tensor]  # the same; one a picture
    prompts: Sequence[str]
    seed: int
    trains_prompts: bool  # the weights are the text encoder's
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.weights, lr=1e-4)

    def step(self, number: int, triplets: Sequence[Triplet]) -> Taken:
        """Optimizer step ``number`` on ``triplets``."""
        losses, gradients = {}, {}
        for branch in BRANCHES:
            loss = self._loss(branch, number, triplets)
            loss.backward()  # type: ignore[no-untyped-call]
            losses[branch] = loss.item()
            gradients[branch] = torch.cat([w.grad.flatten() for w in self.weights])  # type: ignore[union-attr]
            self.optimizer.zero_grad()
        positive, negative, anchor = (gradients[branch] for branch in BRANCHES)
        refined = positive - projection(positive, negative) + projection(positive, anchor)
        parts = torch.split(refined, [weight.numel() for weight in self.weights])
        for weight, part in zip(self.weights, parts, strict=True):
            weight.grad = part.view_as(weight).clone()
        norm = torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return Taken(losses, norm.item())

    def _loss(self, branch: str, number: int, triplets: Sequence[Triplet]) -> Tensor:
        places = [t.anchor if branch == "anchor" else t.positive for t in triplets]
        shown = self.negatives if branch == "negative" else self.pictures
        latents = self.family.encode_pictures(torch.stack([shown[place] for place in places]))
        texts = [self.prompts[place] for place in places]
        with torch.set_grad_enabled(self.trains_prompts):
            embeds = self.family.embed_prompts(texts)
        schedule = self.family.noise_schedule
        positions = [triplet.position for triplet in triplets]
        draws = draw(self.seed, branch, number, positions, latents.shape[1:], len(schedule))
        noise = draws.noise.to(latents.device)
        signal, sigma = (
            scale[draws.entries].to(latents)[:, None, None, None]
            for scale in (schedule.signal, schedule.noise)
        )
        target = noise
        if schedule.prediction_type == "v_prediction":
            target = signal * noise - sigma * latents
        noisy = signal * latents + sigma * noise
        prediction = self.family.predict(noisy, schedule.timesteps[draws.entries], embeds)
        return F.mse_loss(prediction, target.to(prediction.device))


def projection(a: Tensor, b: Tensor) -> Tensor:
    """``a.b / b.b * b``."""
    return torch.dot(a, b) / torch.dot(b, b).clamp(min=1e-30) * b
