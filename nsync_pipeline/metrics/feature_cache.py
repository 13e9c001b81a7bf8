"""Features on disk: evaluating the same pictures again asks no extractor.

A set's features are one file, named by the extractor's weights and preprocessing and by the
pictures' own bytes: other weights, other pictures or another crop are another file. It is this
machine's own state.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nsync_pipeline.metrics.distances import Floats

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureCache:
    """Features in a folder; one that cannot be written to is a cache that keeps nothing."""

    folder: Path

    def features(
        self, extractor: str, items: Sequence[str], compute: Callable[[], Floats]
    ) -> Floats:
        """The rows (N, d) of ``items``, computed where they are not kept.

        ``extractor`` names it by its weights and preprocessing, ``items`` each picture by its
        content and how it is cut, or each text. A damaged file is computed again.
        """
        content = "\n".join((extractor, *items))
        file = self.folder / f"{hashlib.sha256(content.encode()).hexdigest()}.npy"
        kept = _read(file, len(items))
        if kept is not None:
            return kept
        features = compute()
        self._write(file, features)
        return features

    def _write(self, file: Path, features: Floats) -> None:
        # A name of this process's own: two evaluations may compute the same set at once.
        partial = file.with_suffix(f".{os.getpid()}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as stream:
                np.save(stream, features, allow_pickle=False)
            partial.replace(file)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            logger.warning("features are not kept: %s", error)


def _read(file: Path, rows: int) -> Floats | None:
    try:
        features: Floats = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        logger.warning("kept features %s are damaged, and computed again: %s", file.name, error)
        return None
    usable = features.ndim == 2 and len(features) == rows and features.dtype == np.float64
    return features if usable else None
