"""Several processes that take the optimizer steps of one training together.

Each process has its part of every step's samples. Their gradients are summed before anything is
done with them, so all processes do the same from there on, and hold the same weights.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from nsync_pipeline.contrast.branch_pass import MemoryPlan
from nsync_pipeline.contrast.gradients import BranchGradients
from nsync_pipeline.errors import LostProcessError, TrainingError
from nsync_pipeline.training.heartbeat import heartbeat
from nsync_pipeline.training.ranks import Rank, this_rank

Value = TypeVar("Value")

PATIENCE = timedelta(days=7)
"""The first process may draw pictures for long while the others wait: a collective does not time
out. That a process has died is noticed by its closed connection, its launcher, or its heartbeat."""


class Processes(Protocol):
    """What a training asks of the processes it runs in."""

    @property
    def rank(self) -> Rank:
        """Which of them this one is."""
        ...

    def share(self, samples: Sequence[Value]) -> Sequence[Value]:
        """This process's part of a step's samples; the parts differ by one sample at most."""
        ...

    def summed(self, found: BranchGradients) -> BranchGradients:
        """The sum of all processes' losses and gradients; the same bits in each."""
        ...

    def most_careful(self, plan: MemoryPlan) -> MemoryPlan:
        """The plan that fits in every process, where each says what fits in it."""
        ...

    def from_first(self, value: Value) -> Value:
        """The first process's ``value``."""
        ...

    def first_before_others(self) -> AbstractContextManager[None]:
        """What is done inside, the first process does before the others begin with it."""
        ...

    def require_alike(self, what: str, digest: str) -> None:
        """Raise ``TrainingError`` where ``digest`` differs between the processes."""
        ...


class Alone:
    """The one process of a training."""

    rank = Rank()

    def share(self, samples: Sequence[Value]) -> Sequence[Value]:
        return samples

    def summed(self, found: BranchGradients) -> BranchGradients:
        return found

    def most_careful(self, plan: MemoryPlan) -> MemoryPlan:
        return plan

    def from_first(self, value: Value) -> Value:
        return value

    def first_before_others(self) -> AbstractContextManager[None]:
        return nullcontext()

    def require_alike(self, what: str, digest: str) -> None: ...


ALONE = Alone()


@dataclass(frozen=True)
class Together:
    """One of several processes, connected through accelerate."""

    rank: Rank
    device: torch.device  # what collectives are done on

    def share(self, samples: Sequence[Value]) -> Sequence[Value]:
        start, end = (len(samples) * (self.rank.index + i) // self.rank.count for i in (0, 1))
        return samples[start:end]

    def summed(self, found: BranchGradients) -> BranchGradients:
        from accelerate.utils import reduce

        branches = tuple(found.losses)
        losses = torch.tensor([found.losses[b] for b in branches], dtype=torch.float64)
        like = [tensor for b in branches for tensor in found.gradients[b]]
        flat = torch.cat([tensor.flatten() for tensor in like])
        with lost_process_explained():
            losses, flat = reduce((losses.to(self.device), flat), "sum")
        parts = iter(torch.split(flat, [tensor.numel() for tensor in like]))
        return BranchGradients(
            dict(zip(branches, losses.tolist(), strict=True)),
            {
                b: tuple(next(parts).view(tensor.shape) for tensor in found.gradients[b])
                for b in branches
            },
        )

    def most_careful(self, plan: MemoryPlan) -> MemoryPlan:
        from accelerate.utils import reduce

        # The least of each, as the greatest of its negative.
        mine = torch.tensor([-int(plan.fused), -plan.micro_batch], device=self.device)
        with lost_process_explained():
            fused, micro_batch = (-int(number) for number in reduce(mine, "max"))
        return MemoryPlan(bool(fused), micro_batch)

    def from_first(self, value: Value) -> Value:
        from accelerate.utils import broadcast_object_list

        with lost_process_explained():
            (received,) = broadcast_object_list([value])
        shared: Value = received
        return shared

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        if not self.rank.is_first:
            self._wait_for_all()
        yield
        if self.rank.is_first:
            self._wait_for_all()

    def require_alike(self, what: str, digest: str) -> None:
        from accelerate.utils import gather_object

        with lost_process_explained():
            digests: list[str] = gather_object([digest])
        differing = [index for index, other in enumerate(digests) if other != digests[0]]
        if differing:
            raise TrainingError(
                f"{what} of process {', '.join(map(str, differing))} of {self.rank.count} "
                "are not those of process 0: all processes need the same files, settings, versions "
                "of the packages and kind of device"
            )

    def _wait_for_all(self) -> None:
        with lost_process_explained():
            torch.distributed.barrier()


@contextmanager
def joined_processes(cpu: bool) -> Iterator[Processes]:
    """The processes of this training: connected, on as many devices, where there are several.

    Args:
        cpu: all of them compute on the CPU.
    """
    rank = this_rank()
    if rank.count == 1:
        yield ALONE
        return
    from accelerate import PartialState

    with lost_process_explained():
        state = PartialState(cpu=cpu, timeout=PATIENCE)
    if not cpu and state.device.type == "cpu":
        raise TrainingError("several processes need CUDA devices, or base_model.device cpu")
    with heartbeat(rank):
        yield Together(rank, state.device)
        with lost_process_explained():
            state.wait_for_everyone()
    state.destroy_process_group()


@contextmanager
def lost_process_explained() -> Iterator[None]:
    """Say that another process has ended where torch says that a connection was closed."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise LostProcessError(
            "another process of this training has ended, so this one ends, too; what is done is in "
            f"the newest checkpoint, and the same command goes on from there. ({reason})"
        ) from error


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the bytes of ``tensors`` by name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
