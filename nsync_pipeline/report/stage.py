"""Report: all that came out of one style, as one page."""

from collections.abc import Mapping
from typing import Any

from nsync_pipeline.blind.choices import preferences, read_choices
from nsync_pipeline.evaluation.record import EvaluationRecord, read_evaluation
from nsync_pipeline.families.config import public_name
from nsync_pipeline.metrics.trainings import ENOUGH_TRAININGS
from nsync_pipeline.metrics.verdict import Comparison
from nsync_pipeline.pictures.style_pictures import StylePictures, read_style_pictures
from nsync_pipeline.report.charts import primary_charts
from nsync_pipeline.report.choices import choices_section
from nsync_pipeline.report.config import ReportSettings
from nsync_pipeline.report.figures import (
    Figures,
    Measured,
    digits_for,
    figures_table,
    percent,
    shown,
)
from nsync_pipeline.report.lineage import lineage, settings_text
from nsync_pipeline.report.page import Column, Page, VerdictCard, render
from nsync_pipeline.report.pictures import ReportPictures, read_picture_values
from nsync_pipeline.report.trainings import (
    film_strips,
    read_training,
    training_charts,
    training_notes,
    write_training_table,
)
from nsync_pipeline.report.words import (
    EMBEDDED_BASE,
    EMBEDDED_EXTRACTOR,
    WAY_OUT,
    difference,
    explained,
    headline,
    way_to_real,
    what_is_compared,
)
from nsync_pipeline.stage import Preview, StageContext, StageResult

REPORT_FILE = "report.html"
EMBEDDED = "sketchbook"

RULES: dict[str, str] = {
    "none": "plain fine-tuning",
    "orthogonal": "less the negatives' direction",
    "orthogonal_anchor": "the same, plus an anchor",
    "mean": "mean with the negatives' gradient",
    "released": "as the released code computes it",
}
"""What an update rule does, in a few words."""


def run(context: StageContext[ReportSettings]) -> StageResult:
    """Write ``reports/<style>/report.html`` from the artefacts of all other stages.

    Raises:
        MissingArtifactError: one is missing, or they do not fit together.
        ChoicesError: a file in ``choices/<style>`` is none of choices.
    """
    workspace, style = context.workspace, context.style
    params, folder = context.settings, context.folder
    variants, runs, first_seed = list(params.variants), params.runs, params.training_seeds[0]
    pictures = read_style_pictures(workspace, style, runs)
    evaluation = read_evaluation(workspace.evaluation(style))
    trainings = {run: read_training(workspace, style, run) for run in runs}
    summaries = {run: summary for run, (_, summary) in trainings.items()}
    # Curves of several trainings in one colour would hide one another: pictures and curves are of
    # the first seed's, figures and warnings of all.
    shown_runs = [run for run in runs if run.training_seed == first_seed]
    settings = params.report
    shown_pictures = ReportPictures(pictures, variants, first_seed, settings.picture_side)
    measured = _measured(evaluation)
    kept = read_choices(workspace, style, variants, params.training_seeds)
    preferred = preferences(kept, style, params.seed, params.bootstrap_draws)
    asks = not workspace.of_ablation  # blind pages are about the workspace's own variants
    shares = _shares(evaluation)
    head = headline(evaluation.against_base, evaluation.comparisons, shares)
    page = Page(
        style=style.replace("_", " "),
        headline=head,
        lede=_lede(pictures, evaluation),
        ribbon=shown_pictures.ribbon(),
        honest_note=_honest_note(params, pictures, evaluation),
        warnings=evaluation.warnings,
        shown_training=_shown_training(params),
        columns=_columns(
            params, {run.variant: summaries[run] for run in shown_runs}, pictures.side
        ),
        rows=shown_pictures.rows(settings.rows),
        progress=tuple(
            (name, variants.index(name), percent(share)) for name, share in shares.items()
        ),
        verdicts=tuple(
            _card(comparison) for comparison in (*evaluation.comparisons, *evaluation.against_base)
        ),
        paired_over=_resampled(evaluation),
        primary=tuple(primary_charts(measured, evaluation.floor)),
        choices=choices_section(style, variants, preferred, kept.set_aside, asks),
        table_columns=(*measured, Measured("chance", evaluation.floor)),
        table=tuple(figures_table([*measured, Measured("chance", evaluation.floor)])),
        readings=_readings(params, evaluation),
        pairs=shown_pictures.pairs(),
        charts=tuple(training_charts([trainings[run][0] for run in shown_runs])),
        training_notes=training_notes(summaries, variants),
        strips=film_strips(workspace, style, summaries, first_seed),
        copies=shown_pictures.copies(read_picture_values(workspace, style)),
        copies_text=_copies_text(evaluation),
        facts=lineage(workspace, style, pictures, evaluation, summaries),
        settings=settings_text({run.variant: summaries[run] for run in shown_runs}),
        picture_side=settings.picture_side,
    )
    write_training_table(
        folder / "plots" / "training.csv",
        {run: training for run, (training, _) in trainings.items()},
    )
    (folder / REPORT_FILE).write_text(render(page), encoding="utf-8", newline="\n")
    figures: dict[str, int | float | str] = {"verdict": head}
    figures |= {f"{name}, share of the way": round(share, 3) for name, share in shares.items()}
    figures |= {
        f"people chose {pair.a} over {pair.b}": round(pair.preference.win_rate.value, 3)
        for pair in preferred
    }
    return StageResult(
        figures=figures,
        previews=(Preview(f"{style}, side by side", shown_pictures.preview(style)),),
    )


