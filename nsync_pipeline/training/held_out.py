"""The loss on pictures that are not trained on, always at the same noise and timesteps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nsync_pipeline.contrast.host import in_float64
from nsync_pipeline.families.family import Family
from nsync_pipeline.seeding import torch_stream
from nsync_pipeline.training.batches import noisy_batch, sample_losses
from nsync_pipeline.training.encoded_set import EncodedSet

MOST_PICTURES = 32
"""The loss is taken several times a training: these cost about as much as one step of it."""

AT_ONCE = 16


@dataclass(frozen=True)
class HeldOutLoss:
    """The mean positive loss of held-out ``examples``: the plain squared error, unweighted.

    Timesteps are spread evenly over the schedule, one a picture; each picture's noise comes from a
    stream of its id. So two values differ by the weights alone, and trainings with other objectives
    can be compared by it.
    """

    family: Family
    examples: EncodedSet
    seed: int
    live_prompts: bool = False  # part of the text encoders is trained: encode prompts every time

    @torch.no_grad()
    def __call__(self) -> float:
        examples, schedule = self.examples, self.family.noise_schedule
        count = len(examples.ids)
        spread = (torch.arange(count) + 0.5) / count
        entries = (spread * len(schedule)).long()
        encode = (
            self.family.encode_prompts if self.live_prompts else examples.encoded_prompts.embeds
        )
        losses: list[Tensor] = []
        for rows in self._chunks():
            index = torch.tensor(rows)
            latents = examples.latents.stacked(rows)
            noise = torch.stack([self._noise(row) for row in rows])
            prompts = encode([examples.prompts[row] for row in rows])
            geometry = examples.geometry[index]
            sized = schedule.of_size(*latents.shape[2:])
            batch = noisy_batch(sized, latents, noise, entries[index], prompts, geometry)
            losses.append(in_float64(sample_losses(self.family, batch)).cpu())
        return float(torch.cat(losses).mean())

    def _chunks(self) -> list[list[int]]:
        """The pictures in chunks of one shape."""
        alike: dict[tuple[int, ...], list[int]] = {}
        for row, shape in enumerate(self.examples.shapes):
            alike.setdefault(shape, []).append(row)
        return [
            rows[start : start + AT_ONCE]
            for rows in alike.values()
            for start in range(0, len(rows), AT_ONCE)
        ]

    def _noise(self, row: int) -> Tensor:
        generator = torch_stream(self.seed, "held_out_noise", self.examples.ids[row])
        return torch.randn(self.examples.latents.shape(row), generator=generator)
