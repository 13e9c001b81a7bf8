"""Report: all that came out of one style, as one page."""

import pyarrow.parquet as pq

from nsync_pipeline.adaptation.saved_steps import chosen_weights
from nsync_pipeline.blind.choices import preferences, read_choices
from nsync_pipeline.drawing.prompts import style_phrase
from nsync_pipeline.evaluation.record import PICTURES_FILE, EvaluationRecord, read_evaluation
from nsync_pipeline.families.config import public_name
from nsync_pipeline.metrics.trainings import ENOUGH_TRAININGS
from nsync_pipeline.pictures.style_pictures import read_style_pictures
from nsync_pipeline.report.charts import primary_charts
from nsync_pipeline.report.choices import choices_section
from nsync_pipeline.report.config import ReportSettings
from nsync_pipeline.report.curves import curves_section
from nsync_pipeline.report.figures import Measured, digits_for, figures_table, shown
from nsync_pipeline.report.lineage import lineage, settings_text
from nsync_pipeline.report.page import render
from nsync_pipeline.report.pictures import ReportPictures
from nsync_pipeline.report.plots import write_plots
from nsync_pipeline.report.trainings import (
    film_strips,
    read_training,
    training_charts,
    training_notes,
)
from nsync_pipeline.report.words import (
    cannot_be_judged,
    headline,
    leader,
    way_of_training,
    way_to_real,
    what_is_compared,
)
from nsync_pipeline.stage import Preview, StageContext, StageResult
from nsync_pipeline.workspace import PLOTS_FOLDER, SKETCHBOOK, SKETCHBOOK_PREFIX, training_runs

REPORT_FILE = "report.html"


def run(context: StageContext[ReportSettings]) -> StageResult:
    """Write ``reports/<style>/report.html`` from the artefacts of all other stages.

    Raises:
        MissingArtifactError: one is missing, or they do not fit together.
        ChoicesError: a file in ``choices/<style>`` is none of choices.
    """
    workspace, style = context.workspace, context.style
    params, folder = context.settings, context.folder
    variants, seeds = list(params.variants), params.training_seeds
    runs = training_runs(variants, seeds)
    evaluation = read_evaluation(workspace.evaluation(style))
    points = [way.key for way in evaluation.curves.ways[1:]] if evaluation.curves else []
    by_name = evaluation.by_name
    pictures = read_style_pictures(workspace, style, runs, points, by_name is not None)
    rows_of_pictures = pq.read_table(workspace.evaluation(style) / PICTURES_FILE).to_pylist()
    trainings = {run: read_training(workspace, style, run) for run in runs}
    summaries = {run: summary for run, (_, summary) in trainings.items()}
    places = {
        run: chosen_weights(
            workspace.model(style, run.variant, run.training_seed),
            params.use_steps.get(run.name),
            f"{style}, {run.name}",
        )
        for run in runs
    }
    # Curves of several trainings in one colour would hide one another: pictures and curves are of
    # the first seed's, figures and warnings of all.
    shown_runs = [run for run in runs if run.training_seed == seeds[0]]
    shown_summaries = {run.variant: summaries[run] for run in shown_runs}
    shown_pictures = ReportPictures(pictures, variants, seeds[0], params.report.picture_side)
    measured = _measured(evaluation)
    columns = [*measured, Measured("chance", evaluation.floor)]
    kept = read_choices(workspace, style, variants, seeds)
    preferred = preferences(kept, style, params.seed, params.bootstrap_draws)
    asks = not workspace.of_ablation  # blind pages are about the workspace's own variants
    of_real = not params.source.startswith(SKETCHBOOK_PREFIX)
    blind_base = of_real and pictures.base_model == SKETCHBOOK
    blind_features = of_real and evaluation.extractors["CLIP"][0] == SKETCHBOOK
    # Of real pictures the embedded models know nothing: what they say of the style is left out.
    judged = not (blind_base or blind_features)
    shares = _shares(evaluation) if judged else {}
    head = headline(evaluation.against_base, evaluation.comparisons, shares)
    if not judged:
        head = cannot_be_judged(blind_base)
    compared = [*evaluation.comparisons, *evaluation.against_base]
    compared += by_name.comparisons if by_name else []
    enough = evaluation.counts["trainings"] >= ENOUGH_TRAININGS
    html = render(
        style=style.replace("_", " "),
        headline=head,
        base_model=public_name(pictures.base_model),
        compared=what_is_compared(evaluation.counts["trainings"]),
        ribbon=shown_pictures.ribbon(),
        real_on_embedded_base=blind_base,
        real_on_embedded_features=blind_features,
        warnings=evaluation.warnings,
        training_seeds=seeds,
        generic_style=params.generic_style,
        known_as=by_name.name if by_name else None,
        side=pictures.side,
        variants={name: way_of_training(s["settings"]) for name, s in shown_summaries.items()},
        rows=shown_pictures.rows(params.report.rows),
        progress=[(name, variants.index(name), share) for name, share in shares.items()],
        comparisons=compared if judged else [],
        resampled="training seeds and captions" if enough else "captions",
        primary=primary_charts(measured, evaluation.floor),
        curves=curves_section(evaluation.curves, variants, shown_pictures),
        choices=choices_section(style, variants, preferred, kept.set_aside, asks),
        table_columns=columns,
        table=figures_table(columns),
        counts=evaluation.counts,
        pairs=shown_pictures.pairs(),
        charts=training_charts([trainings[run][0] for run in shown_runs]),
        training_notes=training_notes(summaries, variants),
        strips=film_strips(workspace, style, summaries, seeds[0], places),
        copies=shown_pictures.copies(rows_of_pictures),
        copy_threshold=shown(evaluation.copy_threshold, digits_for([evaluation.copy_threshold])),
        facts=lineage(workspace, style, pictures, evaluation, summaries, places),
        settings=settings_text(shown_summaries),
        picture_side=params.report.picture_side,
        of_ablation=workspace.of_ablation,
        style_key=style,
        leader=leader(variants, evaluation.comparisons),
        models={
            run.variant: places[run].relative_to(workspace.root).as_posix() for run in shown_runs
        },
        trigger=style_phrase(params.placeholder),
    )
    (folder / REPORT_FILE).write_text(html, encoding="utf-8", newline="\n")
    write_plots(
        folder / PLOTS_FOLDER, measured, [trainings[run][0] for run in shown_runs], rows_of_pictures
    )
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


def _measured(evaluation: EvaluationRecord) -> list[Measured]:
    columns = [Measured(name, figures) for name, figures in evaluation.untrained.items()]
    for colour, (name, figures) in enumerate(evaluation.variants.items()):
        each = tuple(evaluation.trainings[name].values())
        columns.append(Measured(name, figures, colour, each if len(each) > 1 else ()))
    return [*columns, Measured("real", evaluation.ceiling)]


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