def _lede(pictures: StylePictures, evaluation: EvaluationRecord) -> str:
    counts = evaluation.counts
    return (
        f"{counts['train']} pictures taught {public_name(pictures.base_model)} the style, once for "
        f"each way of training; then each checkpoint drew the captions of {counts['prompts']} "
        f"pictures it had not seen. {what_is_compared(counts['trainings'])}"
    )


def _shown_training(params: ReportSettings) -> str:
    if len(params.training_seeds) == 1:
        return ""
    return (
        f"Of {len(params.training_seeds)} trainings of each variant this shows the one of training "
        f"seed {params.training_seeds[0]}."
    )


def _resampled(evaluation: EvaluationRecord) -> str:
    """What the bootstrap resamples, and pairs differences over."""
    if evaluation.counts["trainings"] < ENOUGH_TRAININGS:
        return "captions"
    return "training seeds and captions"


def _honest_note(
    config: ReportSettings, pictures: StylePictures, evaluation: EvaluationRecord
) -> str | None:
    """What a reader must know where real pictures meet the embedded base or its features."""
    if config.source.startswith("sketchbook:"):
        return None
    notes = []
    if pictures.base_model == EMBEDDED:
        notes.append(EMBEDDED_BASE.format(side=pictures.side))
    if evaluation.extractors["CLIP"][0] == EMBEDDED:
        notes.append(EMBEDDED_EXTRACTOR)
    return " ".join([*notes, WAY_OUT]) if notes else None


def _columns(
    config: ReportSettings, summaries: Mapping[str, Mapping[str, Any]], side: int
) -> tuple[Column, ...]:
    return (
        Column("Real", None, f"held out, as seen at {side} px"),
        Column("Base", None, f"untrained, “{config.generic_style}”"),
        *(
            Column(name, colour, way_of_training(summary["settings"]))
            for colour, (name, summary) in enumerate(summaries.items())
        ),
    )


def way_of_training(settings: Mapping[str, Any]) -> str:
    """The update rule in a few words, and the options of the contrast that are on."""
    on = {
        "shared noise": settings["shared_noise"],
        "positive part": settings["contrast"]["positive_part"],
        "content dropout": settings["content_dropout"] > 0,
    }
    return ", ".join(
        [RULES[settings["update_rule"]], *(name for name, is_on in on.items() if is_on)]
    )


def _measured(evaluation: EvaluationRecord) -> tuple[Measured, ...]:
    return (
        Measured("base", evaluation.base),
        *(
            Measured(name, figures, colour, _each(evaluation, name))
            for colour, (name, figures) in enumerate(evaluation.variants.items())
        ),
        Measured("real", evaluation.ceiling),
    )


def _each(evaluation: EvaluationRecord, variant: str) -> tuple[Figures, ...]:
    """The figures of each training, where there are several."""
    each = tuple(evaluation.trainings[variant].values())
    return each if len(each) > 1 else ()


def _shares(evaluation: EvaluationRecord) -> dict[str, float]:
    """How far each variant's style margin is on the way from the base's to the real pictures'."""
    base, real = (
        figures["style_margin"].value for figures in (evaluation.base, evaluation.ceiling)
    )
    shares = {
        name: way_to_real(figures["style_margin"].value, base, real)
        for name, figures in evaluation.variants.items()
    }
    return {name: share for name, share in shares.items() if share is not None}


def _card(comparison: Comparison) -> VerdictCard:
    return VerdictCard(
        title=f"{comparison.a} against {comparison.b}",
        verdict=comparison.verdict,
        reason=explained(comparison),
        style_margin=difference(comparison.style_margin),
        cmmd=difference(comparison.cmmd),
    )


def _readings(config: ReportSettings, evaluation: EvaluationRecord) -> tuple[tuple[str, str], ...]:
    """What the columns beside the variants say."""
    counts = evaluation.counts
    trainings = ""
    if counts["trainings"] > 1:
        trainings = f"A variant's figures are means over {counts['trainings']} trainings. "
    return (
        ("base", f"The untrained base, asked for “{config.generic_style}”: where training starts."),
        (
            "real",
            "The ceiling: training pictures, measured as if they had been drawn. Nothing should be "
            "expected to be better. (Its near-copies are those among the held-out pictures.)",
        ),
        (
            "chance",
            "The floor: two random halves of the real pictures against each other, the middle 95 % "
            "of many splits. A distance in that range is none.",
        ),
        (
            "small print",
            f"Every set has {counts['pictures']} pictures of {counts['prompts']} captions. "
            f"{trainings}The 95 % intervals resample the {_resampled(evaluation)}. Distances are "
            "unbiased and x 1000; pairs of one caption are left out.",
        ),
    )


def _copies_text(evaluation: EvaluationRecord) -> str:
    digits = digits_for([evaluation.copy_threshold])
    return (
        "Left what a checkpoint drew, right the training picture nearest to it, the closest first. "
        "A picture counts as a near-copy below a distance of "
        f"{shown(evaluation.copy_threshold, digits)}: hardly any held-out real picture is as near "
        "to a training picture."
    )
