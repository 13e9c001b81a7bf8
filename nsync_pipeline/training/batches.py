"""From triplets to the noisy batches of the branches, and their losses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from itertools import chain
from typing import Any, Literal, cast

import torch
from torch import Tensor

from nsync_pipeline.adaptation.dropout import set_dropout_rows
from nsync_pipeline.contrast.branch_gradients import BranchLosses
from nsync_pipeline.contrast.config import ANCHOR, NEGATIVE, POSITIVE, Branch, UpdateRule
from nsync_pipeline.diffusion.config import ObjectiveConfig
from nsync_pipeline.diffusion.draws import SHARED, draw
from nsync_pipeline.diffusion.objectives import (
    min_snr_weights,
    noisy_latents,
    per_sample_loss,
    prediction_target,
    scales_at,
)
from nsync_pipeline.errors import TrainingError
from nsync_pipeline.families.family import Family, NoiseSchedule, PromptEmbeds
from nsync_pipeline.families.noise_schedules import use_zero_terminal_snr
from nsync_pipeline.seeding import stream_seed
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.encoded_set import EncodedSet
from nsync_pipeline.training.triplets import Triplet


def apply_objective(family: Family, objective: ObjectiveConfig) -> None:
    """Give ``family`` the noise schedule of ``objective``.

    Raises:
        TrainingError: the objective is not defined for what the base predicts.
    """
    if objective.zero_terminal_snr:
        use_zero_terminal_snr(family)
    predicts = family.noise_schedule.prediction_type
    if objective.timestep_sampling == "style_friendly" and predicts != "flow":
        raise TrainingError(
            "training.objective.timestep_sampling: style_friendly is for models trained by flow "
            f"matching, and {family.name} predicts {predicts}: set it to uniform, and timestep_min "
            "to 0.3, say"
        )
    loss_weights(family.noise_schedule, objective)


def loss_weights(schedule: NoiseSchedule, objective: ObjectiveConfig) -> Tensor | None:
    """The weight of each of the schedule's entries, (T,) float64; None where all weigh alike.

    Raises:
        TrainingError: the objective is not defined for what the base predicts.
    """
    if objective.min_snr_gamma is None:
        return None
    return min_snr_weights(
        schedule.prediction_type, schedule.signal, schedule.noise, objective.min_snr_gamma
    )


@dataclass(frozen=True)
class NoisyBatch:
    """What the denoiser is given of one branch, and what it should say; latents of one shape."""

    noisy_latents: Tensor  # (B, C, h, w)
    timesteps: Tensor  # (B,) as the denoiser is told them
    prompts: PromptEmbeds | tuple[str, ...]  # B; texts are encoded in the loss, with gradients
    target: Tensor  # (B, C, h, w)
    geometry: Tensor | None = None  # (B, 6) int64
    weights: Tensor | None = None  # (B,) of each sample's loss
    objective: ObjectiveConfig | None = None  # None: the squared error
    other_target: Tensor | None = None  # (B, C, h, w) of the negative, noised by the same noise
    dropout: tuple[int, ...] = ()  # B seeds of what the LoRA does not see; empty: it sees all

    def each_tensor(self, change: Callable[[Tensor], Tensor]) -> "NoisyBatch":
        """The same with each of its tensors changed, those of the prompts, too."""
        return cast(NoisyBatch, _each_tensor(self, change))


def _each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, NoisyBatch | PromptEmbeds):
        own: dict[str, Any] = {one.name: getattr(value, one.name) for one in fields(value)}
        return replace(value, **{k: _each_tensor(v, change) for k, v in own.items()})
    return value


@dataclass(frozen=True)
class BatchMaker:
    """Makes the noisy batches of a training; the same arguments give the same batch."""

    examples: EncodedSet
    noise_schedule: NoiseSchedule
    seed: int
    shared_noise: bool  # a triplet's branches share timestep and noise
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    live_prompts: bool = False  # prompts are encoded in the loss: part of their encoder is trained
    rule: UpdateRule = "orthogonal"
    drops: bool = False  # the LoRA has dropout
    flips: Literal["together", "each"] | None = None  # `training.random_flip`

    def batch(
        self, branch: Branch, step: int, triplets: Sequence[Triplet]
    ) -> tuple[NoisyBatch, ...]:
        """The batch of ``branch`` for ``triplets`` of optimizer step ``step``: one a shape.

        The shapes, and how many samples each has, are the same in all branches.
        """
        alike: dict[tuple[int, ...], list[Triplet]] = {}
        for triplet in triplets:
            shape = self.examples.latents.shape(triplet.positive)
            alike.setdefault(shape, []).append(triplet)
        return tuple(self._of_one_shape(branch, step, group) for group in alike.values())

    def _of_one_shape(self, branch: Branch, step: int, triplets: Sequence[Triplet]) -> NoisyBatch:
        pictures = branch
        if self.rule == "class_preservation":  # both branches are of the same noisy picture
            pictures = POSITIVE
        latents, geometry = self._latents(pictures, step, triplets)
        schedule, objective = self.noise_schedule.of_size(*latents.shape[2:]), self.objective
        stream = SHARED if self.shared_noise else str(pictures)
        positions, shape = [triplet.position for triplet in triplets], latents.shape[1:]
        draws = draw(
            self.seed, stream, step, positions, shape, len(schedule), objective, schedule.noise
        )
        entries = draws.entries
        texts = [self._prompt(branch, triplet) for triplet in triplets]
        live = self.live_prompts
        prompts = tuple(texts) if live else self.examples.encoded_prompts.embeds(texts)
        weights = None if self._weights is None else self._weights[entries].float()
        made = noisy_batch(
            schedule, latents, draws.noise, entries, prompts, geometry, weights, objective
        )
        if self.drops:
            seeds = [stream_seed(self.seed, "lora dropout", stream, step, p) for p in positions]
            made = replace(made, dropout=tuple(seeds))
        if self.rule != "contrastive_target":
            return made
        others, _ = self._latents(NEGATIVE, step, triplets)
        target = noisy_batch(schedule, others, draws.noise, entries, prompts).target
        return replace(made, other_target=target)

    @cached_property
    def _weights(self) -> Tensor | None:
        return loss_weights(self.noise_schedule, self.objective)

    def _latents(
        self, branch: Branch, step: int, triplets: Sequence[Triplet]
    ) -> tuple[Tensor, Tensor]:
        """Latents (B, C, h, w) and geometry (B, 6) of the branch's pictures."""
        found = [self._picture(branch, step, triplet) for triplet in triplets]
        latents, geometry = zip(*found, strict=True)
        return torch.stack(latents), torch.stack(geometry)

    def _picture(self, branch: Branch, step: int, triplet: Triplet) -> tuple[Tensor, Tensor]:
        examples = self.examples
        if self.flips is not None:
            assert examples.mirrored is not None, "mirror images are encoded where flips are drawn"
            stream = SHARED if self.flips == "together" else str(branch)
            if stream_seed(self.seed, "random flip", stream, step, triplet.position) % 2:
                examples = examples.mirrored
        if branch.is_negative:
            number = triplet.negatives[branch.number]
            row = examples.negative_row(triplet.negatives_of, number)
            return examples.negative_latents[row], examples.negative_geometry[row]
        row = triplet.anchor if branch == ANCHOR else triplet.positive
        return examples.latents[row], examples.geometry[row]

    def _prompt(self, branch: Branch, triplet: Triplet) -> str:
        """The picture's own; a negative's is about the picture that it was drawn for."""
        examples = self.examples
        if triplet.prompt_form == "empty":
            return ""
        if triplet.prompt_form == "style_only":
            phrases = examples.style_prompts
            return phrases.negative if branch.is_negative else phrases.positive
        if branch.is_negative:
            wordings = examples.negative_wordings[triplet.negatives_of]
        else:
            wordings = examples.wordings[triplet.anchor if branch == ANCHOR else triplet.positive]
        return wordings[triplet.wording % len(wordings)]


