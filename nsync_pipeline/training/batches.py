"""From triplets to the noisy batches of the branches, and their losses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nsync_pipeline.contrast.gradients import BranchLosses
from nsync_pipeline.contrast.rules import Branch
from nsync_pipeline.diffusion.draws import SHARED, draw
from nsync_pipeline.diffusion.noising import noisy_latents, scales_at
from nsync_pipeline.diffusion.objectives import per_sample_loss, prediction_target
from nsync_pipeline.families.family import Family, NoiseSchedule, PromptEmbeds
from nsync_pipeline.training.encoded_set import EncodedSet
from nsync_pipeline.training.triplets import Triplet


@dataclass(frozen=True)
class NoisyBatch:
    """What the denoiser is given of one branch, and what it should say."""

    noisy_latents: Tensor  # (B, C, h, w)
    timesteps: Tensor  # (B,) as the denoiser is told them
    prompt_embeds: PromptEmbeds  # B rows
    target: Tensor  # (B, C, h, w)


@dataclass(frozen=True)
class BatchMaker:
    """Makes the noisy batches of a training; the same arguments give the same batch."""

    examples: EncodedSet
    noise_schedule: NoiseSchedule
    seed: int
    shared_noise: bool  # a triplet's branches share timestep and noise

    def batch(self, branch: Branch, step: int, triplets: Sequence[Triplet]) -> NoisyBatch:
        """The batch of ``branch`` for ``triplets`` of optimizer step ``step``."""
        latents = self._latents(branch, triplets)
        schedule = self.noise_schedule
        draws = draw(
            self.seed,
            SHARED if self.shared_noise else branch,
            step,
            [triplet.position for triplet in triplets],
            latents.shape[1:],
            len(schedule),
        )
        return noisy_batch(
            schedule, latents, draws.noise, draws.timesteps, self._prompts(branch, triplets)
        )

    def _latents(self, branch: Branch, triplets: Sequence[Triplet]) -> Tensor:
        examples = self.examples
        if branch == "negative":
            rows = [examples.negative_row(t.positive, t.negative) for t in triplets]
            return examples.negative_latents[torch.tensor(rows)]
        return examples.latents[torch.tensor(_pictures(branch, triplets))]

    def _prompts(self, branch: Branch, triplets: Sequence[Triplet]) -> PromptEmbeds:
        """Each picture's own prompt; a negative has its positive's."""
        examples = self.examples
        pictures = _pictures(branch, triplets)
        parts = [
            examples.empty_prompt_embeds if t.drop_caption else examples.prompt_embeds.rows(_row(p))
            for p, t in zip(pictures, triplets, strict=True)
        ]
        return PromptEmbeds.cat(parts)


def noisy_batch(
    schedule: NoiseSchedule,
    latents: Tensor,
    noise: Tensor,
    entries: Tensor,
    prompt_embeds: PromptEmbeds,
) -> NoisyBatch:
    """Noise ``latents`` by the schedule's ``entries`` (B,), and say what is to be predicted."""
    scales = [
        scales_at(entries, scale, like=latents) for scale in (schedule.signal, schedule.noise)
    ]
    return NoisyBatch(
        noisy_latents(latents, noise, *scales),
        schedule.timesteps[entries],
        prompt_embeds,
        prediction_target(schedule.prediction_type, latents, noise, *scales),
    )


def sample_losses(family: Family, batch: NoisyBatch) -> Tensor:
    """The loss of each sample, (B,)."""
    prediction = family.predict(batch.noisy_latents, batch.timesteps, batch.prompt_embeds)
    return per_sample_loss(prediction, batch.target.to(prediction.device))


def branch_losses(family: Family, batches: Mapping[Branch, NoisyBatch]) -> BranchLosses:
    """The mean loss of each branch asked for, by one pass over their batches stacked."""

    def losses(branches: Sequence[Branch]) -> Tensor:
        parts = [batches[branch] for branch in branches]
        stacked = NoisyBatch(
            torch.cat([part.noisy_latents for part in parts]),
            torch.cat([part.timesteps for part in parts]),
            PromptEmbeds.cat([part.prompt_embeds for part in parts]),
            torch.cat([part.target for part in parts]),
        )
        return sample_losses(family, stacked).view(len(parts), -1).mean(dim=1)

    return losses


def _pictures(branch: Branch, triplets: Sequence[Triplet]) -> list[int]:
    return [triplet.anchor if branch == "anchor" else triplet.positive for triplet in triplets]


def _row(index: int) -> Tensor:
    return torch.tensor([index])
