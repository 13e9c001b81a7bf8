"""Frozen weights from safetensors files: whole, never a pickle, never remote code."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors import SafetensorError

from nsync_pipeline.errors import BaseModelError


@contextmanager
def loading_errors(path: Path) -> Iterator[None]:
    """Make a ``BaseModelError`` of what the libraries raise on a broken file in ``path``."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BaseModelError(
            f"{path} cannot be loaded (only safetensors weights are): {reason}"
        ) from error


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' loading bars and remarks off the screen; real trouble raises."""
    shown = [library.utils.logging.get_verbosity() for library in (diffusers, transformers)]
    bars = transformers.utils.logging.is_progress_bar_enabled()
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers.utils.logging.set_verbosity(shown[0])
        transformers.utils.logging.set_verbosity(shown[1])
        if bars:
            transformers.utils.logging.enable_progress_bar()


def load_frozen(
    kind: Any,
    folder: Path,
    component: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """The model of class ``kind`` in ``folder/component``: in eval, without gradients.

    Raises:
        BaseModelError: the files are missing, broken, or do not have every weight.
    """
    path = folder / component
    with loading_errors(path), quiet_libraries():
        model, info = kind.from_pretrained(
            folder, subfolder=component, use_safetensors=True, torch_dtype=dtype,
            output_loading_info=True,
        )  # fmt: skip
    missing = sorted(info["missing_keys"])
    if missing:
        # The libraries would go on with random numbers in their place.
        raise BaseModelError(f"{path} lacks {len(missing)} weights, the first is {missing[0]}.")
    return model.to(device).eval().requires_grad_(False)
