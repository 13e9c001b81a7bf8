"""The doctor on the machine: Python, packages, cores, memory, disk, accelerators."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from nsync_pipeline.cli.findings import Finding, State

NEEDED = ("torch", "diffusers", "transformers", "peft", "mlflow")
DOORS = ("dagster", "dvc")
GIB = 2**30
LITTLE_MEMORY = 4  # GiB available; the embedded base takes about 1.5
LITTLE_DISK = 2  # GiB free


def machine_findings(folder: Path) -> Iterator[Finding]:
    """``folder`` is on the disk that matters."""
    yield _python()
    yield from _packages()
    yield _cores()
    yield _memory()
    yield _disk(folder)
    yield _accelerators()


def _python() -> Finding:
    return Finding(State.OK, "Python", f"{platform.python_version()} in {sys.prefix}")


def _packages() -> Iterator[Finding]:
    versions = {name: _version(name) for name in (*NEEDED, *DOORS)}
    found = ", ".join(f"{name} {v}" for name, v in versions.items() if v)
    yield Finding(State.OK, "Packages", found or "none")
    if missing := [name for name in NEEDED if versions[name] is None]:
        yield Finding(State.MISSING, "Packages", f"no {', '.join(missing)}", "make setup")
    if missing := [name for name in DOORS if versions[name] is None]:
        advice = "pip install 'nsync-pipeline[orchestration]'; the command line works without"
        yield Finding(State.WARN, "Packages", f"no {', '.join(missing)}", advice)
    antlr = _version("antlr4-python3-runtime")
    if versions["dagster"] and antlr and not antlr.startswith("4.13"):
        yield Finding(
            State.WARN, "Packages", f"antlr4-python3-runtime {antlr} breaks Dagster's selections",
            "pip install 'antlr4-python3-runtime>=4.13' 'hydra-core>=1.4.0rc1'",
        )  # fmt: skip


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return Finding(State.OK, "Cores", f"{usable}{load}")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    found = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB available"
    if memory.available < LITTLE_MEMORY * GIB:
        return Finding(State.WARN, "Memory", found, "close something, or lower training.batch_size")
    return Finding(State.OK, "Memory", found)


def _disk(folder: Path) -> Finding:
    found = f"{shutil.disk_usage(folder).free / GIB:.1f} GiB free in {folder}"
    if shutil.disk_usage(folder).free < LITTLE_DISK * GIB:
        return Finding(State.WARN, "Disk", found, "make room: artefacts are kept twice, by DVC too")
    return Finding(State.OK, "Disk", found)


def _accelerators() -> Finding:
    try:
        import torch  # seconds; only here
    except ImportError as error:
        return Finding(State.MISSING, "Accelerator", f"torch: {error}", "make setup")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        found = ", ".join(f"{p.name} ({p.total_memory / GIB:.0f} GiB)" for p in names)
        return Finding(State.OK, "Accelerator", found)
    if torch.backends.mps.is_available():
        return Finding(State.OK, "Accelerator", "Apple MPS")
    return Finding(
        State.OK, "Accelerator", "none: everything runs on the CPU, fine for the sketchbook base"
    )
