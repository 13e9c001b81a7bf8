"""Every metric of one set of pictures, against references fixed before any set is looked at.

A *unit* is a caption with its pictures: units 0 .. P-1 are the held-out captions (each with its
real test picture and what was generated for it), units P .. P+T-1 the training pictures. Intervals
resample units.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nsync_pipeline.metrics.bootstrap import Interval, interval, mean_under, prompt_means
from nsync_pipeline.metrics.distances import (
    CMMD_SIGMA,
    Floats,
    Indices,
    Kernel,
    PairSums,
    PromptKernels,
    frechet_distance,
    half_splits,
    median_distance,
    mmd_biased,
    mmd_unbiased,
    pair_sums,
    polynomial_kernel,
    rbf,
)
from nsync_pipeline.metrics.picture_metrics import (
    binomial_rate,
    copy_threshold,
    nearest,
    prompt_fidelity,
    prototype,
    style_scores,
    vendi_at,
    vendi_score,
)

FLOOR_SPLITS = 200
FRECHET_SPLITS = 20
"""Of the FID's floor: a singular value decomposition each."""
DIVERSITY_DRAWS = 200
"""Each draw of the diversity's interval is two eigenvalue problems, so it takes fewer."""


@dataclass(frozen=True)
class PictureSet:
    """Features of pictures and of their captions, a row a picture; of one extractor, or of four."""

    pictures: Floats  # (N, d) unit rows of CLIP: the look of the set, and likeness to captions
    captions: Floats  # (N, d) unit rows of the same CLIP
    plain: Floats  # (N, f) rows that were not scaled to unit length: KID and FID
    style: Floats  # (N, s) unit rows: who is nearest to which style
    likeness: Floats  # (N, l) unit rows: spread, copies, diversity
    unit: Indices  # (N,)
    judged: Mapping[str, Floats] = field(default_factory=dict)
    """Values a picture, (N,), of metrics that a judge of the drawn world gives; by their names."""

    def first(self, count: int) -> "PictureSet":
        """The first ``count`` rows, or all."""
        return self._rows(np.arange(min(count, len(self.unit))))

    def of_units(self, units: Indices) -> "PictureSet":
        """The rows of these units."""
        return self._rows(np.flatnonzero(np.isin(self.unit, units)))

    def _rows(self, rows: Indices) -> "PictureSet":
        judged = {name: values[rows] for name, values in self.judged.items()}
        others = {name: values[rows] for name, values in vars(self).items() if name != "judged"}
        return PictureSet(**others, judged=judged)


@dataclass(frozen=True)
class Reference:
    """What every set is measured against."""

    test: PictureSet
    train: PictureSet
    target: Floats  # (s,) the style's prototype, of the test pictures
    rivals: Floats  # (K, s) the other prototypes
    rival_names: tuple[str, ...]
    bandwidth: float  # the median distance of all real pictures
    copy_threshold: float
    discrepancies: tuple["Discrepancy", ...]
    _vendi: list[Floats] = field(default_factory=list, repr=False, compare=False)
    """The last draws that were asked for, and the test pictures' diversity under them."""

    @property
    def units(self) -> int:
        return len(self.test.unit) + len(self.train.unit)


@dataclass(frozen=True)
class Discrepancy:
    """One of the discrepancies between a set and the test pictures."""

    name: str
    features: str  # which of a ``PictureSet``
    kernel: Kernel
    of_test: PairSums  # within the test pictures: the same for all sets


@dataclass(frozen=True)
class PictureScores:
    style_cosine: Floats  # (N,), as all of them
    style_margin: Floats
    rival: Indices  # into Reference.rival_names
    prompt_fidelity: Floats
    nearest: Indices  # row of the nearest training picture
    distance: Floats  # to it
    copied: Indices  # 1 where it counts as a copy, else 0


@dataclass(frozen=True)
class SetScores:
    """All figures of one set; a metric that cannot be computed at its size is not there."""

    figures: dict[str, Interval]
    pictures: PictureScores
    draws: dict[str, Floats]  # (D,) of the metrics that have draws; (DIVERSITY_DRAWS,) of that


