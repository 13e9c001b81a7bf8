"""The same inputs give the same bytes: torch's deterministic algorithms, while a training runs.

What they cost a GPU can be had back: ``wanted`` false, and products of float32 matrices in TF32.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def deterministic_algorithms(wanted: bool = True, tf32: bool = False) -> Iterator[None]:
    """Allow only deterministic algorithms inside; what was set before is set again afterwards.

    Args:
        wanted: false leaves torch as it is, and lets cuDNN try which algorithm is fastest.
        tf32: float32 matrices are multiplied with 10 bits of mantissa, on GPUs that can.
    """
    # cuBLAS reads it when it is first used; without it, torch refuses matrix products on CUDA.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic: Any = torch.utils.deterministic  # the stubs do not know what it has
    fill = deterministic.fill_uninitialized_memory
    benchmark = torch.backends.cudnn.benchmark
    precision = torch.get_float32_matmul_precision()
    torch.use_deterministic_algorithms(wanted)
    deterministic.fill_uninitialized_memory = False  # nothing here reads memory it did not write
    torch.backends.cudnn.benchmark = not wanted
    if tf32:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        deterministic.fill_uninitialized_memory = fill
        torch.backends.cudnn.benchmark = benchmark
        torch.set_float32_matmul_precision(precision)
