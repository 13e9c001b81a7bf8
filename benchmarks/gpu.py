"""Speed, memory and correctness on one accelerator: one table, and checks that pass or fail.

    python -m benchmarks.gpu [--minutes 9] [--models sd15 xl z_image klein qwen] [--tiny]

The denoisers are at their true size with random weights, and nothing is downloaded. Each row is one
model, in bfloat16 or with its matrices in int8: seconds of a training step of plain LoRA, of three
branches in turn and fused, of a guided step of the sampler, and the most memory of any. Rows
that the minutes do not suffice for are left out, and said so. Then, at tiny width: gradients fused
against in turn, bfloat16 against float32, and on CUDA the times a step makes the host wait.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator

import torch

from benchmarks.true_size import TINY, training_step, untrained
from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import ADAPTER, add_lora
from nsync_pipeline.contrast.branch_copies import BranchCopies
from nsync_pipeline.contrast.branch_gradients import MicroBatch, gradients_fused, gradients_in_turn
from nsync_pipeline.contrast.config import NEGATIVE, POSITIVE, Branch
from nsync_pipeline.families.family import PromptEmbeds
from nsync_pipeline.families.placement import Placement, choose_device

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


def checks(models: list[str], device: torch.device) -> Iterator[tuple[str, bool, str]]:
    """What is checked, whether it holds, and by how much."""
    for model in models:
        single, half = (
            untrained(model, Placement(device, dtype), tiny=True)
            for dtype in (torch.float32, torch.bfloat16)
        )
        half.denoiser.load_state_dict(single.denoiser.state_dict())
        generator = torch.Generator().manual_seed(0)
        trained = add_lora(single, LoraSettings(rank=2), generator)
        with torch.no_grad():
            for weight in trained.weights:
                weight.add_(0.02)
        noise = torch.randn(4, *single.latent_shape, generator=generator)
        tokens = torch.randn(4, *single.prompt_shape, generator=generator)
        width = single.pooled_width
        pooled = torch.randn(4, width, generator=generator) if width else None
        times = torch.tensor([900, 600, 300, 50])

        def losses(branches: tuple[Branch, ...]) -> torch.Tensor:
            rows = torch.cat([torch.arange(2) + 2 * (branch == NEGATIVE) for branch in branches])
            embeds = PromptEmbeds(tokens[rows], None if pooled is None else pooled[rows])  # noqa: B023
            found = single.predict(noise[rows], times[rows], embeds)  # noqa: B023
            return torch.as_tensor(
                found.square().flatten(1).mean(dim=1).view(len(branches), -1).mean(dim=1)
            )

        branches = (POSITIVE, NEGATIVE)
        parts = [MicroBatch(losses, 1.0)]  # type: ignore[arg-type]
        in_turn = gradients_in_turn(trained.weights, branches, parts)
        copies = BranchCopies((single.denoiser,), trained.weights, ADAPTER)
        fused = gradients_fused(copies, branches, parts)
        worst = 0.0
        for branch in branches:
            one, two = (
                torch.cat([g.flatten() for g in found.gradients[branch]])
                for found in (in_turn, fused)
            )
            worst = max(worst, float((one - two).norm() / one.norm()))
        yield f"{model}: fused gradients are those in turn", worst < 1e-3, f"{worst:.1e}"
        with torch.no_grad():
            for weight in trained.weights:
                weight.zero_()
            embeds = PromptEmbeds(tokens, pooled)
            whole, rough = (f.predict(noise, times, embeds) for f in (single, half))
        apart = float((whole - rough).norm() / whole.norm())
        yield f"{model}: bfloat16 predicts as float32", apart < 0.05, f"{apart:.1e}"
    if device.type == "cuda":
        family = untrained(models[0], Placement(device, torch.bfloat16), tiny=True)
        step = training_step(family, "fused", 2, checkpointing=False)
        step()
        kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=kinds) as profile:
            step()
        waits = sum(event.count for event in profile.key_averages() if "Synchronize" in event.key)
        yield "host waits a step", waits <= MOST_WAITS, f"{waits}, at most {MOST_WAITS}"


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
    for what, holds, by in results:
        print(f"{'pass' if holds else 'FAIL'}: {what} ({by})")
    sys.exit(0 if all(holds for _, holds, _ in results) else 1)


if __name__ == "__main__":
    main()
