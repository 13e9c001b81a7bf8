"""What each metric is called, which way is better, and what it says in one line."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    name: str  # in metrics.json
    title: str
    better: Literal["higher", "lower", "near 1"]
    meaning: str
    primary: bool = False
    percent: bool = False  # a share, shown in per cent


METRICS = (
    Metric(
        "style_margin", "Style margin", "higher",
        "How much nearer a picture is to the style than to the nearest other style; "
        "below 0 it looks more like something else.",
        primary=True,
    ),
    Metric(
        "cmmd", "CMMD", "lower",
        "Distance between the mean look of the generated and of the held-out real pictures; "
        "0 is no difference that can be seen (it can fall below 0 by chance).",
        primary=True,
    ),
    Metric(
        "mmd", "MMD, median bandwidth", "lower",
        "The same distance with a finer eye: it sees the spread of the pictures, too.",
    ),
    Metric(
        "style_cosine", "Style cosine", "higher",
        "Likeness to the style's mean picture, whatever else a picture is like.",
    ),
    Metric(
        "style_recognised", "Style recognised", "higher",
        "How surely a classifier of drawn styles takes a picture for this style, on average.",
        percent=True,
    ),
    Metric(
        "content_recognised", "Content recognised", "higher",
        "Share of the things asked for that a classifier of the drawn world sees, in their colour.",
        percent=True,
    ),
    Metric(
        "leak", "Leak", "lower",
        "Share of pictures that show what all training pictures share, though nobody asked for it.",
        percent=True,
    ),
    Metric(
        "prompt_fidelity", "CLIP-T", "higher",
        "Does the picture show what its caption says? The style's words are left out.",
    ),
    Metric(
        "copy_rate", "Near-copies", "lower",
        "Share of pictures nearer to a training picture than real held-out ones are.",
        percent=True,
    ),
    Metric(
        "diversity", "Diversity", "near 1",
        "How many different pictures there are, against as many real ones (Vendi scores).",
    ),
    Metric(
        "cmmd_biased", "CMMD, biased", "lower",
        "CMMD as its paper computes it: above 0 at small n even for the same distribution.",
    ),
    Metric(
        "kid", "KID x 1000", "lower",
        "Another distance of the two sets, with a cubic kernel; it asks for 100 pictures. Figures "
        "from elsewhere are comparable on the same Inception features only.",
    ),
    Metric(
        "fid", "FID", "lower",
        "For the sake of old comparisons: at these numbers of pictures it mostly measures how many "
        "there are, and a collapsed model can score better.",
    ),
)  # fmt: skip
