"""Evaluation: every training of every variant, and the base, against the held-out real pictures."""

from collections.abc import Iterator
from functools import partial
from itertools import combinations

import numpy as np

from nsync_pipeline.errors import EvaluationError
from nsync_pipeline.evaluation.config import EvaluationConfig, EvaluationSettings
from nsync_pipeline.evaluation.curves import Drawn, Scoring, measure_curves
from nsync_pipeline.evaluation.features import FeatureReader, drawn_world_judge, load_extractors
from nsync_pipeline.evaluation.record import (
    FIRST_METRICS,
    ByName,
    EvaluationRecord,
    picture_rows,
    write_evaluation,
)
from nsync_pipeline.families.placement import choose_device
from nsync_pipeline.metrics.bootstrap import prompt_draws
from nsync_pipeline.metrics.distances import Floats
from nsync_pipeline.metrics.extractor import ClipExtractor
from nsync_pipeline.metrics.feature_cache import FeatureCache
from nsync_pipeline.metrics.features import EMBEDDED
from nsync_pipeline.metrics.scores import (
    SetScores,
    make_reference,
    score_ceiling,
    score_floor,
    score_set,
)
from nsync_pipeline.metrics.trainings import of_base, over_trainings, seed_weights
from nsync_pipeline.metrics.verdict import compare
from nsync_pipeline.pictures.style_pictures import StylePictures, read_style_pictures
from nsync_pipeline.seeding import numpy_stream
from nsync_pipeline.stage import StageContext, StageResult
from nsync_pipeline.workspace import (
    BASE,
    BASE_BY_NAME,
    SKETCHBOOK_PREFIX,
    TrainingRun,
    training_runs,
)

ENOUGH = 50
"""Below so many pictures the metrics move by chance more than by what is compared."""
ENOUGH_FOR_KID = 100
ENOUGH_FOR_FID = 10_000  # and as many as twice the features


def run(context: StageContext[EvaluationSettings]) -> StageResult:
    """Score ``base`` and all trainings of one style; writes ``evaluation/<style>``.

    Raises:
        MissingArtifactError: an earlier stage's artefact is missing, or they do not fit together.
        EvaluationError: the extractor cannot be used, or cannot tell the real pictures apart.
    """
    params, folder = context.settings, context.folder
    settings, runs = params.evaluation, training_runs(params.variants, params.training_seeds)
    ways = params.drawn.ways
    points = [way.key for way in ways[1:]]
    by_name = params.known_as is not None
    pictures = read_style_pictures(context.workspace, context.style, runs, points, by_name)
    device = str(choose_device(params.device))
    extractors = load_extractors(settings, context.workspace.root, device)
    reader = FeatureReader(
        pictures,
        extractors,
        FeatureCache(context.workspace.scratch("features")),
        settings.batch_size,
        drawn_world_judge(params.source),
        context.progress,
    )
    test, train = reader.test(), reader.train()
    shown = {name: reader.samples(name) for name in (BASE, *(run.name for run in runs))}
    if by_name:
        shown[BASE_BY_NAME] = reader.samples(BASE, BASE_BY_NAME)
    rivals = {"negatives": reader.negatives(), "base": shown[BASE].style}
    if extractors.style.name == EMBEDDED:
        rivals |= reader.seen_styles(params.seed)
    try:
        reference = make_reference(test, train, rivals, settings.copy_quantile)
    except ValueError as error:
        raise EvaluationError(
            f"{context.style}: the extractor cannot tell its real pictures apart: {error}."
        ) from error

    # Each draw has a stream of its own, so that no set changes another's figures.
    def stream(what: str, name: str) -> np.random.Generator:
        return numpy_stream(params.seed, "evaluation", context.style, what, name)

    # Held-out captions and training pictures are resampled apart: how many there are is fixed.
    count = settings.bootstrap_draws
    of_test = prompt_draws(len(test.unit), count, stream("units", "test"))
    of_train = prompt_draws(len(train.unit), count, stream("units", "train"))
    draws = np.concatenate([of_test, of_train], axis=1)
    size = len(shown[BASE].unit)
    scores: dict[str, SetScores] = {}
    for name, pictures_of in shown.items():
        context.progress("scoring", len(scores), len(shown))
        scores[name] = score_set(pictures_of, reference, draws, stream("diversity", name))
    context.progress("scoring", len(shown), len(shown))
    ceiling = score_ceiling(reference, size, draws, stream("diversity", "real"))
    floor = score_floor(reference, size, stream("halves", "real"))
    # The same seeds for all variants: trainings of one seed share their batches and noise, so the
    # difference of two variants is paired over seeds as it is over captions.
    weights = seed_weights(len(params.training_seeds), count, stream("training seeds", "all"))
    untrained = [name for name in (BASE, BASE_BY_NAME) if name in scores]
    measured = {name: of_base(scores[name]) for name in untrained}
    for variant in params.variants:
        own = [scores[run.name] for run in runs if run.variant == variant]
        measured[variant] = over_trainings(own, weights)
    curves = None
    if points:
        in_ways = {(run, ways[0].key): shown[run.name] for run in runs}
        in_ways |= {
            (run, point): reader.samples(run.name, point) for run in runs for point in points
        }
        curves = measure_curves(
            ways, runs, Drawn(shown[BASE], in_ways),
            Scoring(reference, draws, weights, ceiling, settings.guardrails, stream), scores,
            partial(context.progress, "scoring ways of drawing"),
            can_judge=params.source.startswith(SKETCHBOOK_PREFIX)
            or EMBEDDED not in (pictures.base_model, extractors.clip.name),
        )  # fmt: skip
    # The later variant of params.yaml is asked whether it beats the earlier one.
    pairs = [(later, earlier) for earlier, later in combinations(params.variants, 2)]
    to_base = {base: [(name, base) for name in params.variants] for base in untrained}
    record = EvaluationRecord(
        base=measured[BASE].figures,
        variants={name: measured[name].figures for name in params.variants},
        trainings={
            name: {
                seed: scores[TrainingRun(name, seed).name].figures for seed in params.training_seeds
            }
            for name in params.variants
        },
        ceiling=ceiling,
        floor=floor,
        comparisons=compare(pairs, measured, ceiling, settings.guardrails),
        against_base=compare(to_base[BASE], measured, ceiling, settings.guardrails),
        warnings=tuple(_warnings(pictures, extractors.clip, settings, test.plain)),
        counts={
            "train": len(train.unit),
            "test": len(test.unit),
            "negatives": len(pictures.negatives),
            "prompts": len({sample.prompt_id for sample in pictures.samples[BASE]}),
            "pictures": size,
            "trainings": len(params.training_seeds),
            "bootstrap_draws": count,
        },
        side=pictures.side,
        extractors={
            role: (extractor.name, extractor.sha256)
            for role, extractor in extractors.by_role().items()
        },
        rivals=reference.rival_names,
        mmd_bandwidth=reference.bandwidth,
        copy_threshold=reference.copy_threshold,
        curves=curves,
        by_name=ByName(
            params.known_as,
            measured[BASE_BY_NAME].figures,
            compare(to_base[BASE_BY_NAME], measured, ceiling, settings.guardrails),
        )
        if params.known_as is not None
        else None,
    )
    rows = [
        row
        for name, run in {BASE: None, **{run.name: run for run in runs}}.items()
        for row in picture_rows(pictures, run, scores[name].pictures, shown[name].judged, reference)
    ]
    write_evaluation(folder, record, rows)
    return StageResult(figures=_figures(record))


