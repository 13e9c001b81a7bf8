"""Where an interrupted training picks up: written whole, checked when read, never trusted.

A checkpoint holds what a step changes. What steps only add to, the history, is in a file beside the
checkpoints, which grows: so a checkpoint costs the same after many steps as after few.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from nsync_pipeline.adaptation.safetensors_file import safetensors_parts
from nsync_pipeline.contrast.branch_gradients import MemoryPlan
from nsync_pipeline.files import parse_json, whole_file
from nsync_pipeline.training.history import StepRecord
from nsync_pipeline.training.optimizer import LossScale
from nsync_pipeline.workspace import step_folder, trained_files

logger = logging.getLogger(__name__)

KEPT = 2
"""The newest checkpoint, and the one before, for when the newest is damaged."""

HISTORY = "history.jsonl"
"""A line a step, and a line a held-out loss."""

ASIDE = ".set-aside"
"""The ending of what cannot be used."""

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Best:
    """The best look so far."""

    step: int  # optimizer steps done
    score: float  # higher is better


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


@dataclass
class _Written:
    """What of a training is in its history file: the rest of the file is not of this training."""

    size: int = 0  # bytes
    steps: int = 0
    losses: int = 0  # held-out
    digest: Any = field(default_factory=hashlib.sha256)  # over those bytes

    def add(self, file: Path, checkpoint: Checkpoint) -> None:
        """Bring ``file`` to where ``checkpoint`` is."""
        lines = [asdict(record) for record in checkpoint.history[self.steps :]]
        losses = list(checkpoint.held_out.items())
        text = "".join(json.dumps(line) + "\n" for line in (*lines, *losses[self.losses :]))
        with file.open("r+b" if file.exists() else "wb") as stream:
            stream.seek(self.size)
            stream.truncate()
            stream.write(text.encode())
            stream.flush()
            os.fsync(stream.fileno())
        self.digest.update(text.encode())
        self.size += len(text.encode())
        self.steps, self.losses = len(checkpoint.history), len(losses)


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one training.

    What cannot be used is kept aside, and the log says why: a damaged file as
    ``<name>.set-aside``; checkpoints of other inputs together, as the folder ``<name>.set-aside``,
    from where they come back once the inputs are theirs again. Only what is set aside later takes
    the place of what was.

    Args:
        path: this machine's own state, not an artefact.
        inputs: all that decides the result, as JSON; its keys are for messages.
        saved: after which steps weights are saved, each in its ``step_folder`` of ``path``.
    """

    path: Path
    inputs: Inputs
    saved: Sequence[int] = ()
    _written: _Written = field(default_factory=_Written, init=False, compare=False, repr=False)

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.inputs, sort_keys=True).encode()).hexdigest()

    @property
    def aside(self) -> Path:
        """Where checkpoints of other inputs are kept."""
        return self.path.with_name(self.path.name + ASIDE)

    def write(self, checkpoint: Checkpoint) -> None:
        """Write whole or not at all, and drop the ones no longer kept."""
        self.path.mkdir(parents=True, exist_ok=True)
        for killed in self.path.glob(".*.partial"):  # nobody else writes here
            killed.unlink()
        self._written.add(self.path / HISTORY, checkpoint)
        file = self.path / f"step_{checkpoint.step:08d}.checkpoint"
        parts = _parts(checkpoint, self.inputs, self._written)
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        with whole_file(file) as partial, partial.open("wb") as stream:
            stream.write(digest.hexdigest().encode())
            stream.writelines(parts)
        for old in _files(self.path)[KEPT:]:
            old.unlink()

    def latest(self) -> Checkpoint | None:
        """The newest usable checkpoint of these inputs; None where there is none."""
        own = parse_json(json.dumps(self.inputs))
        newest = _newest(self.path)
        if newest is not None and newest[1] == own:
            return self._going_on_from(newest)
        before = _newest(self.aside)
        comes_back = before is not None and before[1] == own
        going = self.path.with_name(f".{self.path.name}.going")
        if newest is not None:
            logger.warning(
                "the checkpoints in %s, up to step %d, are of another training and are kept aside "
                "as %s: %s",
                self.path, newest[0].step, self.aside.name, differences(newest[1], own),
            )  # fmt: skip
            shutil.rmtree(going, ignore_errors=True)
            self.path.rename(going)
        if comes_back:
            shutil.rmtree(self.path, ignore_errors=True)  # nothing in it can be used
            self.aside.rename(self.path)
        if newest is not None:
            shutil.rmtree(self.aside, ignore_errors=True)
            going.rename(self.aside)
        if before is None or not comes_back:
            return None
        logger.warning("the checkpoints that were kept aside in %s are used again", self.aside)
        return self._going_on_from(before)

    def _going_on_from(self, found: "_Found") -> Checkpoint | None:
        checkpoint, _, written = found
        passed = [step for step in self.saved if step <= checkpoint.step]
        lost = [step for step in passed if not trained_files(step_folder(self.path, step))]
        if lost:
            logger.warning(
                "the checkpoint of step %d is not used: the weights that were saved after step %d "
                "are not in %s (any more)",
                checkpoint.step, lost[0], self.path,
            )  # fmt: skip
            return None
        vars(self._written).update(vars(written))
        return checkpoint


