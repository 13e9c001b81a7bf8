"""``dvc.yaml``, written from the table of stages and ``params.yaml``.

DVC starts a stage when the content of what it reads, its settings or its recipe changed, and stores
and restores what it made. Whether there is anything to do, the stage decides itself
(``artefacts``): so outputs stay where they are until new ones are whole.

The ablation of the styles is a file of its own, ``ablations/dvc.yaml``, written when it is first
asked for: ``dvc repro`` makes the styles, ``dvc repro ablations/dvc.yaml`` their ablations.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce
from importlib.util import find_spec
from itertools import chain, count
from operator import getitem
from pathlib import Path
from typing import Any

from nsync_pipeline.errors import ParamsError, UserError
from nsync_pipeline.files import write_whole
from nsync_pipeline.graph.artefacts import Artefact, Graph
from nsync_pipeline.graph.made import SUMS_FILE
from nsync_pipeline.graph.table import STAGES, Stage
from nsync_pipeline.params import Params
from nsync_pipeline.settings import CHOICES_MADE
from nsync_pipeline.settings_file import read_settings, with_values
from nsync_pipeline.text import ESCAPED, printable
from nsync_pipeline.tracking.destination import masked
from nsync_pipeline.workspace import (
    ABLATIONS,
    FIGURES_FOLDER,
    PLOTS_FOLDER,
    SKETCHBOOK_PREFIX,
    Workspace,
)

DVC_FILE = "dvc.yaml"
HEADER = """\
# Written by `nsync sync`, from the stages of the engine and from params.yaml: do not edit it.
# Run that after a change of styles, variants or training seeds. Stages of your own go into a
# dvc.yaml in a folder of their own.
"""
STYLE, VARIANT, SEED = "${item.style}", "${item.variant}", "${item.training_seed}"
# exec: the stage is a child of dvc itself, and ends when dvc is killed. PATH: the workspace's own
# environment comes first, also where it is not activated.
COMMAND = 'exec env PATH=".venv/bin:$PATH" nsync'
README = "README.md"
DRAWN_TEXT = """\
There are no pictures in this folder: `{style}` is drawn by the embedded world
(`{source}` in `params.yaml`).
A style of your own keeps its pictures in such a folder; `nsync add-style` brings them in.
"""
CHOICES_TEXT = """\
What people chose on blind pages of `{style}`, a file each: `nsync blind make {style}` writes a
page, `nsync blind read` brings in what people saved of it, and the report shows it.
The files are people's own work and cannot be made again: keep them in git.
"""
SYNC = "`nsync sync` brings it in order"


def stage_name(artefact: Artefact) -> str:
    """What DVC calls the stage that makes ``artefact``: ``training@ink-nsync-0``."""
    name = f"{artefact.stage.name}@{'-'.join(artefact.parts)}"
    return f"{ABLATIONS}/{DVC_FILE}:{name}" if artefact.of_ablation else name


def dvc_text(graph: Graph, of_ablation: bool = False) -> str:
    """All of ``dvc.yaml``, or of ``ablations/dvc.yaml``."""
    params = graph.params_of(of_ablation)
    lines = [HEADER, f"vars:\n  - nsync: '{COMMAND}'\n\n"]
    if not of_ablation:
        lines.append("params:\n  - params.yaml\n\n")
    lines.append("stages:\n")
    for stage in STAGES.values():
        if not (of_ablation and stage.shared):
            lines.extend(_stage_lines(graph, stage, of_ablation))
            lines.append("\n")
    if not of_ablation:
        lines.append("metrics:\n")
        lines += [f"  - evaluation/{style}/{FIGURES_FOLDER}\n" for style in params.styles]
        lines.append("plots:\n")
        lines += [f"  - reports/{style}/{PLOTS_FOLDER}\n" for style in params.styles]
    return "".join(lines)


def check_dvc_file(graph: Graph) -> None:
    """Compare ``dvc.yaml`` with what ``params.yaml`` asks for.

    Raises:
        ParamsError: they differ, or params.yaml leaves out a key that DVC tracks, or a folder for
            choices is missing.
    """
    for path, text in _files(graph):
        if not path.is_file():
            raise ParamsError(f"{path} is not there: run this in a workspace ({SYNC}).")
        if path.read_bytes() != text.encode():
            raise ParamsError(
                f"{path.relative_to(graph.workspace.root)} is not what the styles, variants and "
                f"training_seeds in params.yaml and this version of the engine ask for: {SYNC}."
            )
    for place, _ in _people_s(graph):
        if not place.exists():
            raise ParamsError(f"{place} is not there, and DVC wants it: {SYNC}.")
    if missing := _left_out(graph):
        raise ParamsError(f"params.yaml: DVC tracks {missing[0]}, which is left out: {SYNC}.")


def sync_dvc_file(workspace: Workspace, ablation: bool = False) -> list[str]:
    """Write ``dvc.yaml``, what ``params.yaml`` leaves out, and ``choices/``; a line a change.

    The file of the ablation is written where there is one already, or with ``ablation``: DVC counts
    its stages as not made as soon as it is there.

    In params.yaml comments stay, and only keys that DVC tracks and that were left to their defaults
    are added, with these.
    """
    graph = Graph.read(workspace)
    said = _write_left_out(graph)
    for path, text in _files(graph, ablation):
        before = path.read_bytes() if path.is_file() else None
        if before == text.encode():
            continue
        if before is not None and not before.startswith(HEADER.encode()):
            kept = _free(path.with_name(f"{path.name}.before"))
            write_whole(kept, before)
            said.append(f"{kept.relative_to(workspace.root)}: what it was before, as you wrote it")
        path.parent.mkdir(exist_ok=True)
        write_whole(path, text)
        said.append(f"{path.relative_to(workspace.root)}: written anew")
    for place, text in _people_s(graph):
        if not place.exists():
            write_whole(place if place.suffix else place / README, text)
            said.append(f"{place.relative_to(workspace.root)}: made, as DVC and git want it there")
    return said


def _free(path: Path) -> Path:
    """``path``, or the first of ``<path>-2``, ``<path>-3``... that is not there yet."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return next(one for one in chain((path,), numbered) if not one.exists())