def _figures(record: EvaluationRecord) -> dict[str, int | float | str]:
    figures: dict[str, int | float | str] = {"pictures": record.counts["pictures"]}
    for name, measured in {**record.untrained, **record.variants}.items():
        for metric in FIRST_METRICS:
            if metric in measured:
                figures[f"{name} {metric}"] = float(f"{measured[metric].value:.4g}")
    for compared in record.comparisons:
        figures[f"{compared.a} against {compared.b}"] = compared.verdict
    if record.curves is not None:
        words = {way.key: way.words for way in record.curves.ways}
        best = record.curves.best.items()
        figures |= {f"{name} is best drawn": words[choice.way] for name, choice in best}
        areas = record.curves.areas.items()
        figures |= {f"{name} area": float(f"{area.value:.4g}") for name, area in areas}
    return figures


def _warnings(
    pictures: StylePictures, clip: ClipExtractor, settings: EvaluationConfig, plain: Floats
) -> Iterator[str]:
    drawn = pictures.samples[BASE]
    prompts = len({sample.prompt_id for sample in drawn})
    counts = {"held-out captions were drawn": prompts, "training pictures": len(pictures.train)}
    for what, count in counts.items():
        if count < ENOUGH:
            yield (
                f"Only {count} {what}; below {ENOUGH} these metrics move by chance more than by "
                "what is compared."
            )
    if cut := len(clip.too_long(sorted({sample.caption for sample in drawn}))):
        yield (
            f"{cut} captions are longer than the feature extractor reads: CLIP-T judges their "
            "beginning."
        )
    if settings.inception_extractor is None:
        return
    # On Inception features: before KID and FID are held against those of others.
    count, needed = min(len(drawn), len(plain)), max(ENOUGH_FOR_FID, 2 * plain.shape[1])
    if count < ENOUGH_FOR_KID:
        yield f"KID of {count} pictures moves by chance; it asks for {ENOUGH_FOR_KID}."
    if count < needed:
        yield (
            f"FID of {count} pictures measures how many there are more than what they show; it "
            f"asks for {needed:,}, and compares with a figure at the same number only."
        )
