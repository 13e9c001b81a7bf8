"""Why a training does as it does: what of its change is bound to what its pictures share, and what
each way of drawing makes of that change.

With ``b`` the frozen base's prediction, ``l`` that with the LoRA, ``c`` a styled prompt, ``0`` the
empty one and ``d(.) = l(.) - b(.)`` the LoRA's change, at pictures that no training has seen,
noised at some entries of the schedule:

- *cut*: the share of the base's loss that the LoRA takes away, ``1 - sum l / sum l0``, on pictures
  of the style that have the confound and on such that have not. What it takes away less of the
  latter is *bound* to the confound: ``1 - cut of the others / cut of those that share it``. By the
  prompts' words alone: how long ``d(c)`` is at an unconfounded prompt against a confounded one, at
  the same noisy picture.
- *gain*: a way of drawing goes along ``v``, the base's own guidance along
  ``u = b(0) + g (b(c) - b(0))``. What the LoRA adds to the step is ``v - u``; its gain is
  ``<v - u, d(c)> / |d(c)|^2``, how many times the change itself it is, while content has ``g``
  times its own. Of ``difference`` it is the weight, of ``base_empty`` at strength 1 ``g``, and of
  ordinary guidance ``g - (g - 1) <d(0), d(c)> / |d(c)|^2``: about 1, where the LoRA changes the
  empty prompt as it changes the styled one.

All is taken at noised pictures, not along a drawing's own path.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nsync_pipeline.adaptation.in_use import as_base, at_strength, changes_prompts
from nsync_pipeline.drawing.config import ORDINARY, GuidanceConfig
from nsync_pipeline.drawing.guidance import EncodedPrompts, Guidance, Part
from nsync_pipeline.drawing.prompts import styled_prompt
from nsync_pipeline.families.family import Family, PromptEmbeds
from nsync_pipeline.seeding import torch_stream
from nsync_pipeline.training.batches import NoisyBatch, losses_of, noisy_batch, predicted

SHARES_OF_NOISE = (0.3, 0.6, 0.9)
"""Where in the schedule: early in it there is little noise."""


@dataclass(frozen=True)
class Shown:
    """Pictures of the style, and what they show."""

    images: Sequence[Image.Image]
    captions: Sequence[str]


@dataclass(frozen=True)
class AtNoise:
    """What is found at one entry of the schedule; None where it is not defined."""

    noise: float  # the share of the schedule
    cut_others: float
    cut_sharing: float | None
    cut_others_unstyled: float  # asked for without the style phrase
    cut_sharing_unstyled: float | None
    bound: float | None  # by the pictures
    length_by_words: float | None  # of d(c), at an unconfounded prompt over a confounded one
    cosine: float | None  # of d(c) and d(0)
    length: float  # of d(c) over what the prompt changes of the base, |b(c) - b(0)|
    gains: Mapping[str, float | None]  # by way of drawing
    parts: Mapping[str, float]  # |v - u| over |g (b(c) - b(0))|: the LoRA's part against content


@torch.no_grad()
def diagnose(
    family: Family,
    others: Shown,
    sharing: Shown | None,
    word: str,
    ways: Mapping[str, GuidanceConfig],
    scale: float,
    seed: int,
    noises: Sequence[float] = SHARES_OF_NOISE,
) -> list[AtNoise]:
    """At each share of the schedule.

    Args:
        family: with its LoRA loaded.
        others: as many pictures without the confound as ``sharing`` has with it.
        sharing: None where the set has no confound.
        word: what prompts call the style.
        ways: of drawing, by name.
        scale: of guidance.
        seed: of the noise.
        noises: shares of the schedule.
    """
    measured = _Measured(family, word, scale, seed)
    encoded = _Encoded.of(family, others)
    with_it = None if sharing is None else _Encoded.of(family, sharing)
    return [measured.at(noise, encoded, with_it, ways) for noise in noises]


@dataclass(frozen=True)
class _Encoded:
    latents: Tensor  # (N, C, h, w)
    captions: Sequence[str]

    @classmethod
    def of(cls, family: Family, shown: Shown) -> "_Encoded":
        pixels = pixels_of(shown.images, family.resolution)
        return cls(family.encode_pictures(pixels).cpu(), shown.captions)


@dataclass(frozen=True)
class _Measured:
    family: Family
    word: str
    scale: float
    seed: int

    def at(
        self,
        noise: float,
        others: _Encoded,
        sharing: _Encoded | None,
        ways: Mapping[str, GuidanceConfig],
    ) -> AtNoise:
        styled, plain = (self._cut(noise, others, style) for style in (True, False))
        shared = shared_plain = bound = words = None
        noisy, timesteps = self._noisy(noise, others)
        of_empty = self._change(noisy, timesteps, [""] * len(others.captions))
        prompts = [styled_prompt(caption, self.word) for caption in others.captions]
        of_prompt = self._change(noisy, timesteps, prompts)
        if sharing is not None:
            shared, shared_plain = (self._cut(noise, sharing, style) for style in (True, False))
            bound = None if abs(shared) < 1e-9 else 1.0 - styled / shared
            confounded = [styled_prompt(caption, self.word) for caption in sharing.captions]
            words = _ratio(of_prompt.change, self._change(noisy, timesteps, confounded).change)
        content = of_prompt.base - of_empty.base
        added = {
            name: self._step(noisy, timesteps, prompts, way)
            - self._step(noisy, timesteps, prompts, None)
            for name, way in ways.items()
        }
        change = of_prompt.change
        return AtNoise(
            noise=noise,
            cut_others=styled,
            cut_sharing=shared,
            cut_others_unstyled=plain,
            cut_sharing_unstyled=shared_plain,
            bound=bound,
            length_by_words=words,
            cosine=_mean(_inner(change, of_empty.change), _norm(change) * _norm(of_empty.change)),
            length=_ratio(change, content) or 0.0,
            gains={
                name: _mean(_inner(part, change), _inner(change, change))
                for name, part in added.items()
            },
            parts={name: _ratio(part, self.scale * content) or 0.0 for name, part in added.items()},
        )

    def _noisy(self, noise: float, shown: _Encoded) -> tuple[Tensor, Tensor]:
        batch = self._batch(noise, shown, shown.captions)
        return batch.noisy_latents, batch.timesteps

    def _batch(self, noise: float, shown: _Encoded, prompts: Sequence[str]) -> NoisyBatch:
        family, latents = self.family, shown.latents
        schedule = family.noise_schedule.of_size(*latents.shape[2:])
        entries = torch.full((len(latents),), round(noise * (len(schedule) - 1)))
        drawn = [
            torch.randn(latents.shape[1:], generator=torch_stream(self.seed, "diagnosis", row))
            for row in range(len(latents))
        ]
        embeds = family.encode_prompts(list(prompts))
        return noisy_batch(schedule, latents, torch.stack(drawn).to(latents), entries, embeds)

    def _cut(self, noise: float, shown: _Encoded, styled: bool) -> float:
        """The share of the base's loss that the LoRA takes away."""
        prompts = [styled_prompt(c, self.word) if styled else c for c in shown.captions]
        own = self._batch(noise, shown, prompts)
        with as_base(self.family):
            base = self._batch(noise, shown, prompts)
            before = losses_of(predicted(self.family, base), base).double().sum()
        after = losses_of(predicted(self.family, own), own).double().sum()
        return 1.0 - float(after / before)

    def _change(self, noisy: Tensor, timesteps: Tensor, prompts: Sequence[str]) -> "_Change":
        with as_base(self.family):
            base = self._predicted(noisy, timesteps, prompts)
        return _Change(base, self._predicted(noisy, timesteps, prompts) - base)

    def _predicted(self, noisy: Tensor, timesteps: Tensor, prompts: Sequence[str]) -> Tensor:
        embeds = self.family.encode_prompts(list(prompts))
        return self.family.predict(noisy, timesteps, embeds).double().cpu()

    def _step(
        self, noisy: Tensor, timesteps: Tensor, prompts: Sequence[str], way: GuidanceConfig | None
    ) -> Tensor:
        """What a step goes along; ``way`` None: the base's own guidance."""
        if way is None:
            with as_base(self.family):
                return self._step(noisy, timesteps, prompts, ORDINARY)
        guidance = Guidance(way, self.scale)
        with at_strength(self.family, way.lora_strength):
            embeds = self._encoded(guidance, prompts)
            count = len(guidance.parts)
            with guidance.in_one_pass(self.family):
                said = self.family.predict(
                    torch.cat([noisy] * count), torch.cat([timesteps] * count), embeds
                )
        return guidance.direction(said.double().cpu(), self.family.guided)

    def _encoded(self, guidance: Guidance, prompts: Sequence[str]) -> PromptEmbeds:
        own = self._by_text([*prompts, ""])
        base = own
        if guidance.by_base and changes_prompts(self.family):
            with as_base(self.family):
                base = self._by_text([*prompts, ""])
        parts: Sequence[Part] = guidance.parts
        return EncodedPrompts(own, base).of(parts, prompts)

    def _by_text(self, prompts: Sequence[str]) -> dict[str, PromptEmbeds]:
        return {prompt: self.family.encode_prompts([prompt]) for prompt in dict.fromkeys(prompts)}


@dataclass(frozen=True)
class _Change:
    base: Tensor  # (N, C, h, w) what the frozen base predicts
    change: Tensor  # what the LoRA adds


def pixels_of(images: Sequence[Image.Image], side: int) -> Tensor:
    """(N, 3, side, side) within -1 and 1."""
    squares = [np.asarray(image.convert("RGB").resize((side, side))) for image in images]
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(dim=1)


def _norm(a: Tensor) -> Tensor:
    length: Tensor = a.flatten(1).norm(dim=1)
    return length


def _ratio(a: Tensor, b: Tensor) -> float | None:
    return _mean(_norm(a), _norm(b))


def _mean(above: Tensor, below: Tensor) -> float | None:
    """The mean of the pictures' ratios; None where all are of nothing."""
    there = below > 0
    return float((above[there] / below[there]).mean()) if bool(there.any()) else None
