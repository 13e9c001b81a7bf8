"""What the judges say of pictures, and the words they say it in."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nsync_pipeline.sketchbook.scene import COLOURS, OBJECTS, PLACES, SKIES
from nsync_pipeline.sketchbook.world import HELD_OUT_STYLES, SEEN_STYLES

LABELS: dict[str, tuple[str, ...]] = {
    "objects": OBJECTS,
    "colours": tuple(COLOURS),
    "places": PLACES,
    "skies": tuple(SKIES),
    "styles": SEEN_STYLES + HELD_OUT_STYLES,
}


@dataclass(frozen=True)
class Verdicts:
    """What the judges say of N pictures, as probabilities in the order of `LABELS`."""

    objects: NDArray[np.float32]  # (N, 8) each object's presence
    colours: NDArray[np.float32]  # (N, 8, 7) each object's colour, if it is there
    places: NDArray[np.float32]  # (N, 4)
    skies: NDArray[np.float32]  # (N, 4)
    styles: NDArray[np.float32]  # (N, 10)
