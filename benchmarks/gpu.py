"""Speed, memory and correctness on one accelerator: one table, and checks that pass or fail.

    python -m benchmarks.gpu [--minutes 9] [--models sd15 xl z_image klein qwen] [--tiny]

The denoisers are at their true size with random weights, and nothing is downloaded. Each row is one
model, in bfloat16 or with its matrices in int8: seconds of a training step of plain LoRA, of three
branches in turn and fused, of a guided step of the sampler, and the most memory of any. Rows
that the minutes do not suffice for are left out, and said so. Then, at tiny width: gradients fused
against in turn, bfloat16 against float32, losses scaled in float16, steps after a restart to the
bit, and on CUDA the times a step makes the host wait.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import by_turns
from benchmarks.true_size import TINY, training_step, untrained
from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import ADAPTER, add_lora
from nsync_pipeline.adaptation.trained_weights import TrainedWeights
from nsync_pipeline.contrast.branch_copies import BranchCopies
from nsync_pipeline.contrast.branch_gradients import (
    BranchGradients,
    MicroBatch,
    gradients_fused,
    gradients_in_turn,
)
from nsync_pipeline.contrast.config import NEGATIVE, POSITIVE, Branch
from nsync_pipeline.contrast.refiner import Refiner
from nsync_pipeline.determinism import deterministic_algorithms
from nsync_pipeline.families.family import PromptEmbeds
from nsync_pipeline.families.placement import Placement, choose_device
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.optimizer import (
    learning_rates,
    make_optimizer,
    restore,
    state_tensors,
    take_step,
)

MEASURED = ("lora", "in_turn", "fused", "sampling")
MOST_WAITS = 2  # of the host for the device, a step


def measured(model: str, name: str, options: list[str], seconds: float) -> dict[str, float] | str:
    """Of one measurement in a process of its own; why there is none."""
    command = [sys.executable, "-m", "benchmarks.true_size", "--rounds", "3", *options]
    try:
        done = subprocess.run(
            [*command, "--one", f"{model}:{name}"],
            capture_output=True, text=True, check=False, timeout=seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "out of time"
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        return "out of memory" if "memory" in reason.lower() else reason[:60]
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(model: str, options: list[str], until: float) -> str:
    """The model's measurements side by side."""
    found = {}
    for name in MEASURED:
        left = until - time.monotonic()
        found[name] = measured(model, name, options, left) if left > 0 else "out of time"
    whole = {name: of for name, of in found.items() if not isinstance(of, str)}
    cells = [f"{of['seconds']:.3f}" if not isinstance(of, str) else of for of in found.values()]
    ratio = "-"
    if {"in_turn", "fused"} <= whole.keys():
        ratio = f"{whole['in_turn']['seconds'] / whole['fused']['seconds']:.2f}"
    memory = f"{max(of['gibibytes'] for of in whole.values()):.1f} GiB" if whole else "-"
    return " | ".join([*cells, ratio, memory])


@dataclass(frozen=True)
class Tiny:
    """A model at tiny width, with a LoRA away from zero, and four samples: two a branch."""

    family: Any
    trained: TrainedWeights
    noise: Tensor  # (4, C, h, w)
    times: Tensor  # (4,)
    prompts: PromptEmbeds

    def losses(self, branches: Sequence[Branch]) -> Tensor:
        of = [torch.arange(2) + 2 * (branch == NEGATIVE) for branch in branches]
        rows = torch.cat(of)
        embeds = self.prompts.rows(rows)
        found = self.family.predict(self.noise[rows], self.times[rows], embeds)
        return torch.as_tensor(
            found.square().flatten(1).mean(dim=1).view(len(branches), -1).mean(dim=1)
        )

    def predicted(self) -> Tensor:
        with torch.no_grad():
            return torch.as_tensor(self.family.predict(self.noise, self.times, self.prompts))


def tiny(model: str, device: torch.device, dtype: torch.dtype) -> Tiny:
    """The same numbers whatever the type, but for its rounding."""
    torch.manual_seed(0)
    exact, family = (
        untrained(model, Placement(device, of), tiny=True) for of in (torch.float32, dtype)
    )
    family.denoiser.load_state_dict(exact.denoiser.state_dict())
    generator = torch.Generator().manual_seed(0)
    trained = add_lora(family, LoraSettings(rank=2), generator)
    with torch.no_grad():
        for weight in trained.weights:
            weight.add_(0.02)
    noise = torch.randn(4, *family.latent_shape, generator=generator)
    tokens = torch.randn(4, *family.prompt_shape, generator=generator)
    width = family.pooled_width
    pooled = torch.randn(4, width, generator=generator) if width else None
    times = torch.tensor([900, 600, 300, 50])
    return Tiny(family, trained, noise, times, PromptEmbeds(tokens, pooled))


BRANCHES = (POSITIVE, NEGATIVE)


def apart(one: BranchGradients, two: BranchGradients) -> float:
    """How far the gradients of the branch that differs most are apart, relative to the first's."""
    flat = [
        [torch.cat([g.flatten() for g in found.gradients[branch]]) for branch in BRANCHES]
        for found in (one, two)
    ]
    return max(float((a - b).norm() / a.norm()) for a, b in zip(*flat, strict=True))


