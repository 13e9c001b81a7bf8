"""What came of it: pictures side by side, the report, the blind choice, files to take home."""

import mimetypes
import re
import shutil
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    RedirectResponse,
    Response,
)

from nsync_pipeline.errors import MissingArtifactError, UserError
from nsync_pipeline.given_files import given_files
from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.pictures.layout import picture_file
from nsync_pipeline.studio import home_desk, jobs
from nsync_pipeline.studio.guard import OWN_PAGE_POLICY
from nsync_pipeline.studio.jobs import Kind
from nsync_pipeline.studio.page import (
    NOT_THERE,
    SAMPLE_ROWS,
    Desk,
    Form,
    file_or_not_there,
    go_to,
    rendered,
    run_of,
    source_asked,
    style_asked,
    tab_page,
    value_of,
    wants_json,
)
from nsync_pipeline.workspace import BASE


def compare_page(request: Request, desk: Desk) -> Response:
    graph, style = style_asked(request)
    columns, rows = home_desk.sample_rows(graph, style, SAMPLE_ROWS)
    return tab_page(
        request, desk, "compare.html", "compare", graph=graph, columns=columns, rows=rows,
        loras=(loras := home_desk.trained_loras(graph, style)), steps=home_desk.steps(loras),
        chosen=request.query_params.getlist("c"), prompts=request.query_params.get("p", ""),
        has_report=(desk.workspace.report(style) / "report.html").is_file(), base=BASE,
        preferred=_preferred(desk, graph, style), **_drawings(desk, style),
    )  # fmt: skip


def _preferred(desk: Desk, graph: Graph, style: str) -> list[Any]:
    params = graph.params
    if not any(desk.workspace.choices(style).glob("*.json")):
        return []
    from nsync_pipeline.blind.choices import preferences, read_choices  # torch: seconds

    try:
        kept = read_choices(desk.workspace, style, list(params.variants), params.training_seeds)
    except UserError:
        return []
    return list(preferences(kept, style, params.seed, params.evaluation.bootstrap_draws))


def _drawings(desk: Desk, style: str) -> dict[str, Any]:
    folder = desk.workspace.root / "comparisons"
    files = sorted(folder.glob(f"{style}_[0-9]*.png"), reverse=True)
    return {"drawings": [file.name for file in files], "draw_job": desk.jobs.job(Kind.DRAW)}


def drawn(request: Request, desk: Desk) -> Response:
    _, style = style_asked(request)
    return rendered("drawn.html", style=style, **_drawings(desk, style))


def draw(request: Request, desk: Desk, form: Form) -> Response:
    _, style = style_asked(request)
    prompts = [line.strip() for line in value_of(form, "prompts").splitlines() if line.strip()]
    if not prompts:
        raise UserError("Write at least one prompt: what the picture shows, without the style.")
    command = [*jobs.NSYNC, "compare", "--style", style, "--seeds", value_of(form, "seeds") or "1"]
    if seed := value_of(form, "seed").strip():
        command += ["--seed", seed]
    if columns := form.get("column"):
        command += ["--variants", ",".join(columns)]
    if run_seed := value_of(form, "training_seed"):
        command += ["--training-seed", run_seed]
    command += [part for prompt in prompts for part in ("--prompt", prompt)]
    desk.jobs.start(Kind.DRAW, style, f"Pictures of {style}", command)
    return go_to(f"/styles/{style}/compare")


def drawn_file(request: Request, desk: Desk) -> Response:
    """A picture of a comparison, or one that a stage drew."""
    (_, style), name = style_asked(request), request.query_params.get("file", "")
    if name.count("/") == 0 and re.fullmatch(rf"{re.escape(style)}_\d+\.png", name):
        return file_or_not_there(desk.workspace.root / "comparisons" / name)
    wanted = PurePosixPath(name)
    inside = wanted.parts[:2] in (("samples", style), ("data", style)) and ".." not in wanted.parts
    if not inside or wanted.suffix not in (".png", ".jpg"):
        return NOT_THERE
    try:
        file = picture_file(desk.workspace.root / wanted)
    except MissingArtifactError:
        return NOT_THERE
    if isinstance(file, Path):
        return file_or_not_there(file)
    return Response(file.getvalue(), media_type=mimetypes.guess_type(wanted.name)[0])


def _own_page(text: str) -> Response:
    return HTMLResponse(text, headers={"Content-Security-Policy": OWN_PAGE_POLICY})


def report_page(request: Request, desk: Desk) -> Response:
    file = desk.workspace.report(style_asked(request)[1]) / "report.html"
    return _own_page(file.read_text(encoding="utf-8")) if file.is_file() else NOT_THERE


def blind_choice_page(request: Request, desk: Desk) -> Response:
    from nsync_pipeline.blind.page import blind_page, render_blind_page  # torch: seconds

    graph, style = style_asked(request)
    names = [request.query_params.get(side, "") for side in ("a", "b")]
    for name in names:
        if name != BASE:
            graph.params.variant(name)
    seed = graph.params.training_seed(None)
    return _own_page(
        render_blind_page(blind_page(desk.workspace, style, names[0], names[1], 40, seed))
    )


def take_choices(request: Request, desk: Desk, form: Form) -> Response:
    """Files that the blind page saved, dropped here."""
    from nsync_pipeline.blind.choices import take_choices  # torch: seconds

    graph, style = style_asked(request)
    params = graph.params
    source, dropped = source_asked(desk, form)
    taken = 0
    try:
        files = given_files(Path(source).expanduser()).files
        for file in (path for name, path in files.items() if name.endswith(".json")):
            found = take_choices(
                desk.workspace, file, params.styles, list(params.variants), params.training_seeds
            )
            taken += found.choices
    finally:
        if dropped is not None:
            shutil.rmtree(dropped, ignore_errors=True)
    target = f"/styles/{style}/compare?notice={quote(f'{taken} choices taken in.')}"
    return JSONResponse({"go": target}) if wants_json(request) else RedirectResponse(target, 303)


def take_home_page(request: Request, desk: Desk) -> Response:
    graph, style = style_asked(request)
    return tab_page(
        request, desk, "take_home.html", "home", graph=graph,
        loras=home_desk.trained_loras(graph, style), settings=graph.params.style(style),
    )  # fmt: skip


def export(request: Request, desk: Desk, form: Form) -> Response:
    """``nsync export`` does it, in a process of its own: it takes torch."""
    graph, style = style_asked(request)
    run = run_of(graph, value_of(form, "run"))
    folder = home_desk.export_folder(desk.workspace, style, run)
    command = [*jobs.NSYNC, "export", style, "--variant", run.variant]
    command += ["--training-seed", str(run.training_seed), "--output", str(folder)]
    ended = subprocess.run(
        command, cwd=desk.workspace.root, capture_output=True, text=True, check=False
    )
    if ended.returncode != 0:
        lines = ended.stderr.strip().splitlines() or ["nsync export failed"]
        raise UserError(lines[-1].removeprefix("nsync: "))
    return go_to(f"/styles/{style}/home", f"Written to {folder}")


def exported_file(request: Request, desk: Desk) -> Response:
    graph, style = style_asked(request)
    query = request.query_params
    run, name = run_of(graph, query.get("run", "")), query.get("name", "")
    files = {
        file.name: lora.exported
        for lora in home_desk.trained_loras(graph, style)
        if lora.run == run and lora.exported is not None
        for file in lora.files
    }
    if name not in files:
        return NOT_THERE
    return FileResponse(files[name] / name, filename=name)
