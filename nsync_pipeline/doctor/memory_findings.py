"""The doctor on memory: whether a training on the base model fits this machine.

It looks at headers and settings on this machine only; nothing is downloaded, no weight is read.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from nsync_pipeline.contrast.config import branches_of
from nsync_pipeline.doctor.base_shapes import BaseShapes, read_base
from nsync_pipeline.doctor.finding import Finding, State
from nsync_pipeline.doctor.memory import MemoryEstimate, Way, estimate, ways_to_fit
from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.params import Params
from nsync_pipeline.training.config import TrainingConfig

if TYPE_CHECKING:
    from nsync_pipeline.families.placement import Placement

SUBJECT = "Memory fit"
GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """Where the training would run."""

    place: str  # for people: cuda, mps, cpu
    available: int  # bytes


def memory_finding(params: Params, available: int | None = None) -> Finding:
    """Whether the variant that needs most memory fits; ``available`` bytes instead of what is."""
    from nsync_pipeline.families.placement import place  # torch: seconds, only here

    try:
        placement = place(params.base_model)
        base = read_base(params.base_model)
    except BaseModelError as error:
        return Finding(State.WARN, SUBJECT, f"cannot be told: {error}", "see base_model")
    if base is None:
        name = params.base_model.name
        return Finding(
            State.WARN, SUBJECT, f"cannot be told before {name} is on this machine",
            "run this again once the first stage has downloaded it",
        )  # fmt: skip
    number_bytes = placement.dtype.itemsize
    estimates = {
        name: _estimate(base, params.variant(name), number_bytes) for name in params.variants
    }
    machine = _machine(placement)
    if available is not None:
        machine = Machine(machine.place, available)
    peaks = {
        name: estimated.peak(_asked(params, params.variant(name), estimated.branches))
        for name, estimated in estimates.items()
    }
    name = max(peaks, key=peaks.__getitem__)
    number_type = str(placement.dtype).removeprefix("torch.")
    return _verdict(params, base, name, estimates[name], machine, number_type)


def _estimate(base: BaseShapes, training: TrainingConfig, number_bytes: int) -> MemoryEstimate:
    from nsync_pipeline.families import stable_diffusion, stable_diffusion_3, stable_diffusion_xl

    of_family = {
        "stable_diffusion": stable_diffusion.LORA_TARGETS,
        "stable_diffusion_xl": stable_diffusion_xl.LORA_TARGETS,
        "stable_diffusion_3": stable_diffusion_3.LORA_TARGETS,
    }
    targets = training.lora.targets if training.lora is not None else None
    if targets is None or isinstance(targets, str):  # a regular expression: the family's, roughly
        targets = of_family[base.family]
    return estimate(
        base.components,
        training,
        branches=len(branches_of(training.update_rule, training.contrast).ordered),
        targets=targets,
        latent_side=base.resolution // base.pixels_per_latent,
        resolution=base.resolution,
        number_bytes=number_bytes,
    )


def _asked(params: Params, training: TrainingConfig, branches: int) -> Way:
    return Way(
        in_one_pass=branches > 1 and training.branches != "in_turn",
        checkpointing=training.gradient_checkpointing,
        offload=params.base_model.memory.offload,
        micro_batch=training.batch_size,
    )


def _verdict(
    params: Params,
    base: BaseShapes,
    variant: str,
    estimated: MemoryEstimate,
    machine: Machine,
    number_type: str,
) -> Finding:
    training = params.variant(variant)
    asked = _asked(params, training, estimated.branches)
    way = ways_to_fit(estimated, asked, machine.available)
    millions = sum(component.parameters for component in base.components) / 1e6
    weights = f"{millions:,.{0 if millions >= 10 else 1}f} M weights"
    several = f", {estimated.branches} branches" if estimated.branches > 1 else ""
    told = (
        f"{weights} take {_gib(estimated.weights)} (denoiser in {number_type}); training "
        f"{variant} at {base.resolution} px, batch size {asked.micro_batch}{several}: about "
        f"{_gib(estimated.peak(asked))} of {_gib(machine.available)} free on {machine.place}: "
    )
    if way == asked:
        together = " in one pass" if asked.in_one_pass else ""
        return Finding(State.OK, SUBJECT, f"{told}fits{together}")
    if way is None:
        return Finding(
            State.WARN, SUBJECT, f"{told}does not fit, however frugal",
            "a smaller base or base_model.resolution, or another machine",
        )  # fmt: skip
    needs = f"(about {_gib(estimated.peak(way))})"
    if way == Way(False, asked.checkpointing, asked.offload, asked.micro_batch):
        advice = (
            "training.branches: auto goes over to it by itself; in_turn begins with it"
            if training.branches == "auto"
            else "set training.branches to in_turn"
        )
        return Finding(State.WARN, SUBJECT, f"{told}fits one branch at a time {needs}", advice)
    return Finding(
        State.WARN, SUBJECT, f"{told}does not fit so", f"{', '.join(_changes(asked, way))} {needs}"
    )


def _changes(asked: Way, way: Way) -> list[str]:
    """The settings that make ``way`` of what was asked."""
    changes = {
        "training.branches: in_turn": asked.in_one_pass and not way.in_one_pass,
        "training.gradient_checkpointing: true": way.checkpointing and not asked.checkpointing,
        "base_model.memory.offload: true": way.offload and not asked.offload,
        "training.batch_size: 1 (and training.accumulation for the rest)": (
            way.micro_batch < asked.micro_batch
        ),
    }
    return [setting for setting, changed in changes.items() if changed]


def _machine(placement: "Placement") -> Machine:
    kind = placement.device.type
    if kind == "cuda":
        import torch

        return Machine("cuda", torch.cuda.mem_get_info()[0])
    return Machine(kind, psutil.virtual_memory().available)


def _gib(count: int) -> str:
    return f"{count / GIB:,.1f} GiB" if count >= GIB // 2 else f"{count / 2**20:,.0f} MiB"
