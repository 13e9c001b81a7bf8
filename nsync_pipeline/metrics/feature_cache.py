"""Features on disk: evaluating the same pictures again asks no extractor.

A set's features are one file, named by the extractor's weights and preprocessing and by the
pictures' own bytes: other weights, other pictures or another crop are another file. It is this
machine's own state.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nsync_pipeline.files import whole_file
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
        try:
            with whole_file(file) as partial, partial.open("wb") as stream:
                np.save(stream, features, allow_pickle=False)
        except OSError as error:
            logger.warning("features are not kept: %s", error)
        return features


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
