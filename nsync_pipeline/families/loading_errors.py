"""What the libraries raise on a broken file, as one error that says which."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from nsync_pipeline.errors import BaseModelError


@contextmanager
def loading_errors(path: Path) -> Iterator[None]:
    """Make a ``BaseModelError`` of what the libraries raise on a broken file in ``path``."""
    try:
        yield
    except (
        OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:300]
        taken = " (only safetensors weights are)" if isinstance(error, OSError) else ""
        raise BaseModelError(f"{path} cannot be loaded{taken}: {reason}") from error