def _people_s(graph: Graph) -> Iterator[tuple[Path, str]]:
    """The folders and files that a stage reads and nothing may have made yet, and what they say."""
    for name, style in graph.params.styles.items():
        if style.source.startswith(SKETCHBOOK_PREFIX):
            text = DRAWN_TEXT.format(style=name, source=style.source)
            yield graph.workspace.source(name), text
        yield graph.workspace.captions_by_hand(name), ""
        yield graph.workspace.choices(name), CHOICES_TEXT.format(style=name)


def _files(graph: Graph, ablation: bool = False) -> Iterator[tuple[Path, str]]:
    """The files, and what they must say."""
    yield graph.workspace.root / DVC_FILE, dvc_text(graph)
    of_ablation = graph.workspace.root / ABLATIONS / DVC_FILE
    if graph.params.ablation is not None and (ablation or of_ablation.is_file()):
        yield of_ablation, dvc_text(graph, of_ablation=True)


def _stage_lines(graph: Graph, stage: Stage, of_ablation: bool) -> Iterator[str]:
    artefact = Artefact(stage, STYLE, of_ablation=of_ablation)
    options = f"--style {STYLE}"
    if stage.per_training:
        artefact = replace(artefact, variant=VARIANT, training_seed=SEED)  # type: ignore[arg-type]
        options += f" --variant {VARIANT} --training-seed {SEED}"
    if of_ablation:
        options += " --ablation"
    params = graph.params_of(of_ablation)
    says = stage.says.replace("'", "''")
    yield f"  {stage.name}:\n    desc: '{says}'\n"
    if of_ablation:
        yield "    wdir: ..\n"
    yield "    matrix:\n"
    matrix: dict[str, Sequence[object]] = {"style": list(params.styles)}
    if stage.per_training:
        matrix |= {"variant": list(params.variants), "training_seed": params.training_seeds}
    for key, values in matrix.items():
        # Written out, and not left to DVC to read: it would give a shell whatever stands there.
        listed = (f"'{value}'" if isinstance(value, str) else str(value) for value in values)
        yield f"      {key}: [{', '.join(listed)}]\n"
    yield f"    cmd: ${{nsync}} run {stage.name} {options} --recipe {stage.recipe}\n"
    yield "    params:\n"
    yield from (
        f"      - {key}\n" for key in tracked_keys(stage, params, STYLE, VARIANT, of_ablation)
    )
    yield "    deps:\n"
    yield from (f"      - {path.format(style=STYLE)}\n" for path in stage.reads)
    yield from (f"      - {need.path}/{SUMS_FILE}\n" for need in graph.needs(artefact))
    yield f"    outs:\n      - {artefact.path}:\n          persist: true\n"