def batch_maker(
    examples: EncodedSet, family: Family, settings: TrainingConfig, seed: int, live_prompts: bool
) -> BatchMaker:
    schedule, shared = family.noise_schedule, settings.shared_noise
    drops = settings.lora is not None and settings.lora.dropout > 0
    return BatchMaker(
        examples, schedule, seed, shared, settings.objective, live_prompts, settings.update_rule,
        drops, settings.random_flip,
    )  # fmt: skip


def noisy_batch(
    schedule: NoiseSchedule,
    latents: Tensor,
    noise: Tensor,
    entries: Tensor,
    prompts: PromptEmbeds | tuple[str, ...],
    geometry: Tensor | None = None,
    weights: Tensor | None = None,
    objective: ObjectiveConfig | None = None,
) -> NoisyBatch:
    """Noise ``latents`` by the schedule's ``entries`` (B,), and say what is to be predicted."""
    of_both = (schedule.signal, schedule.noise)
    scales = [scales_at(entries, scale, like=latents) for scale in of_both]
    return NoisyBatch(
        noisy_latents(latents, noise, *scales),
        schedule.timesteps[entries],
        prompts,
        prediction_target(schedule.prediction_type, latents, noise, *scales),
        geometry,
        weights,
        objective,
    )


def sample_losses(family: Family, batch: NoisyBatch) -> Tensor:
    """The loss of each sample, (B,)."""
    return losses_of(predicted(family, batch), batch)


