"""NSYNC: style learning by contrast with negative synthetic images (arXiv 2511.01517).

The names in ``__all__`` are the library (docs/library.md): each is imported when it is asked for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nsync_pipeline.contrast.config import Branch, ContrastConfig, UpdateRule
    from nsync_pipeline.contrast.refiner import Diagnostics, Refinement, Refiner

__version__ = "0.2.0"

__all__ = ["Branch", "ContrastConfig", "Diagnostics", "Refinement", "Refiner", "UpdateRule"]

_HOMES = {
    "contrast.config": ("Branch", "ContrastConfig", "UpdateRule"),
    "contrast.refiner": ("Diagnostics", "Refinement", "Refiner"),
}
"""The names of each module that is opened for them."""

if not TYPE_CHECKING:  # where types are checked, a name that is not there is an error

    def __getattr__(name: str) -> object:
        from importlib import import_module

        for home, names in _HOMES.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{home}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
