"""Training a style: its settings, its start, and what to see meanwhile."""

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    Response,
)

from nsync_pipeline.doctor.findings import captioner_finding
from nsync_pipeline.doctor.memory import CardPreset, card_presets
from nsync_pipeline.errors import BaseModelError, UserError
from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.graph.progress import running
from nsync_pipeline.graph.settings import choose_step, write_settings
from nsync_pipeline.report.trainings import shown_names
from nsync_pipeline.studio import settings_form, watch_desk
from nsync_pipeline.studio.jobs import Kind, dagster_runs, making
from nsync_pipeline.studio.page import (
    NOT_THERE,
    Desk,
    Form,
    cards_asked,
    go_to,
    place_of_form,
    rendered,
    run_of,
    style_asked,
    tab_page,
    value_of,
)

A_WHILE = {"Cache-Control": "private, max-age=600"}


def train_page(request: Request, desk: Desk) -> Response:
    graph, style, found, cards = cards_asked(request, desk)
    groups = settings_form.settings_groups(graph.params, style)
    settings = {setting.key: setting for group in groups for setting in group.settings}
    standings = graph.standings([style])
    return tab_page(
        request, desk, "train.html", "train", graph=graph, found=found, groups=groups,
        main=[settings[key] for key in settings_form.MAIN if key in settings],
        uncaptioned=sum(not card.raw for card in cards), count=len(cards),
        captioner=captioner_finding(graph.params),
        queue=watch_desk.queue(graph, standings, running(desk.workspace)),
        by_dagster=dagster_runs(desk.workspace), on_sketchbook=_on_sketchbook(graph),
    )  # fmt: skip


def _on_sketchbook(graph: Graph) -> bool:
    return graph.params.base_model.name == "sketchbook"


def save_settings(request: Request, desk: Desk, form: Form) -> Response:
    graph, style = style_asked(request)
    groups = settings_form.settings_groups(graph.params, style)
    answers = {name: values[-1] for name, values in form.items()}
    scope = value_of(form, "only").split()
    if scope:  # a form with some of the settings, none of them a switch
        answers = {name: value for name, value in answers.items() if name in scope}
    values = settings_form.asked_values(groups, answers, switches_shown=not scope)
    write_settings(desk.workspace, values)
    said = f"Saved in params.yaml: {', '.join(values)}." if values else "Nothing was changed."
    return go_to(place_of_form(form, f"/styles/{style}/train"), said)


def presets(request: Request, desk: Desk) -> Response:
    graph, style = style_asked(request)
    presets: list[CardPreset] | None = None
    problem = ""
    try:
        presets = card_presets(graph.params)
    except BaseModelError as error:
        problem = str(error)
    return rendered(
        "presets.html", style=style, presets=presets, problem=problem,
        base=graph.params.base_model.name,
    )  # fmt: skip


def start_training(request: Request, desk: Desk, form: Form) -> Response:
    graph, style = style_asked(request)
    variants = form.get("variant", [])
    if not variants:
        raise UserError("Choose at least one variant to train.")
    for variant in variants:
        graph.params.variant(variant)
    seeds = _seeds(value_of(form, "training_seeds"), graph)
    if tuple(seeds) != graph.params.training_seeds:
        every = sorted({*graph.params.training_seeds, *seeds})
        write_settings(desk.workspace, {"training_seeds": every})
        graph = desk.graph()
    all_variants = set(variants) == set(graph.params.variants)
    all_seeds = set(seeds) == set(graph.params.training_seeds)
    command = making(
        desk.workspace, style, () if all_variants else variants, () if all_seeds else seeds
    )
    desk.jobs.start(Kind.MAKE, style, f"Training {style}", command)
    return go_to(f"/styles/{style}/watch")


def _seeds(text: str, graph: Graph) -> list[int]:
    if not text.strip():
        return list(graph.params.training_seeds)
    try:
        seeds = [int(part) for part in re.split(r"[\s,]+", text.strip())]
    except ValueError as error:
        raise UserError("Training seeds are whole numbers with commas between: 0, 1, 2") from error
    return list(dict.fromkeys(seeds))


def stop(request: Request, desk: Desk, form: Form) -> Response:
    kind = Kind.DRAW if value_of(form, "kind") == Kind.DRAW else Kind.MAKE
    stopped = desk.jobs.stop(kind)
    desk.jobs.wait(kind, 5.0)
    said = "Stopped. Start it again to go on from there." if stopped else "Nothing was running."
    return go_to(place_of_form(form, "/"), said)


def _watching(request: Request, desk: Desk) -> dict[str, Any]:
    graph, style = style_asked(request)
    standings, lines = graph.standings([style]), running(desk.workspace)
    trainings = watch_desk.watched(graph, style, standings, lines)
    names = shown_names(graph.params.training_runs())
    return {
        "graph": graph, "style": style, "trainings": trainings, "names": names,
        "curves": watch_desk.curves(trainings, names),
        "queue": watch_desk.queue(graph, standings, lines), "job": desk.jobs.job(Kind.MAKE),
        "watch_every": graph.params.training.watch.every,
    }  # fmt: skip


def watch_page(request: Request, desk: Desk) -> Response:
    content = _watching(request, desk)
    del content["job"], content["style"]
    return tab_page(request, desk, "watch.html", "watch", **content)


def watch_live(request: Request, desk: Desk) -> Response:
    return rendered("watch_live.html", **_watching(request, desk))


def look(request: Request, desk: Desk) -> Response:
    graph, style = style_asked(request)
    query = request.query_params
    run = next((r for r in graph.params.training_runs() if r.name == query.get("run")), None)
    step = query.get("step", "")
    if run is None or not step.isdigit():
        return NOT_THERE
    where = watch_desk.LIVE if query.get("where") == watch_desk.LIVE else watch_desk.OF_ARTEFACT
    folder = watch_desk.folder_of(desk.workspace, style, run, where)
    file = folder / "looks" / f"{int(step):08d}.jpg"
    if not file.is_file():
        return NOT_THERE
    place, count = query.get("place", ""), len(watch_desk.look_prompts(folder))
    if not place:
        return FileResponse(file, media_type="image/jpeg")
    cell = None
    if place.isdecimal() and int(place) < count:
        cell = watch_desk.cell_of(file.read_bytes(), int(place), count)
    return NOT_THERE if cell is None else Response(cell, media_type="image/png", headers=A_WHILE)


def choose(request: Request, desk: Desk, form: Form) -> Response:
    """One of the weights that a training saved is the one from now on."""
    graph, style = style_asked(request)
    run = run_of(graph, value_of(form, "run"))
    step = value_of(form, "step")
    if not step.isdecimal():
        raise UserError("Choose one of the steps that were saved.")
    used = choose_step(desk.workspace, graph.params, style, run, int(step))
    said = f"Step {used} of {run.name} is used from now on. Press Train to draw and measure it."
    return go_to(f"/styles/{style}/watch", said)
