"""Where an interrupted training picks up: written atomically, checked when read, never trusted."""

import hashlib
import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from nsync_pipeline.contrast.branch_gradients import MemoryPlan
from nsync_pipeline.training.history import StepRecord
from nsync_pipeline.training.optimizer import LossScale
from nsync_pipeline.training.watch_score import Best

logger = logging.getLogger(__name__)

KEPT = 2
"""The newest checkpoint, and the one before, for when the newest is damaged."""

DIGEST_SIZE = 64
"""Hex digits of the SHA-256 that a file starts with."""


@dataclass(frozen=True)
class Checkpoint:
    """A training after some of its steps."""

    step: int  # optimizer steps done
    tensors: dict[str, Tensor]  # by <whose>.<name>: weights, optimizer, average, best, refiner
    history: tuple[StepRecord, ...]
    held_out: dict[int, float]  # loss by steps done
    plan: MemoryPlan  # what had come to fit in memory
    loss_scale: LossScale | None  # None: losses are not scaled
    best: Best | None  # of the looks so far


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one training; those of other inputs are not seen, and are removed.

    Args:
        path: this machine's own state, not an artefact.
        inputs: a digest of all that decides the result.
    """

    path: Path
    inputs: str

    def write(self, checkpoint: Checkpoint) -> None:
        """Write whole or not at all, and drop the ones no longer kept."""
        self.path.mkdir(parents=True, exist_ok=True)
        file = self._file(checkpoint.step)
        # One name, so that what a killed process left half-written is written over.
        partial = self.path / "checkpoint.partial"
        with partial.open("wb") as stream:
            stream.write(_to_bytes(checkpoint, self.inputs))
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
        for old in self._files()[KEPT:]:
            old.unlink()

    def latest(self) -> Checkpoint | None:
        """The newest usable checkpoint of these inputs; None where there is none.

        A damaged one is passed over, and the log says so.
        """
        for file in self._files():
            try:
                checkpoint, inputs = _from_bytes(file.read_bytes())
            except (ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
                logger.warning("checkpoint %s is damaged and not used: %s", file.name, error)
                file.unlink(missing_ok=True)
                continue
            if inputs == self.inputs:
                return checkpoint
            logger.info("checkpoint %s is of other inputs: starting again", file.name)
            self.remove()
            return None
        return None

    def remove(self) -> None:
        """Remove the folder: the training is done."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _file(self, step: int) -> Path:
        return self.path / f"step_{step:08d}.checkpoint"

    def _files(self) -> list[Path]:
        """Newest first."""
        return sorted(self.path.glob("step_*.checkpoint"), reverse=True)


def _to_bytes(checkpoint: Checkpoint, inputs: str) -> bytes:
    """SHA-256 of the rest, then safetensors with the state in its metadata."""
    state = {
        "inputs": inputs,
        "step": checkpoint.step,
        "history": [asdict(record) for record in checkpoint.history],
        "held_out": {str(step): loss for step, loss in checkpoint.held_out.items()},
        "plan": asdict(checkpoint.plan),
        "loss_scale": None if checkpoint.loss_scale is None else asdict(checkpoint.loss_scale),
        "best": None if checkpoint.best is None else asdict(checkpoint.best),
    }
    content: bytes = safetensors.torch.save(checkpoint.tensors, {"state": json.dumps(state)})
    return hashlib.sha256(content).hexdigest().encode() + content


def _from_bytes(stored: bytes) -> tuple[Checkpoint, str]:
    """A checkpoint and its inputs; raises where the bytes are not those that were written."""
    digest, content = stored[:DIGEST_SIZE], stored[DIGEST_SIZE:]
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise ValueError("its bytes are not those that were written")
    header_size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + header_size])
    state = json.loads(header["__metadata__"]["state"])
    checkpoint = Checkpoint(
        step=state["step"],
        tensors=safetensors.torch.load(content),
        history=tuple(StepRecord(**record) for record in state["history"]),
        held_out={int(step): loss for step, loss in state["held_out"].items()},
        plan=MemoryPlan(**state["plan"]),
        loss_scale=None if state["loss_scale"] is None else LossScale(**state["loss_scale"]),
        best=None if state["best"] is None else Best(**state["best"]),
    )
    return checkpoint, state["inputs"]