_Found = tuple[Checkpoint, dict[str, Any], _Written]
"""A checkpoint, its inputs, and how much of the history file is its own."""


def differences(before: Inputs, now: Inputs) -> str:
    """What differs, in words: ``training.learning_rate was 0.001 and is 0.01``."""
    old, new = _flat(before), _flat(now)
    words = [
        f"{key} was {old.get(key, 'not there')} and is {new.get(key, 'not there')}"
        if len(old.get(key, "") + new.get(key, "")) < 100
        else f"{key}: not the same"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    more = f"; and {len(words) - 5} more" if len(words) > 5 else ""
    return "; ".join(words[:5]) + more


def _flat(inputs: Inputs, prefix: str = "") -> dict[str, str]:
    """The values, as JSON, by dotted keys."""
    flat: dict[str, str] = {}
    for key, value in inputs.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value)
    return flat


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*.checkpoint"), reverse=True)


def _newest(folder: Path) -> _Found | None:
    """The newest whole checkpoint and its inputs; damaged ones are kept aside."""
    for file in _files(folder):
        try:
            return _from_bytes(file.read_bytes(), (folder / HISTORY).read_bytes())
        except (ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
            aside = file.with_name(file.name + ASIDE)
            logger.warning(
                "checkpoint %s is damaged: it is not used, and kept aside as %s: %s",
                file, aside.name, error,
            )  # fmt: skip
            file.replace(aside)
    return None


def _parts(checkpoint: Checkpoint, inputs: Inputs, written: _Written) -> list[bytes | memoryview]:
    """Safetensors with the state in its metadata; before it, a file has the SHA-256 of it."""
    state = asdict(replace(checkpoint, tensors={}, history=(), held_out={}))
    history = {"size": written.size, "sha256": written.digest.hexdigest()}
    state |= {"inputs": inputs, "history": history}
    return safetensors_parts(checkpoint.tensors, {"state": json.dumps(state)})


def _from_bytes(stored: bytes, history: bytes) -> _Found:
    """What is stored; raises where the bytes are not those that were written."""
    digest, content = stored[:64], stored[64:]
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise ValueError("its bytes are not those that were written")
    header_size = int.from_bytes(content[:8], "little")
    header = parse_json(content[8 : 8 + header_size])
    state = parse_json(header["__metadata__"]["state"])
    history = history[: state["history"]["size"]]
    written = _Written(len(history), digest=hashlib.sha256(history))
    if written.digest.hexdigest() != state["history"]["sha256"]:
        raise ValueError(f"the bytes of {HISTORY} are not those that were written")
    records, held_out = _read_history(history.decode().splitlines())
    written.steps, written.losses = len(records), len(held_out)
    checkpoint = Checkpoint(
        step=state["step"],
        tensors=safetensors.torch.load(content),
        history=records,
        held_out=held_out,
        plan=MemoryPlan(**state["plan"]),
        loss_scale=None if state["loss_scale"] is None else LossScale(**state["loss_scale"]),
        best=None if state["best"] is None else Best(**state["best"]),
    )
    return checkpoint, state["inputs"], written


def _read_history(lines: Sequence[str]) -> tuple[tuple[StepRecord, ...], dict[int, float]]:
    """The records of the steps, and the held-out losses by steps done."""
    read = [parse_json(line) for line in lines]
    records = tuple(StepRecord(**line) for line in read if isinstance(line, dict))
    return records, {line[0]: line[1] for line in read if isinstance(line, list)}