def tracked_keys(
    stage: Stage, params: Params, style: str, variant: str | None, of_ablation: bool
) -> list[str]:
    """The keys of ``params.yaml`` that DVC looks at for ``stage``."""
    keys = []
    chosen = not of_ablation and any(one.use_steps for one in params.styles.values())
    for name, of_field in stage.settings.sources():
        if name == "variants":
            continue  # which there are, the deps say
        for key in of_field:
            if key.startswith(CHOICES_MADE):  # as a whole: of most trainings nothing stands there
                keys += [CHOICES_MADE.format(style=style)] if chosen else []
                continue
            made_by_grid = of_ablation and key in ("variants.{variant}", "training_seeds")
            keys.append("ablation" if made_by_grid else key.format(style=style, variant=variant))
    return list(dict.fromkeys(keys))


def _left_out(graph: Graph) -> list[str]:
    """The keys that DVC tracks and ``params.yaml`` does not hold."""
    content = read_settings(graph.workspace.params_file)
    keys = {
        key
        for stage in STAGES.values()
        for style in graph.params.styles
        for variant in graph.params.variants
        for key in tracked_keys(stage, graph.params, style, variant, of_ablation=False)
    }
    return sorted(key for key in keys if not _has(content, key.split(".")))


def _has(content: Any, parts: list[str]) -> bool:
    for part in parts:
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True


def _write_left_out(graph: Graph) -> list[str]:
    missing = _left_out(graph)
    if not missing:
        return []
    path = graph.workspace.params_file
    defaults = graph.params.model_dump(mode="json")
    values = {key: reduce(getitem, key.split("."), defaults) for key in missing}
    write_whole(path, with_values(path.read_text(encoding="utf-8"), values))
    return [f"params.yaml: {key} written out, as DVC tracks it" for key in missing]


def version_source(workspace: Workspace, folder: Path) -> list[str]:
    """``dvc add`` the pictures in ``folder``; gives what was done, a line each.

    Without DVC, or outside of a DVC repository, there is nothing to do.

    Raises:
        UserError: ``dvc add`` failed; the style is in all the same, and the message says how to go
            on.
    """
    if find_spec("dvc") is None or not (workspace.root / ".dvc").is_dir():
        return []
    relative = folder.relative_to(workspace.root).as_posix()
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "add", relative],  # where it is quiet, so are its reasons
        cwd=workspace.root,
        capture_output=True,
        text=True,
        errors=ESCAPED,
        check=False,
    )
    if done.returncode != 0:
        raise UserError(
            f"{relative} has the pictures and params.yaml the style, but `dvc add {relative}` "
            f"failed: {dvc_reason(done.stderr, done.returncode)}. Then run it yourself."
        )
    return [f"{relative}.dvc: the pictures' version, for git (`git add {relative}.dvc`)"]


REMEDIES = {
    "not a git repository": "run `git init` there, or `dvc config core.no_scm true`",
    "not inside of a DVC repository": "run `dvc init` there",
    "Unable to acquire lock": "another DVC command is running: wait until it has ended",
    "Permission denied": "make that writable",
    "No space left on device": "make room there",
    "Checkout failed": "the remote does not hold it, or lets nobody read it",
    "Forbidden": "`dvc remote modify --local` says who you are",
}
TRANSFER = "failed to transfer "
TRACEBACK = "Traceback (most recent call last):"


def dvc_reason(stderr: str, code: int) -> str:
    """Why DVC failed, by what it wrote, in one line; and what to do, where that is known."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    said = [
        line.removeprefix("ERROR: ").rstrip(":") for line in lines if line.startswith("ERROR: ")
    ]
    # DVC says the same of every file that it could not send.
    said = [line.partition(" - ")[2] for line in said if line.startswith(TRANSFER)][:1] + [
        line for line in said if not line.startswith(TRANSFER)
    ]
    # Where DVC itself broke, only the last line of its traceback says something; of a file that it
    # cannot read, the first lines do, and the last ones show a piece of it.
    if not said and lines:
        told = [line for line in lines if not line.startswith("WARNING: ")] or lines
        said = [told[-1] if TRACEBACK in told else " ".join(told[:2])]
    reason = masked("; ".join(said) or f"it ended with {code}")
    remedy = next((remedy for sign, remedy in REMEDIES.items() if sign in reason), "put that right")
    return f"{printable(reason, 600)}: {remedy}"
