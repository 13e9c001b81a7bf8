"""Several processes that take the optimizer steps of one training together.

Each has its part of every step's samples. Their gradients are summed before anything is done with
them, so all processes do the same from there on, and hold the same weights.
"""

import hashlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from nsync_pipeline.contrast.branch_gradients import BranchGradients, Losses, MemoryPlan
from nsync_pipeline.errors import LostProcessError, TrainingError
from nsync_pipeline.ranks import Rank, this_rank

EVERY = 5.0
"""Seconds between two beats."""

SILENCE = 45.0
"""Seconds without a beat after which a process counts as gone: the others end within a minute."""


@contextmanager
def heartbeat(rank: Rank) -> Iterator[None]:
    """Beat, and listen to the other processes, in a thread; end this process where one is gone.

    A collective cannot be interrupted from within the process: it is ended where it stands.
    """
    address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    ended = threading.Event()
    # A connection of its own: the main thread may hold the other one for long.
    dist: Any = torch.distributed  # its stubs do not know its stores
    store = dist.PrefixStore("nsync", dist.TCPStore(*address, is_master=False))
    thread = threading.Thread(target=_listen, args=(store, rank, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _listen(store: Any, rank: Rank, ended: threading.Event) -> None:
    heard = dict.fromkeys(range(rank.count), (0, time.monotonic()))
    while not ended.wait(EVERY):
        now = time.monotonic()
        try:
            store.add(f"beat {rank.index}", 1)
            beats = {other: store.add(f"beat {other}", 0) for other in heard}
        except RuntimeError as error:  # the first process, which keeps the beats, is gone
            _end(f"process 0 of {rank.count} cannot be reached: {error}", ended)
            return
        for other, beat in beats.items():
            if beat != heard[other][0]:
                heard[other] = (beat, now)
            elif now - heard[other][1] > SILENCE:
                silent = f"process {other} of {rank.count} has not been heard"
                _end(f"{silent} for {SILENCE:.0f} s", ended)
                return


def _end(reason: str, ended: threading.Event) -> None:
    if ended.wait(EVERY):  # this process was at its end, and so was the other
        return
    print(f"nsync: the training ends: {reason}", file=sys.stderr, flush=True)
    os._exit(LostProcessError.exit_code)


Value = TypeVar("Value")

PATIENCE = timedelta(days=7)
"""The first process may draw pictures for long while the others wait: a collective does not time
out. That a process has died is noticed by its closed connection, its launcher, or its heartbeat."""


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


@dataclass(frozen=True)
class Processes:
    """What a training asks of the processes it runs in, which accelerate connects."""

    rank: Rank  # which of them this one is
    device: torch.device  # what collectives are done on

    def share(self, samples: Sequence[Value]) -> Sequence[Value]:
        """This process's part of a step's samples; the parts differ by one sample at most."""
        start, end = (len(samples) * (self.rank.index + i) // self.rank.count for i in (0, 1))
        return samples[start:end]

    def summed(self, found: BranchGradients) -> BranchGradients:
        """The sum of all processes' losses and gradients; the same bits in each."""
        if self.rank.count == 1:
            return found
        from accelerate.utils import reduce

        branches = tuple(found.losses)
        losses = torch.tensor([found.losses[b] for b in branches], dtype=torch.float64)
        like = [tensor for b in branches for tensor in found.gradients[b]]
        flat = torch.cat([tensor.flatten() for tensor in like])
        with lost_process_explained():
            losses, flat = reduce((losses.to(self.device), flat), "sum")
        parts = iter(torch.split(flat, [tensor.numel() for tensor in like]))
        return BranchGradients(
            Losses(branches, losses),
            {
                b: tuple(next(parts).view(tensor.shape) for tensor in found.gradients[b])
                for b in branches
            },
        )

    def total(self, value: float) -> float:
        """The sum of all processes' ``value``; the same bits in each."""
        return sum(self._gathered(value))

    def most_careful(self, plan: MemoryPlan) -> MemoryPlan:
        """The plan that fits in every process, where each says what fits in it."""
        plans = self._gathered(plan)
        return MemoryPlan(all(p.fused for p in plans), min(p.micro_batch for p in plans))

    @lost_process_explained()
    def from_first(self, value: Value) -> Value:
        """The first process's ``value``."""
        if self.rank.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        received: list[Value] = broadcast_object_list([value])
        return received[0]

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """What is done inside, the first process does before the others begin with it."""
        if not self.rank.is_first:
            self._gathered(None)
        yield
        if self.rank.is_first:
            self._gathered(None)

    def require_alike(self, what: str, digest: str) -> None:
        """Raise ``TrainingError`` where ``digest`` differs between the processes."""
        digests = self._gathered(digest)
        differing = [index for index, other in enumerate(digests) if other != digests[0]]
        if differing:
            raise TrainingError(
                f"{what} of process {', '.join(map(str, differing))} of {self.rank.count} "
                "are not those of process 0: all processes need the same files, settings, versions "
                "of the packages and kind of device"
            )

    @lost_process_explained()
    def _gathered(self, value: Value) -> list[Value]:
        """Every process's value; waits for all of them."""
        if self.rank.count == 1:
            return [value]
        from accelerate.utils import gather_object

        values: list[Value] = gather_object([value])
        return values


ALONE = Processes(Rank(), torch.device("cpu"))


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
        yield Processes(rank, state.device)
        with lost_process_explained():
            state.wait_for_everyone()
    state.destroy_process_group()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the bytes of ``tensors`` by name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
