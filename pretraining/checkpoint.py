"""Checkpoints that a kill at any moment cannot spoil."""

import os
from pathlib import Path
from typing import Any

import torch

State = dict[str, Any]  # what torch.save takes: tensors, and containers of them


def save_checkpoint(path: Path, state: State) -> None:
    """Write beside the file, then rename over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with beside.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def load_checkpoint(path: Path, settings: str, resume: bool) -> State | None:
    """The state to go on from, or None where there is none.

    Args:
        path: the checkpoint file.
        settings: the stage's settings as JSON; a checkpoint of other settings is an error.
        resume: whether to go on at all; without it an existing checkpoint is ignored.

    Raises:
        ValueError: the checkpoint was written under other settings.
    """
    if not resume or not path.exists():
        return None
    state: State = torch.load(path, map_location="cpu", weights_only=True)
    if state["settings"] != settings:
        raise ValueError(
            f"{path} was written under other settings; start afresh without --resume, "
            f"or restore them.\n  there: {state['settings']}\n  now:   {settings}"
        )
    return state
