"""Which way of taking the branches is faster on this machine, by steps of both.

It is measured here and not within a training: the two ways agree but for rounding, and a training
whose way hung on what else the machine did that minute would not be the same to the byte. What is
measured becomes a line in ``params.yaml``, which is kept with what was trained.
"""

import time
from collections.abc import Callable, Iterator
from statistics import median

import torch

from nsync_pipeline.adaptation.lora import ADAPTER
from nsync_pipeline.adaptation.trainables import add_trainables, remove_trained
from nsync_pipeline.contrast.branch_copies import BranchCopies, NotFusableError
from nsync_pipeline.contrast.branch_gradients import (
    MicroBatch,
    gradients_fused,
    gradients_in_turn,
    out_of_memory,
)
from nsync_pipeline.contrast.config import branches_of
from nsync_pipeline.doctor import Finding, State
from nsync_pipeline.errors import UserError
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.params import Params
from nsync_pipeline.training.batches import NoisyBatch, branch_losses
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.loop import checkpointed_activations

SUBJECT = "Branches"
ROUNDS = 5  # of each way in turn; the median counts
CLEARLY = 1.05  # times as fast, from which on a way is proposed


def branch_findings(params: Params) -> Iterator[Finding]:
    """A finding for each variant of several branches; the base model is loaded."""
    contrastive = {
        name: training
        for name in params.variants
        for training in (params.variant(name),)
        if len(branches_of(training.update_rule, training.contrast).ordered) > 1
    }
    if not contrastive:
        yield Finding(State.OK, SUBJECT, "no variant has more than one")
        return
    try:
        family = load_family(params.base_model)
        for name, training in contrastive.items():
            yield _finding(name, training, *step_seconds(family, training, ROUNDS))
            remove_trained(family)
    except UserError as error:
        yield Finding(State.WARN, SUBJECT, f"cannot be measured: {error}", "see base_model")


def step_seconds(
    family: Family, training: TrainingConfig, rounds: int
) -> tuple[float | str, float | str]:
    """Seconds of a micro-batch's gradients fused and in turn; or why there are none."""
    inversion = training.textual_inversion
    # An existing LoRA to start from changes no time.
    lora = training.lora and training.lora.model_copy(update={"start_from": None})
    trained = add_trainables(family, lora, inversion, torch.Generator().manual_seed(0))
    branches = branches_of(training.update_rule, training.contrast).ordered
    batches = {branch: [_batch(family, training, trained.encode_prompts)] for branch in branches}
    parts = [MicroBatch(branch_losses(family, batches), 1.0)]
    modules, weights = (family.denoiser, *family.text_encoders), trained.weights

    def fused(copies: BranchCopies) -> None:
        gradients_fused(copies, branches, parts)

    ways: list[Callable[[], object] | str]
    try:
        copies = BranchCopies(modules, weights, ADAPTER)
        ways = [lambda: fused(copies), lambda: gradients_in_turn(weights, branches, parts)]
    except NotFusableError as reason:
        ways = [str(reason), lambda: gradients_in_turn(weights, branches, parts)]
    seconds: list[list[float]] = [[], []]
    failed: dict[int, str] = {n: way for n, way in enumerate(ways) if isinstance(way, str)}
    with checkpointed_activations(family, training.gradient_checkpointing):
        for turn in range(rounds + 1):  # the first warms up
            for number, way in enumerate(ways):
                if number in failed or isinstance(way, str):
                    continue
                try:
                    taken = _timed(way, family.device)
                except (RuntimeError, MemoryError) as error:
                    if not out_of_memory(error):
                        raise
                    failed[number] = "it does not fit in memory"
                    continue
                if turn:
                    seconds[number].append(taken)
    found = [failed.get(number) or median(seconds[number]) for number in range(2)]
    return found[0], found[1]


def _batch(family: Family, training: TrainingConfig, live_prompts: bool) -> NoisyBatch:
    """Noise of the usual size: no picture is read."""
    count = training.batch_size
    latents = torch.randn(count, *family.latent_shape, generator=torch.Generator().manual_seed(0))
    prompts = tuple(["a house by the sea"] * count)
    times = family.noise_schedule.timesteps[torch.full((count,), len(family.noise_schedule) // 2)]
    told = prompts if live_prompts else family.encode_prompts(prompts)
    return NoisyBatch(latents, times, told, latents.flip(-1))


def _timed(way: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _finding(
    variant: str, training: TrainingConfig, fused: float | str, in_turn: float | str
) -> Finding:
    """What to set, and why."""
    asked = training.branches
    key = f"training.branches, or branches of the variant {variant}"
    if isinstance(in_turn, str):
        told = f"{variant}: a branch at a time {in_turn}"
        return Finding(State.WARN, SUBJECT, told, "see the line on memory above")
    if isinstance(fused, str):
        told = f"{variant}: in turn {in_turn:.3f} s a pass; all at once: {fused}"
        best = "in_turn"
    else:
        told = f"{variant}: all at once {fused:.3f} s a pass of {training.batch_size}, in turn "
        told += f"{in_turn:.3f} s"
        ratio = in_turn / fused
        best = "fused" if ratio >= CLEARLY else "in_turn" if ratio <= 1 / CLEARLY else asked
    if asked == best or (asked, best) == ("auto", "fused"):
        return Finding(State.OK, SUBJECT, f"{told}; {asked} is right")
    return Finding(State.WARN, SUBJECT, told, f"set {key}, to {best} (results agree but for bits)")
