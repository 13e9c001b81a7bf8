"""NSYNC: style learning by contrast with negative synthetic images (arXiv 2511.01517).

The names in ``__all__`` are the library (docs/library.md): each is imported when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nsync_pipeline.contrast.config import ContrastConfig, UpdateRule
    from nsync_pipeline.contrast.refiner import Diagnostics, Refinement, Refiner

__version__ = "0.1.0"

__all__ = ["ContrastConfig", "Diagnostics", "Refinement", "Refiner", "UpdateRule"]

_HOME = {
    "ContrastConfig": "contrast.config",
    "Diagnostics": "contrast.refiner",
    "Refinement": "contrast.refiner",
    "Refiner": "contrast.refiner",
    "UpdateRule": "contrast.config",
}
"""The module of each of them."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
