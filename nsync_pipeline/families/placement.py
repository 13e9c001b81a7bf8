"""Where a base model's weights lie, and in which number type."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch._dynamo.backends.registry import lookup_backend

from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.config import BaseModelConfig, Quantization

SLICED_FROM = 512  # pixels a side from which the VAE takes pictures one by one, if not set


@dataclass(frozen=True)
class Placement:
    """What a family is told about the machine."""

    device: torch.device
    dtype: torch.dtype  # of the denoiser, and of the largest text encoder where there are three
    offload: bool = False
    group_offload: bool = False
    release_text_encoders: bool = False
    quantization: Quantization | None = None
    vae_slicing: bool | None = None
    vae_tiling: bool = False
    compile: bool = False

    @property
    def full_dtype(self) -> torch.dtype:
        """Of text encoders, VAE and predictions: float32, or float64 where the denoiser is."""
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def resting_place(self) -> torch.device:
        """Where text encoders and VAE are while they are not in use."""
        return torch.device("cpu") if self.offload else self.device

    @contextmanager
    def in_use(self, module: nn.Module) -> Iterator[None]:
        """Have ``module`` on the device inside; one that is trained stays, as its gradients do."""
        if not self.offload:
            yield
            return
        module.to(self.device)
        try:
            yield
        finally:
            if not any(parameter.requires_grad for parameter in module.parameters()):
                module.to(self.resting_place)


def place(config: BaseModelConfig) -> Placement:
    """Where the base model that ``config`` names goes.

    Raises:
        BaseModelError: the device is not there, or has no numbers of the type asked for.
    """
    device = choose_device(config.device)
    return Placement(
        device=device,
        dtype=choose_dtype(config.dtype, device),
        offload=config.memory.offload and device.type != "cpu",
        group_offload=config.memory.group_offload and device.type != "cpu",
        quantization=_quantization(config, device),
        release_text_encoders=config.memory.release_text_encoders,
        vae_slicing=config.memory.vae_slicing,
        vae_tiling=config.memory.vae_tiling,
        compile=config.compile,
    )


PACKAGES: dict[Quantization, str] = {
    "int8": "torchao",
    "fp8": "torchao",
    "nf4": "bitsandbytes",
}


def _quantization(config: BaseModelConfig, device: torch.device) -> Quantization | None:
    """What the frozen denoiser is quantized to; BaseModelError where that cannot be here."""
    kind = config.quantization
    if kind is None:
        return None
    asked = f"base_model.quantization: {kind}"
    if find_spec(PACKAGES[kind]) is None:
        raise BaseModelError(
            f"{asked} needs {PACKAGES[kind]}, which is not installed: `pip install "
            "'nsync-pipeline[quantized]'`, or set it to null."
        )
    if device.type == "mps" or (kind == "nf4" and device.type != "cuda"):
        there = "CUDA" if kind == "nf4" else "CUDA and the CPU"
        raise BaseModelError(
            f"{asked} is for {there}, and the model goes to {device.type}: set it to "
            f"{'int8' if kind == 'nf4' and device.type == 'cpu' else 'null'}."
        )
    if config.dtype == "float64":
        raise BaseModelError(f"{asked} goes with no dtype float64: set dtype to auto.")
    return kind


def choose_device(name: str) -> torch.device:
    """The device ``name``, BaseModelError where it is not there; auto: CUDA, else MPS, else CPU."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    there = {"cuda": cuda, "mps": mps, "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, is_there in there.items() if is_there))
    if not there[name]:
        raise BaseModelError(
            f"base_model.device: {name} is asked for, and torch {torch.__version__} finds none "
            "here; `auto` takes what there is."
        )
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number type ``name``; ``auto`` is bfloat16 or float16 on CUDA, else float32.

    Raises:
        BaseModelError: float64 is asked for on another device than the CPU.
    """
    if name == "auto":
        if device.type != "cuda":
            return torch.float32
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bfloat16 else torch.float16
    if name == "float64" and device.type != "cpu":
        raise BaseModelError(
            f"base_model.dtype: float64 is for the CPU, and the model goes to {device.type}: set "
            "device to cpu, or dtype to auto."
        )
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether it is a CPU with instructions for products of bfloat16 (AVX-512 BF16, AMX)."""
    if device.type != "cpu":
        return False
    there: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(there.get("avx512_bf16") or there.get("amx_bf16"))


BACKEND: Any = "inductor"
_log = logging.getLogger(__name__)


def compile_in_place(denoiser: nn.Module) -> None:
    """Have ``denoiser`` compiled when it is first called.

    What cannot be compiled runs as it is, and the log says so. For per-branch copies in the place
    of LoRA weights it is compiled once more (``BranchCopies``).
    """
    denoiser.compile(backend=_compiled_or_plain)


def _compiled_or_plain(
    graph: torch.fx.GraphModule, inputs: Sequence[torch.Tensor]
) -> Callable[..., Any]:
    try:
        compiled: Callable[..., Any] = lookup_backend(BACKEND)(graph, list(inputs))
    except Exception as error:  # no compiler on the machine, or one that fails in its own way
        reason = str(error).strip().partition("\n")[0]
        _log.warning("base_model.compile: a part cannot be compiled, and runs as it is: %s", reason)
        return graph.forward
    return compiled