def checks(models: list[str], device: torch.device) -> Iterator[tuple[str, bool, str]]:
    """What is checked, whether it holds, and by how much."""
    for model in models:
        single = tiny(model, device, torch.float32)
        parts = [MicroBatch(single.losses, 1.0)]
        in_turn = gradients_in_turn(single.trained.weights, BRANCHES, parts)
        copies = BranchCopies((single.family.denoiser,), single.trained.weights, ADAPTER)
        by = apart(in_turn, gradients_fused(copies, BRANCHES, parts))
        yield f"{model}: fused gradients are those in turn", by < 1e-3, f"{by:.1e}"
        rough = tiny(model, device, torch.bfloat16)
        whole = single.predicted()
        by = float((whole - rough.predicted()).norm() / whole.norm())
        yield f"{model}: bfloat16 predicts as float32", by < 0.05, f"{by:.1e}"
        half = tiny(model, device, torch.float16)
        parts = [MicroBatch(lambda of: half.losses(of) * 2.0**-16, 1.0)]  # noqa: B023
        scale = 2.0**16
        scaled = gradients_in_turn(half.trained.weights, BRANCHES, parts, loss_scale=scale)
        back = BranchGradients(
            scaled.losses,
            {b: tuple(g * scale for g in of) for b, of in scaled.gradients.items()},
        )
        by = apart(in_turn, back)
        yield f"{model}: small losses in float16, scaled, are float32's", by < 0.1, f"{by:.1e}"
    by = after_a_restart(models[0], device)
    yield f"{models[0]}: steps after a restart are those without, to the bit", by == 0, f"{by:.1e}"
    if device.type == "cuda":
        family = untrained(models[0], Placement(device, torch.bfloat16), tiny=True)
        step = training_step(family, "fused", 2, checkpointing=False)
        step()
        kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=kinds) as profile:
            step()
        waits = sum(event.count for event in profile.key_averages() if "Synchronize" in event.key)
        yield "host waits a step", waits <= MOST_WAITS, f"{waits}, at most {MOST_WAITS}"


def after_a_restart(model: str, device: torch.device) -> float:
    """The largest difference of weights after four steps, and after two, a restart and two."""
    settings = TrainingConfig()

    def steps(count: int, saved: dict[str, Tensor] | None, weights: list[Tensor]) -> Any:
        made = tiny(model, device, torch.bfloat16)
        trained, optimizer = made.trained, make_optimizer(made.trained, settings)
        if saved is not None:
            with torch.no_grad():
                for own, before in zip(trained.weights, weights, strict=True):
                    own.copy_(before)
            restore(optimizer, trained.weights, saved)
        refiner = Refiner(dict(zip(trained.names, trained.weights, strict=True)), "orthogonal")
        copies = BranchCopies((made.family.denoiser,), trained.weights, ADAPTER)
        for _ in range(count):
            found = gradients_fused(copies, BRANCHES, [MicroBatch(made.losses, 1.0)])
            gradient = refiner.of_branches(found.gradients).gradient
            take_step(optimizer, trained.weights, gradient, learning_rates(settings, 0))
        kept = [weight.detach().to("cpu", copy=True) for weight in trained.weights]
        return state_tensors(optimizer, trained.weights), kept

    with deterministic_algorithms():
        _, unbroken = steps(4, None, [])
        _, gone_on = steps(2, *steps(2, None, []))
    return max(float((a - b).abs().max()) for a, b in zip(unbroken, gone_on, strict=True))


def refinement(device: torch.device, numbers: int) -> float:
    """Seconds of one projection of three gradients of so many numbers, the median of five."""
    refiner = Refiner({"w": torch.nn.Parameter(torch.zeros(numbers))}, "orthogonal_anchor")
    gradients = {branch: [torch.randn(numbers, device=device)] for branch in refiner.branches}
    found = by_turns({"": lambda: refiner.of_branches(gradients)}, rounds=5)  # it waits itself
    return found[""].median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    usual = ["sd15", "xl", "z_image", "klein", "qwen"]
    parser.add_argument("--models", nargs="+", choices=tuple(TINY), default=usual)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--tiny", action="store_true", help="tiny widths: only to see that it runs")
    arguments = parser.parse_args()
    until, device = time.monotonic() + 60 * arguments.minutes, choose_device("auto")
    results = list(checks(arguments.models, device))
    name = torch.cuda.get_device_name() if device.type == "cuda" else "the CPU"
    print(f"on {name}, torch {torch.__version__}{', tiny widths' if arguments.tiny else ''}")
    print("model | type | lora s | in turn s | fused s | sampling s | in turn: fused | memory")
    for model in arguments.models:
        for kind, options in (("bfloat16", []), ("int8", ["--quantized"])):
            given = ["--dtype", "bfloat16", *options, *(["--tiny"] if arguments.tiny else [])]
            given += ["--checkpointing"] if model in ("z_image", "klein", "qwen", "krea_2") else []
            print(f"{model} | {kind} | {row(model, given, until)}", flush=True)
    numbers = 2**16 if arguments.tiny else 2**24
    print(f"refining three gradients of {numbers:,} numbers: {refinement(device, numbers):.4f} s")
    for what, holds, by in results:
        print(f"{'pass' if holds else 'FAIL'}: {what} ({by})")
    sys.exit(0 if all(holds for _, holds, _ in results) else 1)


if __name__ == "__main__":
    main()
