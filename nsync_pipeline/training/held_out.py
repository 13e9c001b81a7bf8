"""The loss on pictures that are not trained on, always at the same noise and timesteps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nsync_pipeline.families.family import Family, PromptEmbeds
from nsync_pipeline.seeding import torch_stream
from nsync_pipeline.training.batches import noisy_batch, sample_losses
from nsync_pipeline.training.encoded_set import EncodedSet

MOST_PICTURES = 32
"""The loss is taken several times a training: these cost about as much as one step of it."""

AT_ONCE = 16


@dataclass(frozen=True)
class HeldOutLoss:
    """The mean positive loss of held-out ``examples``.

    Timesteps are spread evenly over the schedule, one a picture; each picture's noise comes from a
    stream of its id. So two values differ by the weights alone.
    """

    family: Family
    examples: EncodedSet
    seed: int

    @torch.no_grad()
    def __call__(self) -> float:
        """The loss with the denoiser's weights as they are now."""
        examples, schedule = self.examples, self.family.noise_schedule
        count = len(examples.ids)
        spread = (torch.arange(count) + 0.5) / count
        timesteps = (spread * len(schedule)).long()
        losses: list[Tensor] = []
        for start in range(0, count, AT_ONCE):
            rows = torch.arange(start, min(start + AT_ONCE, count))
            prompts: PromptEmbeds = examples.prompt_embeds.rows(rows)
            noise = torch.stack([self._noise(examples.ids[row]) for row in rows.tolist()])
            batch = noisy_batch(schedule, examples.latents[rows], noise, timesteps[rows], prompts)
            losses.append(sample_losses(self.family, batch).double().cpu())
        return float(torch.cat(losses).mean())

    def _noise(self, picture: str) -> Tensor:
        generator = torch_stream(self.seed, "held_out_noise", picture)
        return torch.randn(self.examples.latents.shape[1:], generator=generator)
