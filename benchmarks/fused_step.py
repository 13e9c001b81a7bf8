"""How long an optimizer step takes: one fused pass for all branches, passes in turn, plain LoRA.

    python benchmarks/fused_step.py [--model sketchbook] [--batch 1 2 4 8] [--rounds 9]

Times gradients and refinement of ``orthogonal_anchor`` (three branches) both ways, and of plain
LoRA (one branch), interleaved in one run so that the machine's moods meet all three alike; says
the medians, and the largest relative error of a fused gradient (over branches and weights).
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import add_lora
from nsync_pipeline.adaptation.lora_layers import ADAPTER
from nsync_pipeline.adaptation.trained_weights import TrainedWeights
from nsync_pipeline.contrast.branch_copies import BranchCopies
from nsync_pipeline.contrast.config import ContrastConfig
from nsync_pipeline.contrast.gradients import (
    BranchGradients,
    MicroBatch,
    gradients_fused,
    gradients_in_turn,
)
from nsync_pipeline.contrast.refiner import Refiner
from nsync_pipeline.contrast.rules import UpdateRule, branches_of
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.family import PromptEmbeds
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.families.stable_diffusion import LORA_TARGETS
from nsync_pipeline.training.batches import NoisyBatch, branch_losses

RULE: UpdateRule = "orthogonal_anchor"
BRANCHES = branches_of(RULE, ContrastConfig())


class UntrainedUNet:
    """A larger UNet, 13 million parameters, on 16 x 16 latents: no weights are needed."""

    name = "untrained"
    lora_targets = LORA_TARGETS
    latent_shape = (4, 16, 16)
    prompt_shape = (24, 128)

    def __init__(self) -> None:
        self.denoiser: nn.Module = UNet2DConditionModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            layers_per_block=2,
            block_out_channels=(64, 128, 192),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=128,
            attention_head_dim=4,
            norm_num_groups=16,
        ).requires_grad_(False)

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        prompts: PromptEmbeds,
        geometry: Tensor | None = None,
    ) -> Tensor:
        output: Tensor = self.denoiser(
            noisy, timesteps, encoder_hidden_states=prompts.tokens
        ).sample
        return output


@dataclass(frozen=True)
class Timing:
    """Seconds a step, medians over the rounds."""

    batch: int  # samples a branch
    plain: float
    in_turn: float
    fused: float
    error: float  # the largest relative error of a fused gradient


def main() -> None:
    arguments = parsed()
    torch.manual_seed(0)
    family, prompt_shape = loaded(arguments.model)
    lora = add_lora(family, LoraSettings(), torch.Generator().manual_seed(0))
    with torch.no_grad():  # away from the start, where the gradients of A are zero
        for weight in lora.weights:
            weight.normal_(std=0.05)
    parameters = sum(p.numel() for p in family.denoiser.parameters())
    print(
        f"{family.name}: {parameters / 1e6:.1f} M parameters, {lora.count / 1e3:.0f} k of them in "
        f"{len(lora.weights)} LoRA weights; {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, median of {arguments.rounds} rounds"
    )
    print(
        f"{'B':>3} {'plain LoRA':>12} {'in turn':>12} {'fused':>12} "
        f"{'fused/in turn':>14} {'fused/plain':>12} {'largest error':>14}"
    )
    for size in arguments.batch:
        timing = timed(family, lora, size, prompt_shape, arguments.rounds)
        print(
            f"{timing.batch:>3} {timing.plain:>10.3f} s {timing.in_turn:>10.3f} s "
            f"{timing.fused:>10.3f} s {timing.fused / timing.in_turn:>14.2f} "
            f"{timing.fused / timing.plain:>12.2f} {timing.error:>14.1e}",
            flush=True,
        )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", choices=("sketchbook", "untrained"), default="sketchbook")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 4, 8], metavar="B")
    parser.add_argument("--rounds", type=int, default=9, help="of each way, interleaved")
    return parser.parse_args()


def loaded(model: str) -> tuple[Any, tuple[int, int]]:
    """The base, and the shape (L, D) of an encoded prompt."""
    if model == "untrained":
        return UntrainedUNet(), UntrainedUNet.prompt_shape
    family = load_family(BaseModelConfig(name=model))
    tokens = family.encode_prompts([""]).tokens
    return family, (tokens.shape[1], tokens.shape[2])


def timed(
    family: Any, lora: TrainedWeights, size: int, prompt_shape: Sequence[int], rounds: int
) -> Timing:
    """Time one batch size; the first round warms up and is not counted."""
    batches = {branch: (random_batch(family, size, prompt_shape),) for branch in BRANCHES}
    losses = branch_losses(family, batches)
    whole = [MicroBatch(losses, 1.0)]
    copies = BranchCopies((family.denoiser,), lora.weights, ADAPTER)

    def plain() -> BranchGradients:
        return gradients_in_turn(lora.weights, ("positive",), whole)

    def in_turn() -> BranchGradients:
        return gradients_in_turn(lora.weights, BRANCHES, whole)

    def fused() -> BranchGradients:
        return gradients_fused(copies, BRANCHES, whole)

    shapes = [weight.shape for weight in lora.weights]
    plain_refiner = Refiner("none", ContrastConfig(), lora.names, shapes)
    refiner = Refiner(RULE, ContrastConfig(), lora.names, shapes)
    seconds: dict[str, list[float]] = {"plain": [], "in_turn": [], "fused": []}
    for _ in range(rounds + 1):
        seconds["plain"].append(elapsed(plain, plain_refiner))
        seconds["in_turn"].append(elapsed(in_turn, refiner))
        seconds["fused"].append(elapsed(fused, refiner))
    medians = {way: statistics.median(values[1:]) for way, values in seconds.items()}
    error = largest_error(fused(), in_turn())
    return Timing(size, medians["plain"], medians["in_turn"], medians["fused"], error)


def random_batch(family: Any, size: int, prompt_shape: Sequence[int]) -> NoisyBatch:
    return NoisyBatch(
        torch.randn(size, *family.latent_shape),
        torch.randint(1000, (size,)),
        PromptEmbeds(torch.randn(size, *prompt_shape)),
        torch.randn(size, *family.latent_shape),
    )


def elapsed(take: Callable[[], BranchGradients], refiner: Refiner) -> float:
    start = time.perf_counter()
    refiner(take().gradients)  # its norms are read, so a GPU has finished by then
    return time.perf_counter() - start


def largest_error(found: BranchGradients, expected: BranchGradients) -> float:
    return max(
        float((a - b).norm() / b.norm())
        for branch in BRANCHES
        for a, b in zip(found.gradients[branch], expected.gradients[branch], strict=True)
    )


if __name__ == "__main__":
    main()
