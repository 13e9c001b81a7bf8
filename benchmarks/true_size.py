"""What a step costs at the true sizes: Stable Diffusion 1.5 (860 M weights), XL (2.6 G), 3 (2 G),
Z-Image (6 G), FLUX.1 (12 G), FLUX.2 klein (4 G), Krea 2 (13 G) and Qwen-Image (20 G).

    python -m benchmarks.true_size [--models sd15 xl sd3] [--dtype bfloat16] [--batch 1]
                                   [--rounds 5] [--checkpointing] [--compile] [--quantized] [--tiny]
                                   [--count]

Denoisers and VAEs are built from their settings, with random weights: how long a step takes and how
much memory does not depend on the numbers. Each measurement has a process of its own, so that its
peak of memory is its own. Measured are

- a training step of plain LoRA (one branch), and of ``orthogonal_anchor`` (three branches) with a
  pass a branch and with one pass for all: losses, gradients, refinement and AdamW, LoRA of rank 8
  on the family's default layers; images a second are positives;
- a step of the sampler with guidance (two predictions a picture), and decoding; images a second
  are those of 20 such steps, or decoded.

``--count`` measures nothing: it counts multiplications and additions of a pass of one sample, on
shapes alone, which takes no memory and no accelerator.

On a CUDA device, memory is what PyTorch allocated at most; on the CPU, the process's resident peak.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import (
    AutoencoderKL,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    Krea2Transformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    ZImageTransformer2DModel,
)
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import ADAPTER, add_lora
from nsync_pipeline.contrast.branch_copies import BranchCopies
from nsync_pipeline.contrast.branch_gradients import MicroBatch, gradients_fused, gradients_in_turn
from nsync_pipeline.contrast.config import ContrastConfig, UpdateRule, branches_of
from nsync_pipeline.contrast.refiner import Refiner
from nsync_pipeline.families.config import Quantization
from nsync_pipeline.families.family import PromptEmbeds
from nsync_pipeline.families.flux_1 import Flux1
from nsync_pipeline.families.flux_2_klein import Flux2Klein
from nsync_pipeline.families.krea_2 import Krea2
from nsync_pipeline.families.placement import (
    Placement,
    choose_device,
    choose_dtype,
    compile_in_place,
)
from nsync_pipeline.families.qwen_image import QwenImage
from nsync_pipeline.families.stable_diffusion import StableDiffusion
from nsync_pipeline.families.stable_diffusion_3 import StableDiffusion3
from nsync_pipeline.families.stable_diffusion_xl import StableDiffusionXL
from nsync_pipeline.families.z_image import ZImage
from nsync_pipeline.training.batches import NoisyBatch, branch_losses

RULE: UpdateRule = "orthogonal_anchor"
SAMPLER_STEPS = 20
PROMPT_TOKENS = 96  # of a caption, as a language model counts
MEASUREMENTS = {
    "lora": "plain LoRA, training step",
    "in_turn": "NSYNC, a pass a branch",
    "fused": "NSYNC, one pass",
    "sampling": "sampler's step, guided",
    "decoding": "decoding",
}

SD15: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768}
XL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD3: dict[str, Any] = {
    "sample_size": 128,
    "num_layers": 24,
    "num_attention_heads": 24,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
    "out_channels": 16,
}
KLEIN: dict[str, Any] = {
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "guidance_embeds": False,
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
TINY: dict[str, dict[str, Any]] = {
    "sd15": {"block_out_channels": (32,) * 4, "sample_size": 16},
    "xl": {
        "block_out_channels": (32,) * 3,
        "sample_size": 8,
        "transformer_layers_per_block": 1,
        "attention_head_dim": 4,
    },
    "sd3": {
        "num_layers": 2,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "caption_projection_dim": 16,
        "sample_size": 8,
    },
    "z_image": {
        "dim": 64, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2,
        "axes_dims": [8, 12, 12],
    },
    "flux_1": {
        "num_layers": 1, "num_single_layers": 2, "num_attention_heads": 2,
        "attention_head_dim": 32, "axes_dims_rope": (8, 12, 12),
    },
    "klein": {
        "num_layers": 1, "num_single_layers": 2, "num_attention_heads": 2,
        "attention_head_dim": 32, "axes_dims_rope": (8, 8, 8, 8),
    },
    "krea_2": {
        "num_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "attention_head_dim": 32, "intermediate_size": 64, "axes_dims_rope": (8, 12, 12),
        "text_intermediate_size": 64,
    },
    "qwen": {
        "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 32,
        "axes_dims_rope": (8, 12, 12),
    },
}  # fmt: skip
"""For a look at whether it runs; nothing is learnt from its times."""


def untrained(model: str, placement: Placement, tiny: bool) -> Any:
    """A family that predicts as the real one, without text encoders."""
    clip, told = (77, 768), PROMPT_TOKENS
    kinds: dict[str, tuple[Any, Any, dict[str, Any], int, tuple[int, ...], int]] = {
        "sd15": (StableDiffusion, UNet2DConditionModel, SD15, 4, clip, 0),
        "xl": (StableDiffusionXL, UNet2DConditionModel, XL, 4, (77, 2048), 1280),
        "sd3": (StableDiffusion3, SD3Transformer2DModel, SD3, 16, (77 + 256, 4096), 2048),
        "z_image": (ZImage, ZImageTransformer2DModel, {}, 16, (told, 2560), 0),
        "flux_1": (
            Flux1, FluxTransformer2DModel, {"guidance_embeds": True}, 16, (512, 4096), 768,
        ),
        "klein": (Flux2Klein, Flux2Transformer2DModel, KLEIN, 128, (512, 7680), 0),
        "krea_2": (Krea2, Krea2Transformer2DModel, {}, 16, (told, 12, 2560), 0),
        "qwen": (QwenImage, QwenImageTransformer2DModel, {}, 16, (told, 3584), 0),
    }  # fmt: skip
    family_class, denoiser_class, settings, channels, prompt_shape, pooled = kinds[model]
    family = object.__new__(family_class)
    family.name = model
    family.device, family.dtype = placement.device, placement.dtype
    family._placement = placement
    family.text_encoders = ()
    family.pixels_per_latent = 8
    config = settings | (TINY[model] if tiny else {})
    side = config.get("sample_size") or (8 if tiny else 64 if model == "klein" else 128)
    family.latent_shape = (channels, side, side)
    family.prompt_shape, family.pooled_width = prompt_shape, pooled
    family.denoiser = with_random_weights(lambda: denoiser_class(**config), placement)
    if placement.quantization is not None:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        quantize_(family.denoiser, Int8WeightOnlyConfig())
        family.quantization = placement.quantization
    if placement.compile:
        compile_in_place(family.denoiser)
    return family


def with_random_weights(build: Callable[[], nn.Module], placement: Placement) -> nn.Module:
    """The model, never held in a larger number type or on another device than it is for."""
    with init_empty_weights(include_buffers=False):
        model = build()
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.ndim > 1:
                real = torch.empty(weight.shape, dtype=placement.dtype, device=placement.device)
                real.normal_(std=weight[0].numel() ** -0.5)
            else:
                value = 1.0 if name == "weight" else 0.0
                real = torch.full(
                    weight.shape, value, dtype=placement.dtype, device=placement.device
                )
            setattr(module, name, nn.Parameter(real, requires_grad=False))
    return model.to(placement.device, placement.dtype).eval()


def prompts(family: Any, count: int) -> PromptEmbeds:
    pooled = torch.randn(count, family.pooled_width) if family.pooled_width else None
    return PromptEmbeds(torch.randn(count, *family.prompt_shape), pooled)


def training_step(family: Any, way: str, batch: int, checkpointing: bool) -> Callable[[], object]:
    """One optimizer step; its norms are read, so a GPU has finished when it returns."""
    rule: UpdateRule = "none" if way == "lora" else RULE
    branches = branches_of(rule, ContrastConfig()).ordered
    lora = add_lora(family, LoraSettings(rank=8, alpha=8.0), torch.Generator().manual_seed(0))
    if checkpointing:
        family.denoiser.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(lora.weights, lr=1e-4)
    refiner = Refiner(dict(zip(lora.names, lora.weights, strict=True)), rule)
    batches = {
        branch: (
            NoisyBatch(
                torch.randn(batch, *family.latent_shape),
                torch.randint(1000, (batch,)),
                prompts(family, batch),
                torch.randn(batch, *family.latent_shape),
            ),
        )
        for branch in branches
    }
    whole = [MicroBatch(branch_losses(family, batches), 1.0)]
    copies = BranchCopies((family.denoiser,), lora.weights, ADAPTER)

    def step() -> None:
        if way == "fused":
            found = gradients_fused(copies, branches, whole)
        else:
            found = gradients_in_turn(lora.weights, branches, whole)
        refined = refiner.of_branches(found.gradients)
        for weight, gradient in zip(lora.weights, refined.gradient, strict=True):
            weight.grad = gradient
        optimizer.step()
        waited_for(lora.weights[0])

    return step


def sampling_step(family: Any, batch: int) -> Callable[[], object]:
    latents = torch.randn(2 * batch, *family.latent_shape, device=family.device)
    timesteps = torch.full((2 * batch,), 500, device=family.device)
    embeds = prompts(family, 2 * batch)

    @torch.no_grad()
    def step() -> None:
        empty, prompted = family.predict(latents, timesteps, embeds).chunk(2)
        waited_for(empty + 5.0 * (prompted - empty))

    return step


def decoding(family: Any, batch: int, tiny: bool) -> Callable[[], object]:
    """In float32 and slice by slice, as pictures of this size are."""
    channels = family.latent_shape[0]
    settings = (
        VAE | {"latent_channels": channels} | ({"block_out_channels": (32,) * 4} if tiny else {})
    )
    family.denoiser = None
    place = Placement(family.device, torch.float32)
    vae: Any = with_random_weights(lambda: AutoencoderKL(**settings), place)
    vae.enable_slicing()
    latents = torch.randn(batch, *family.latent_shape, device=family.device)

    @torch.no_grad()
    def step() -> None:
        waited_for(vae.decode(latents).sample)

    return step


def counted(model: str, tiny: bool) -> tuple[int, int, int]:
    """Weights; and the arithmetic of one sample: a pass forward, and a branch of a training."""
    family = untrained(model, Placement(torch.device("meta"), torch.bfloat16), tiny)
    lora = add_lora(family, LoraSettings(rank=16), torch.Generator().manual_seed(0))
    noise, embeds = torch.randn(1, *family.latent_shape), prompts(family, 1)

    def predicted() -> Tensor:
        return torch.as_tensor(family.predict(noise, torch.tensor([500]), embeds))

    with FlopCounterMode(display=False) as forward, torch.no_grad():
        predicted()
    with FlopCounterMode(display=False) as branch:
        torch.autograd.grad(predicted().square().mean(), lora.weights, materialize_grads=True)
    weights = sum(w.numel() for w in family.denoiser.parameters() if not w.requires_grad)
    return weights, forward.get_total_flops(), branch.get_total_flops()


def waited_for(tensor: Tensor) -> None:
    """Until its numbers are there."""
    tensor.flatten()[0].item()


def measure(arguments: argparse.Namespace, model: str, name: str) -> dict[str, float]:
    """Seconds and memory of one measurement, in this process."""
    device = choose_device(arguments.device)
    dtype = choose_dtype(arguments.dtype, device)
    torch.manual_seed(0)
    quantization: Quantization | None = "int8" if arguments.quantized else None
    place = Placement(device, dtype, compile=arguments.compile, quantization=quantization)
    family = untrained(model, place, arguments.tiny)
    parameters = sum(weight.numel() for weight in family.denoiser.parameters())
    batch = arguments.batch
    if name == "sampling":
        step = sampling_step(family, batch)
    elif name == "decoding":
        step = decoding(family, batch, arguments.tiny)
    else:
        step = training_step(family, name, batch, arguments.checkpointing)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(arguments.warmup + arguments.rounds):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB on Linux
    median = statistics.median(seconds[arguments.warmup :])
    steps = SAMPLER_STEPS if name == "sampling" else 1
    return {
        "parameters": parameters,
        "seconds": median,
        "images_a_second": batch / (median * steps),
        "gibibytes": peak / 2**30,
    }


def main() -> None:
    arguments = parsed()
    if arguments.one:
        model, name = arguments.one.split(":")
        print(json.dumps(measure(arguments, model, name)))
        return
    if arguments.count:
        print("model      weights   a pass, a branch: TFLOP")
        for model in arguments.models:
            weights, *ways = counted(model, arguments.tiny)
            cells = "".join(f" {way / 1e12:>8.1f}" for way in ways)
            print(f"{model:<8} {weights / 1e6:>7,.0f} M{cells}", flush=True)
        return
    device = choose_device(arguments.device)
    where = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"{torch.get_num_threads()} CPU threads"
    )
    print(
        f"{where}, {choose_dtype(arguments.dtype, device)}, batch {arguments.batch}, median of "
        f"{arguments.rounds} rounds, torch {torch.__version__}"
        + (", gradient checkpointing" if arguments.checkpointing else "")
        + (", compiled" if arguments.compile else "")
    )
    print(
        f"{'model':<6} {'weights':>8}  {'what':<26} {'a step':>10} {'images/s':>9} {'memory':>10}"
    )
    for model in arguments.models:
        for name in arguments.measure:
            print(row(model, name), flush=True)


def row(model: str, name: str) -> str:
    """One measurement, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.true_size", *sys.argv[1:]]
    command += ["--one", f"{model}:{name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    what = f"{model:<6} {'':>8}  {MEASUREMENTS[name]:<26}"
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or [f"ended with {done.returncode}"]
        return f"{what} failed: {reason[0][:120]}"
    found = json.loads(done.stdout.splitlines()[-1])
    weights = f"{found['parameters'] / 1e6:,.0f} M"
    return (
        f"{model:<6} {weights:>8}  {MEASUREMENTS[name]:<26} {found['seconds']:>8.3f} s "
        f"{found['images_a_second']:>9.3g} {found['gibibytes']:>6.1f} GiB"
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    models, measurements = tuple(TINY), tuple(MEASUREMENTS)
    dtypes = ("auto", "float32", "bfloat16", "float16")
    parser.add_argument("--models", nargs="+", choices=models, default=["sd15", "xl"])
    parser.add_argument("--measure", nargs="+", choices=measurements, default=list(measurements))
    parser.add_argument("--dtype", choices=dtypes, default="auto")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    parser.add_argument("--batch", type=int, default=1, help="pictures; positives in training")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1, help="rounds that are not counted")
    parser.add_argument("--checkpointing", action="store_true", help="of the gradients")
    parser.add_argument("--compile", action="store_true", help="the denoiser, by torch.compile")
    parser.add_argument("--quantized", action="store_true", help="the denoiser in int8 (torchao)")
    parser.add_argument("--tiny", action="store_true", help="tiny widths: only to see that it runs")
    parser.add_argument("--count", action="store_true", help="arithmetic, on shapes alone")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
