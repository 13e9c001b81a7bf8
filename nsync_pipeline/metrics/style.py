"""Does a picture look like the style: cosine to the style's prototype, and the margin over others.

After CSD (Somepalli et al., arXiv 2404.01292): a style is known by the mean of its pictures'
features. The cosine alone is high for anything alike in content; the margin asks whether a picture
is nearer to the target than to every other style at hand.
"""

from dataclasses import dataclass

import numpy as np

from nsync_pipeline.metrics.distances import Floats, Indices


def prototype(features: Floats) -> Floats:
    """The mean of unit rows (N, d), scaled to unit length: (d,).

    Raises:
        ValueError: there are no rows, or they cancel out.
    """
    if not len(features):
        raise ValueError("a prototype needs at least one picture")
    mean = features.mean(axis=0)
    norm = float(np.linalg.norm(mean))
    if norm < 1e-12:
        raise ValueError("the features cancel out: they have no mean direction")
    unit: Floats = mean / norm
    return unit


@dataclass(frozen=True)
class StyleScores:
    """One value a picture."""

    cosine: Floats  # (N,) to the target's prototype
    margin: Floats  # (N,) that cosine less the best other prototype's
    rival: Indices  # (N,) which other prototype was the best


def style_scores(features: Floats, target: Floats, others: Floats) -> StyleScores:
    """Score unit rows (N, d) against the target (d,) and the other prototypes (K, d), K >= 1."""
    cosine = features @ target
    to_others = features @ others.T
    rival = to_others.argmax(axis=1)
    margin = cosine - to_others[np.arange(len(features)), rival]
    return StyleScores(cosine=cosine, margin=margin, rival=rival.astype(np.int64))
