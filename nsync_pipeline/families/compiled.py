"""``torch.compile`` for a denoiser, in place: names and modules stay what they are."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch._dynamo.backends.registry import lookup_backend

BACKEND: Any = "inductor"

_log = logging.getLogger(__name__)


def compile_in_place(denoiser: nn.Module) -> None:
    """Have ``denoiser`` compiled when it is first called.

    What cannot be compiled runs as it is, and the log says so. While per-branch copies stand in for
    LoRA weights, which is anew in every step, the denoiser runs uncompiled too (``BranchCopies``).
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
