"""Training a style: its settings, its start, and what to see meanwhile."""

import re
from typing import Any

from starlette.responses import FileResponse, Response

from nsync_pipeline.doctor.findings import captioner_finding
from nsync_pipeline.doctor.memory import CardPreset, card_presets
from nsync_pipeline.errors import BaseModelError, UserError
from nsync_pipeline.graph.progress import running
from nsync_pipeline.graph.settings import choose_step, write_settings
from nsync_pipeline.report.trainings import shown_names
from nsync_pipeline.report.words import way_of_training
from nsync_pipeline.studio import settings_form, watch_desk
from nsync_pipeline.studio.jobs import Kind, dagster_runs, making
from nsync_pipeline.studio.page import NOT_THERE, Visit, rendered

A_WHILE = {"Cache-Control": "private, max-age=600"}


def train_page(visit: Visit) -> Response:
    graph, style, cards = visit.graph, visit.style, visit.cards()
    groups = settings_form.settings_groups(graph.params, style)
    settings = {setting.key: setting for group in groups for setting in group.settings}
    standings = graph.standings([style])
    return visit.tab(
        "train", found=visit.pictures, groups=groups,
        main=[settings[key] for key in settings_form.MAIN if key in settings],
        uncaptioned=sum(not card.raw for card in cards), count=len(cards),
        captioner=captioner_finding(graph.params),
        queue=watch_desk.queue(graph, standings, running(visit.workspace)),
        by_dagster=dagster_runs(visit.workspace),
        on_sketchbook=graph.params.base_model.name == "sketchbook",
        ways={
            name: way_of_training(graph.params.variant(name).model_dump())
            for name in graph.params.variants
        },
    )  # fmt: skip


def save_settings(visit: Visit) -> Response:
    groups = settings_form.settings_groups(visit.params, visit.style)
    answers = {name: values[-1] for name, values in visit.form.items()}
    scope = visit.given("only").split()
    if scope:  # a form with some of the settings, none of them a switch
        answers = {name: value for name, value in answers.items() if name in scope}
    values = settings_form.asked_values(groups, answers, switches_shown=not scope)
    write_settings(visit.workspace, values)
    said = f"Saved in params.yaml: {', '.join(values)}." if values else "Nothing was changed."
    return visit.go_back("train", said)


def presets(visit: Visit) -> Response:
    presets: list[CardPreset] | None = None
    problem = ""
    try:
        presets = card_presets(visit.params)
    except BaseModelError as error:
        problem = str(error)
    return rendered(
        "presets.html", style=visit.style, presets=presets, problem=problem,
        base=visit.params.base_model.name,
    )  # fmt: skip


def start_training(visit: Visit) -> Response:
    params, style = visit.params, visit.style
    variants = visit.form.get("variant", [])
    if not variants:
        raise UserError("Choose at least one variant to train.")
    for variant in variants:
        params.variant(variant)
    seeds = _seeds(visit.given("training_seeds"), params.training_seeds)
    every = set(params.training_seeds)
    if tuple(seeds) != params.training_seeds:
        every |= set(seeds)
        write_settings(visit.workspace, {"training_seeds": sorted(every)})
    all_variants = set(variants) == set(params.variants)
    command = making(
        visit.workspace, style, () if all_variants else variants,
        () if set(seeds) == every else seeds,
    )  # fmt: skip
    visit.desk.jobs.start(Kind.MAKE, style, f"Training {style}", command)
    return visit.go_to("watch")


def _seeds(text: str, otherwise: tuple[int, ...]) -> list[int]:
    if not text.strip():
        return list(otherwise)
    try:
        seeds = [int(part) for part in re.split(r"[\s,]+", text.strip())]
    except ValueError as error:
        raise UserError("Training seeds are whole numbers with commas between: 0, 1, 2") from error
    return list(dict.fromkeys(seeds))


def stop(visit: Visit) -> Response:
    kind = Kind.DRAW if visit.given("kind") == Kind.DRAW else Kind.MAKE
    stopped = visit.desk.jobs.stop(kind)
    visit.desk.jobs.wait(kind, 5.0)
    said = "Stopped. Start it again to go on from there." if stopped else "Nothing was running."
    return visit.go_back("/", said)


def _watching(visit: Visit) -> dict[str, Any]:
    graph, style = visit.graph, visit.style
    standings, lines = graph.standings([style]), running(visit.workspace)
    trainings = watch_desk.watched(graph, style, standings, lines)
    names = shown_names(graph.params.training_runs())
    return {
        "trainings": trainings, "names": names, "curves": watch_desk.curves(trainings, names),
        "queue": watch_desk.queue(graph, standings, lines),
        "watch_every": graph.params.training.watch.every,
    }  # fmt: skip


def watch_page(visit: Visit) -> Response:
    return visit.tab("watch", **_watching(visit))


def watch_live(visit: Visit) -> Response:
    job = visit.desk.jobs.job(Kind.MAKE)
    return rendered(
        "watch_live.html", graph=visit.graph, style=visit.style, job=job, **_watching(visit)
    )


def look(visit: Visit) -> Response:
    name, step, place = visit.asked("run"), visit.asked("step"), visit.asked("place")
    run = next((run for run in visit.params.training_runs() if run.name == name), None)
    if run is None or not step.isdigit():
        return NOT_THERE
    is_live = visit.asked("where") == watch_desk.LIVE
    where = watch_desk.LIVE if is_live else watch_desk.OF_ARTEFACT
    folder = watch_desk.folder_of(visit.workspace, visit.style, run, where)
    file = folder / "looks" / f"{int(step):08d}.jpg"
    if not file.is_file():
        return NOT_THERE
    if not place:
        return FileResponse(file, media_type="image/jpeg")
    count, cell = len(watch_desk.look_prompts(folder)), None
    if place.isdecimal() and int(place) < count:
        cell = watch_desk.cell_of(file.read_bytes(), int(place), count)
    return NOT_THERE if cell is None else Response(cell, media_type="image/png", headers=A_WHILE)


def choose(visit: Visit) -> Response:
    """One of the weights that a training saved is the one from now on."""
    run, step = visit.run(visit.given("run")), visit.given("step")
    if not step.isdecimal():
        raise UserError("Choose one of the steps that were saved.")
    used = choose_step(visit.workspace, visit.params, visit.style, run, int(step))
    said = f"Step {used} of {run.name} is used from now on. Press Train to draw and measure it."
    return visit.go_to("watch", said)