def make_reference(
    test: PictureSet, train: PictureSet, rivals: Mapping[str, Floats], copy_quantile: float
) -> Reference:
    """Fix the prototypes, the bandwidth and the copy threshold.

    ``rivals`` are style features by name.

    Raises:
        ValueError: a set is empty, or the real pictures are all the same to the extractor.
    """
    bandwidth = median_distance(np.concatenate([test.likeness, train.likeness]))
    kernels: tuple[tuple[str, str, Kernel], ...] = (
        ("cmmd", "pictures", rbf(CMMD_SIGMA)),
        ("mmd", "likeness", rbf(bandwidth)),
        ("kid", "plain", polynomial_kernel),
    )
    return Reference(
        test=test,
        train=train,
        target=prototype(test.style),
        rivals=np.stack([prototype(features) for features in rivals.values()]),
        rival_names=tuple(rivals),
        bandwidth=bandwidth,
        copy_threshold=copy_threshold(
            nearest(test.likeness, train.likeness).distance, copy_quantile
        ),
        discrepancies=tuple(
            Discrepancy(name, rows, kernel, _pair_sums(test, test, rows, kernel))
            for name, rows, kernel in kernels
        ),
    )


def _pair_sums(a: PictureSet, b: PictureSet, features: str, kernel: Kernel) -> PairSums:
    return pair_sums(getattr(a, features), a.unit, getattr(b, features), b.unit, kernel)


def score_set(
    shown: PictureSet, reference: Reference, weights: Floats, rng: np.random.Generator
) -> SetScores:
    """Score generated pictures against the held-out real ones; ``weights`` are draws (D, units)."""
    scores = score_pictures(shown, reference)
    per_picture = {
        "style_margin": scores.style_margin,
        "style_cosine": scores.style_cosine,
        "prompt_fidelity": scores.prompt_fidelity,
        **shown.judged,
    }
    figures: dict[str, Interval] = {}
    draws: dict[str, Floats] = {}
    for name, values in per_picture.items():
        means = prompt_means(values, shown.unit, reference.units)
        draws[name] = mean_under(weights, means)
        figures[name] = interval(float(np.nanmean(means)), draws[name])
    everyone = np.ones((1, reference.units))
    real, biased = reference.test, dict[str, float]()
    for of in reference.discrepancies:
        kernels = PromptKernels(
            xx=_pair_sums(shown, shown, of.features, of.kernel),
            yy=of.of_test,
            xy=_pair_sums(shown, real, of.features, of.kernel),
        )
        draws[of.name] = mmd_unbiased(kernels, weights)
        figures[of.name] = interval(float(mmd_unbiased(kernels, everyone)[0]), draws[of.name])
        biased[of.name] = mmd_biased(kernels)
    figures["cmmd_biased"] = Interval(biased["cmmd"])
    if min(len(shown.plain), len(real.plain)) > 1:
        figures["fid"] = Interval(frechet_distance(shown.plain, real.plain))
    figures["copy_rate"] = binomial_rate(int(scores.copied.sum()), len(scores.copied))
    diversity_ratio, draws["diversity"] = _diversity(shown, reference, weights, rng)
    figures["diversity"] = interval(diversity_ratio, draws["diversity"])
    defined = {name: figure for name, figure in figures.items() if np.isfinite(figure.value)}
    return SetScores(figures=defined, pictures=scores, draws=draws)


def score_ceiling(
    reference: Reference, size: int, weights: Floats, rng: np.random.Generator
) -> dict[str, Interval]:
    """What real pictures score: training pictures, at most ``size``, as if they were generated.

    Their copy rate is that of the test pictures, which the threshold was set by.
    """
    figures = score_set(reference.train.first(size), reference, weights, rng).figures
    distances = nearest(reference.test.likeness, reference.train.likeness).distance
    copies = int((distances < reference.copy_threshold).sum())
    return {**figures, "copy_rate": binomial_rate(copies, len(distances))}