def predicted(family: Family, batch: NoisyBatch) -> Tensor:
    """What the denoiser says, (B, C, h, w)."""
    prompts = batch.prompts
    if batch.dropout:
        set_dropout_rows(family, batch.dropout)
    embeds = prompts if isinstance(prompts, PromptEmbeds) else family.embed_prompts(prompts)
    return family.predict(batch.noisy_latents, batch.timesteps, embeds, batch.geometry)


def losses_of(prediction: Tensor, batch: NoisyBatch) -> Tensor:
    """The loss of each sample, (B,), of what was predicted."""
    losses = per_sample_loss(prediction, batch.target.to(prediction.device), batch.objective)
    return losses if batch.weights is None else losses * batch.weights.to(losses)


def branch_losses(family: Family, batches: Mapping[Branch, Sequence[NoisyBatch]]) -> BranchLosses:
    """The mean loss of each branch asked for, by one pass a shape over their batches stacked."""

    def losses(branches: Sequence[Branch]) -> Tensor:
        count, shapes = len(branches), zip(*(batches[branch] for branch in branches), strict=True)
        whole = (stacked(parts, family.device) for parts in shapes)
        found = [sample_losses(family, batch).view(count, -1) for batch in whole]
        return torch.cat(found, dim=1).mean(dim=1)

    return losses


def stacked(parts: Sequence[NoisyBatch], device: torch.device) -> NoisyBatch:
    """One batch of the branches' ``parts``, in their order, on its way to ``device``.

    A GPU is not waited for where they lie in pinned memory, nor for what was asked of it before.
    """
    to_device = partial(Tensor.to, device=device, non_blocking=device.type == "cuda")
    parts = [part.each_tensor(to_device) for part in parts]
    embeds = [part.prompts for part in parts if isinstance(part.prompts, PromptEmbeds)]
    texts = [part.prompts for part in parts if not isinstance(part.prompts, PromptEmbeds)]
    prompts = PromptEmbeds.cat(embeds) if embeds else tuple(chain.from_iterable(texts))
    return NoisyBatch(
        torch.cat([part.noisy_latents for part in parts]),
        torch.cat([part.timesteps for part in parts]),
        prompts,
        torch.cat([part.target for part in parts]),
        _joined([part.geometry for part in parts]),
        _joined([part.weights for part in parts]),
        parts[0].objective,
        dropout=tuple(chain.from_iterable(part.dropout for part in parts)),
    )


def _joined(tensors: Sequence[Tensor | None]) -> Tensor | None:
    there = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(there) if there else None
