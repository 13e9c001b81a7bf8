"""What came of it: pictures side by side, the report, the blind choice, files to take home."""

import mimetypes
import re
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any

from starlette.responses import FileResponse, HTMLResponse, Response

from nsync_pipeline.errors import MissingArtifactError, UserError
from nsync_pipeline.given_files import given_files
from nsync_pipeline.graph.processes import last_words
from nsync_pipeline.pictures.layout import picture_file
from nsync_pipeline.studio import home_desk, jobs
from nsync_pipeline.studio.guard import OWN_PAGE_POLICY
from nsync_pipeline.studio.jobs import Kind
from nsync_pipeline.studio.page import NOT_THERE, SAMPLE_ROWS, Visit, file_or_not_there, rendered
from nsync_pipeline.text import ESCAPED
from nsync_pipeline.workspace import BASE


def compare_page(visit: Visit) -> Response:
    graph, style = visit.graph, visit.style
    columns, rows = home_desk.sample_rows(graph, style, SAMPLE_ROWS)
    loras = home_desk.trained_loras(graph, style)
    return visit.tab(
        "compare", columns=columns, rows=rows, loras=loras, steps=home_desk.steps(loras),
        chosen=visit.request.query_params.getlist("c"), prompts=visit.asked("p"),
        has_report=(visit.workspace.report(style) / "report.html").is_file(), base=BASE,
        preferred=_preferred(visit), **_drawings(visit),
    )  # fmt: skip


def _preferred(visit: Visit) -> list[Any]:
    workspace, params, style = visit.workspace, visit.params, visit.style
    if not any(workspace.choices(style).glob("*.json")):
        return []
    from nsync_pipeline.blind.choices import preferences, read_choices  # torch: seconds

    try:
        kept = read_choices(workspace, style, list(params.variants), params.training_seeds)
    except UserError:
        return []
    return list(preferences(kept, style, params.seed, params.evaluation.bootstrap_draws))


def _drawings(visit: Visit) -> dict[str, Any]:
    folder = visit.workspace.root / "comparisons"
    files = sorted(folder.glob(f"{visit.style}_[0-9]*.png"), reverse=True)
    return {
        "drawings": [file.name for file in files], "draw_job": visit.desk.jobs.job(Kind.DRAW)
    }  # fmt: skip


def drawn(visit: Visit) -> Response:
    return rendered("drawn.html", style=visit.style, **_drawings(visit))


def draw(visit: Visit) -> Response:
    style, lines = visit.style, visit.given("prompts").splitlines()
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError("Write at least one prompt: what the picture shows, without the style.")
    command = [*jobs.NSYNC, "compare", "--style", style, "--seeds", visit.given("seeds") or "1"]
    if seed := visit.given("seed").strip():
        command += ["--seed", seed]
    if columns := visit.form.get("column"):
        command += ["--variants", ",".join(columns)]
    if run_seed := visit.given("training_seed"):
        command += ["--training-seed", run_seed]
    command += [part for prompt in prompts for part in ("--prompt", prompt)]
    visit.desk.jobs.start(Kind.DRAW, style, f"Pictures of {style}", command)
    return visit.go_to("compare")


def drawn_file(visit: Visit) -> Response:
    """A picture of a comparison, or one that a stage drew."""
    style, name, root = visit.style, visit.asked("file"), visit.workspace.root
    if name.count("/") == 0 and re.fullmatch(rf"{re.escape(style)}_\d+\.png", name):
        return file_or_not_there(root / "comparisons" / name)
    wanted = PurePosixPath(name)
    inside = wanted.parts[:2] in (("samples", style), ("data", style)) and ".." not in wanted.parts
    if not inside or wanted.suffix not in (".png", ".jpg"):
        return NOT_THERE
    try:
        file = picture_file(root / wanted)
    except MissingArtifactError:
        return NOT_THERE
    if isinstance(file, Path):
        return file_or_not_there(file)
    return Response(file.getvalue(), media_type=mimetypes.guess_type(wanted.name)[0])


def _own_page(text: str) -> Response:
    return HTMLResponse(text, headers={"Content-Security-Policy": OWN_PAGE_POLICY})


def report_page(visit: Visit) -> Response:
    file = visit.workspace.report(visit.style) / "report.html"
    return _own_page(file.read_text(encoding="utf-8")) if file.is_file() else NOT_THERE


def blind_choice_page(visit: Visit) -> Response:
    from nsync_pipeline.blind.page import blind_page, render_blind_page  # torch: seconds

    a, b = visit.asked("a"), visit.asked("b")
    for name in (a, b):
        if name != BASE:
            visit.params.variant(name)
    seed = visit.params.training_seed(None)
    return _own_page(render_blind_page(blind_page(visit.workspace, visit.style, a, b, 40, seed)))


def take_choices(visit: Visit) -> Response:
    """Files that the blind page saved, dropped here."""
    from nsync_pipeline.blind.choices import take_choices  # torch: seconds

    params, taken = visit.params, 0
    with visit.files_given() as folder:
        for name, file in given_files(folder).files.items():
            if name.endswith(".json"):
                taken += take_choices(
                    visit.workspace, file, params.styles, list(params.variants),
                    params.training_seeds,
                ).choices  # fmt: skip
    return visit.go_to("compare", f"{taken} choices taken in.")


def take_home_page(visit: Visit) -> Response:
    loras = home_desk.trained_loras(visit.graph, visit.style)
    return visit.tab("home", "take_home.html", loras=loras, settings=visit.settings)


def export(visit: Visit) -> Response:
    """``nsync export`` does it, in a process of its own: it takes torch."""
    run = visit.run(visit.given("run"))
    folder = home_desk.export_folder(visit.workspace, visit.style, run)
    command = [*jobs.NSYNC, "export", visit.style, "--variant", run.variant]
    command += ["--training-seed", str(run.training_seed), "--output", str(folder)]
    ended = subprocess.run(command, cwd=visit.workspace.root, capture_output=True, check=False)
    if ended.returncode != 0:
        raise UserError(last_words(ended.stderr.decode(errors=ESCAPED)) or "nsync export failed")
    return visit.go_to("home", f"Written to {folder}")


def exported_file(visit: Visit) -> Response:
    run, name = visit.run(visit.asked("run")), visit.asked("name")
    for lora in home_desk.trained_loras(visit.graph, visit.style):
        if lora.run == run and lora.exported and name in [file.name for file in lora.files]:
            return FileResponse(lora.exported / name, filename=name)
    return NOT_THERE