def score_floor(reference: Reference, size: int, rng: np.random.Generator) -> dict[str, Interval]:
    """The distances between two random halves of the real pictures, at most ``size`` each.

    The interval is the middle 95 % of the splits. Empty where there are too few real pictures.
    """
    test, train = reference.test, reference.train
    looks = np.concatenate([test.pictures, train.pictures])
    likeness = np.concatenate([test.likeness, train.likeness])
    plain = np.concatenate([test.plain, train.plain])
    size = min(size, len(looks) // 2)
    if size < 2:
        return {}
    cmmd = half_splits(looks, size, rbf(CMMD_SIGMA), FLOOR_SPLITS, rng)
    mmd = half_splits(likeness, size, rbf(reference.bandwidth), FLOOR_SPLITS, rng)
    kid = half_splits(plain, size, polynomial_kernel, FLOOR_SPLITS, rng)
    orders = [rng.permutation(len(plain)) for _ in range(FRECHET_SPLITS)]
    fid = [frechet_distance(plain[o[:size]], plain[o[size : 2 * size]]) for o in orders]
    columns = {
        "cmmd": cmmd.unbiased,
        "mmd": mmd.unbiased,
        "cmmd_biased": cmmd.biased,
        "kid": kid.unbiased,
        "fid": np.asarray(fid),
    }
    return {name: interval(float(values.mean()), values) for name, values in columns.items()}


def score_pictures(shown: PictureSet, reference: Reference) -> PictureScores:
    """The values of single pictures."""
    style = style_scores(shown.style, reference.target, reference.rivals)
    neighbour = nearest(shown.likeness, reference.train.likeness)
    return PictureScores(
        style_cosine=style.cosine,
        style_margin=style.margin,
        rival=style.rival,
        prompt_fidelity=prompt_fidelity(shown.pictures, shown.captions),
        nearest=neighbour.index,
        distance=neighbour.distance,
        copied=(neighbour.distance < reference.copy_threshold).astype(np.int64),
    )


def _diversity(
    shown: PictureSet, reference: Reference, weights: Floats, rng: np.random.Generator
) -> tuple[float, Floats]:
    """The ratio, and what it is under each of the first ``DIVERSITY_DRAWS`` draws."""
    real = reference.test
    size = min(len(shown.unit), len(real.unit))
    value = vendi_at(shown.likeness, size, rng) / vendi_at(real.likeness, size, rng)
    rows = [
        (_subset(shown, size, rng), _subset(real, size, rng)) for _ in weights[:DIVERSITY_DRAWS]
    ]
    of_shown = _vendi_under(weights, shown, [first for first, _ in rows])
    return value, of_shown / _vendi_of_test(reference, weights, [second for _, second in rows])


def _vendi_of_test(reference: Reference, weights: Floats, rows: Sequence[Indices]) -> Floats:
    """As ``_vendi_under``; of all test pictures it is the same for all sets, and kept."""
    is_whole, known = len(rows[0]) == len(reference.test.unit), reference._vendi
    if is_whole and known and known[0] is weights:
        return known[1]
    found = _vendi_under(weights, reference.test, rows)
    if is_whole:
        known[:] = weights, found
    return found


def _subset(pictures: PictureSet, size: int, rng: np.random.Generator) -> Indices:
    """``size`` rows drawn without replacement, in order."""
    rows: Indices = np.sort(rng.permutation(len(pictures.unit))[:size])
    return rows


def _vendi_under(weights: Floats, pictures: PictureSet, rows: Sequence[Indices]) -> Floats:
    """The score of some rows under each draw; nan where none of them is in it."""
    scores = []
    for draw, chosen in zip(weights, rows, strict=False):
        counts = draw[pictures.unit[chosen]]
        drawn = counts > 0  # two thirds of them
        features = pictures.likeness[chosen[drawn]]
        scores.append(vendi_score(features, counts[drawn]) if drawn.any() else float("nan"))
    return np.asarray(scores)
