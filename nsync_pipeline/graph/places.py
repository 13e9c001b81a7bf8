"""How many stages run side by side on this machine, on which devices: said once, for every door.

A stage on a card has that card alone. On the CPU a stage has a slot, which is so many cores: a run
computes with as many threads whether others run beside it or not, because results on the CPU depend
on their number.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from threadpoolctl import threadpool_limits

from nsync_pipeline.errors import ParamsError
from nsync_pipeline.executor import MOST, ExecutorConfig
from nsync_pipeline.graph.locks import CARD, CORE, MIG, visible_devices
from nsync_pipeline.params import Params
from nsync_pipeline.ranks import cores

SLOTS = "NSYNC_SLOTS"
"""The variable that goes before ``executor.slots``."""
THREADS = "OMP_NUM_THREADS"
"""The variable that goes before ``executor.threads``, as with every program that computes."""


ON = "NSYNC_ON"
"""The variable that goes before ``executor.kind``."""
MOST_JOBS = 8
"""That are asked for at once on a cluster, where ``executor.slots`` says nothing."""


@dataclass(frozen=True)
class Places:
    """The devices of this machine, or of a cluster, and how they are given to stages."""

    count: int = 1  # of stages that run at once
    kind: str = CARD
    devices: tuple[str, ...] = ()  # that are leased; none: a stage takes what there is
    each: int = 1  # devices of a stage
    threads: int | None = None  # of a stage on the CPU; None: as torch chooses
    note: str = ""  # where fewer can run at once than was asked for
    cluster: str = ""  # the address of the one that runs them; empty: this machine does

    @property
    def says(self) -> str:
        """In words: ``2 stages at once, on 1 core each``."""
        at_once = "1 stage at a time" if self.count == 1 else f"{self.count} stages at once"
        if self.cluster:
            return f"{at_once}, by Ray at {self.cluster}"
        if not self.devices:
            return at_once
        if self.kind == CARD:
            return f"{at_once}, on the devices {', '.join(self.devices)}"
        return f"{at_once}, on {self.each} {'core' if self.each == 1 else 'cores'} each"

    @property
    def whole_cards(self) -> bool:
        """Whether no device is a part of a card."""
        return not any(name.startswith(MIG) for name in self.devices)


def places_of(params: Params, visible: Callable[[], list[str]] = visible_devices) -> Places:
    """Those of this machine, as ``executor`` and the environment ask for them.

    Args:
        params: the settings.
        visible: gives the cards, and is asked only where they count.

    Raises:
        ParamsError: the environment asks for what is no number of slots, or for what stages do not
            run on; or a cluster is to run them, and none is named.
    """
    asked, device = _with_environment(params.executor), params.base_model.device
    if asked.kind == "ray":
        if asked.ray is None:
            raise ParamsError(
                "params.yaml: executor.ray names no cluster: `executor: {ray: {address: "
                "http://head:8265}}`"
            )
        return Places(asked.slots or MOST_JOBS, cluster=asked.ray.address)
    cards = visible() if device in ("auto", "cuda") else []
    if not cards and (device == "mps" or (device == "auto" and sys.platform == "darwin")):
        return Places()
    return places(asked, cards, [str(core) for core in cores()])


def on_cluster(params: Params) -> bool:
    """Whether stages are jobs on a cluster; raises as ``places_of``."""
    return _with_environment(params.executor).kind == "ray"


def places(asked: ExecutorConfig, cards: Sequence[str], own_cores: Sequence[str]) -> Places:
    """What ``asked`` makes of ``cards``, or where there are none, of ``own_cores``."""
    if cards:
        count = min(asked.slots or len(cards), len(cards))
        note = _note(asked, count, "device", len(cards))
        return Places(count, CARD, tuple(cards[:count]), note=note)
    if asked.slots is None and asked.threads is None:
        return Places()
    slots, there = asked.slots or 1, len(own_cores)
    threads = min(asked.threads or max(1, there // slots), there)  # torch takes no more either
    count = min(slots, there // threads)
    note = _note(asked, count, "core", there)
    return Places(count, CORE, tuple(own_cores[: count * threads]), threads, threads, note)


def _note(asked: ExecutorConfig, count: int, device: str, there: int) -> str:
    threads = asked.threads or 1 if device == "core" else 1
    if (asked.slots or 1) <= count and threads <= there:
        return ""
    of = f" of {asked.threads} threads" if threads > 1 else ""
    at_once = "stage" if asked.slots in (None, 1) else "stages at once"
    return (
        f"executor asks for {asked.slots or 1} {at_once}{of}, and there "
        f"{'is' if there == 1 else 'are'} {there} {device}{'' if there == 1 else 's'}: "
        f"{count} at once{f' of {min(threads, there)}' if of else ''}"
    )


def _with_environment(asked: ExecutorConfig) -> ExecutorConfig:
    if (kind := os.environ.get(ON)) is not None:
        if kind not in ("local", "ray"):
            raise ParamsError(f"{ON} is {kind!r}: it says where stages run, local or ray")
        asked = asked.model_copy(update={"kind": kind})
    said = os.environ.get(SLOTS)
    if said is None:
        return asked
    if not (said.isdecimal() and 1 <= int(said) <= MOST):
        raise ParamsError(f"{SLOTS} is {said!r}: it says how many stages run at once, 1 to {MOST}")
    return asked.model_copy(update={"slots": int(said)})


@contextmanager
def on_threads(count: int | None) -> Iterator[None]:
    """Compute with ``count`` threads inside; None, or the environment's number, changes nothing."""
    if count is None or THREADS in os.environ:
        yield
        return
    os.environ[THREADS] = str(count)  # for what is loaded, or started, inside
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else None
    try:
        with threadpool_limits(count):
            if torch is not None:
                torch.set_num_threads(count)
            yield
    finally:
        del os.environ[THREADS]
        if torch is not None:
            torch.set_num_threads(before)
