"""What ``dvc.yaml`` must list by hand, kept as ``params.yaml`` says.

A DVC matrix cannot loop inside a list of deps, so the stages that read every training list the
folders of all variants and training seeds one by one (the parent folder would take leftovers in).
``nsync sync`` writes these lists, the metrics and the plots; whoever adds a variant or a training
seed and forgets it is told before anything is computed.
"""

from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from nsync_pipeline.errors import ParamsError
from nsync_pipeline.graph.table import STAGES, Place, Stage
from nsync_pipeline.params import Params, read_params
from nsync_pipeline.workspace import TrainingRun, Workspace

README = "README.md"
TEXT = """\
What people chose on blind pages of `{style}`, a file each: `nsync blind make {style}` writes a
page, `nsync blind read` brings in what people saved of it, and the report shows it.
The files are people's own work and cannot be made again: keep them in git.
"""


def without_choices_folder(workspace: Workspace, styles: Iterable[str]) -> list[str]:
    """Those of ``styles`` that have none yet."""
    return [style for style in styles if not workspace.choices(style).is_dir()]


def make_choices_folder(workspace: Workspace, style: str) -> Path:
    """Make ``choices/<style>`` with a file that says what it is for; gives the folder."""
    folder = workspace.choices(style)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / README).write_text(TEXT.format(style=style), encoding="utf-8")
    return folder


STYLE = "${item.style}"
VARIANT = "${item.variant}"
TRAINING_SEED = "${item.training_seed}"
ANY = Place(Workspace(Path("/")), STYLE, VARIANT, TRAINING_SEED)
"""Every artefact of a stage, as dvc.yaml writes them."""
SYNC = "`nsync sync` brings it in order"


def dvc_deps(stage: Stage, runs: Sequence[TrainingRun]) -> list[str]:
    """The deps of ``stage`` as dvc.yaml writes them: artefacts, then code."""
    artefacts = [path.relative_to("/").as_posix() for path in stage.inputs(ANY, runs)]
    return artefacts + [f"nsync_pipeline/{part}" for part in stage.code]


def dvc_out(stage: Stage) -> str:
    """The one out of ``stage`` as dvc.yaml writes it."""
    return stage.folder(ANY).relative_to("/").as_posix()


def dvc_params(stage: Stage) -> list[str]:
    """The params of ``stage`` as dvc.yaml writes them."""
    return list(stage.keys(STYLE, VARIANT))


def check_dvc_file(workspace: Workspace, params: Params) -> None:
    """Compare the lists of ``dvc.yaml`` with ``params``, and what DVC tracks with what is written.

    Raises:
        ParamsError: they differ, or params.yaml leaves out a key that DVC tracks, or a folder for
            choices is missing.
    """
    content = _yaml().load(_dvc_file(workspace).read_text(encoding="utf-8"))
    for stage in STAGES.values():
        if stage.fans_in:
            listed = content["stages"][stage.name]["deps"]
            if list(listed) != dvc_deps(stage, params.training_runs()):
                seeds = ", ".join(map(str, params.training_seeds))
                raise ParamsError(
                    f"dvc.yaml: the deps of {stage.name} are not those of the variants in "
                    f"params.yaml ({', '.join(params.variants)}) and its training_seeds "
                    f"({seeds}): {SYNC}."
                )
    unasked = without_choices_folder(workspace, params.styles)
    if unasked:
        raise ParamsError(
            f"{workspace.choices(unasked[0])} is not there, for what people choose: {SYNC}."
        )
    missing = _tracked_but_left_out(workspace, params)
    if missing:
        raise ParamsError(f"params.yaml: DVC tracks {missing[0]}, which is left out: {SYNC}.")


def sync_dvc_file(workspace: Workspace) -> list[str]:
    """Bring ``dvc.yaml``, ``params.yaml`` and ``choices/`` in order; gives what was changed.

    A line each.

    Comments stay. In params.yaml only keys that DVC tracks and that were left to their defaults are
    added, with these.
    """
    params = read_params(workspace.params_file)
    said = _write_left_out(workspace, params)
    yaml, path = _yaml(), _dvc_file(workspace)
    content = yaml.load(path.read_text(encoding="utf-8"))
    runs = params.training_runs()
    for stage in STAGES.values():
        entry = content["stages"][stage.name]
        for key, listed in (("params", dvc_params(stage)), ("deps", dvc_deps(stage, runs))):
            if list(entry[key]) != listed:
                entry[key] = listed
                said.append(f"dvc.yaml: {key} of {stage.name}")
    of_styles: dict[str, list[Any]] = {"metrics": dvc_metrics(params), "plots": dvc_plots(params)}
    for key, entries in of_styles.items():
        if content.get(key) != entries:
            content[key] = entries
            said.append(f"dvc.yaml: {key} of {', '.join(params.styles)}")
    if any(line.startswith("dvc.yaml") for line in said):
        _write(yaml, content, path)
    for style in without_choices_folder(workspace, params.styles):
        made = make_choices_folder(workspace, style).relative_to(workspace.root).as_posix()
        said.append(f"{made}: for what people choose, and for git")
    return said


def dvc_metrics(params: Params) -> list[str]:
    """The file of metrics of each style."""
    return [f"evaluation/{style}/metrics.json" for style in params.styles]


def dvc_plots(params: Params) -> list[dict[str, Any]]:
    """The plots of each style: two with the curves of all its trainings, two of its evaluation."""
    return [{title: plot} for style in params.styles for title, plot in _plots(params, style)]


def _plots(params: Params, style: str) -> list[tuple[str, dict[str, Any]]]:
    root = Workspace(Path("/"))
    models = [root.model(style, run.variant, run.training_seed) for run in params.training_runs()]
    histories = [f"{model.relative_to('/').as_posix()}/history.csv" for model in models]
    curves = {"loss": "loss_positive", "gradient norm": "norm_refined"}
    trained: list[tuple[str, dict[str, Any]]] = [
        (f"{style}: {title}", {"x": "step", "y": dict.fromkeys(histories, column)})
        for title, column in curves.items()
    ]
    table = f"evaluation/{style}/plots"
    nearness = {"x": "style_margin", "y": {f"{table}/summary.csv": "variant"}}
    pictures = {"x": "prompt_fidelity", "y": {f"{table}/pictures.csv": "style_margin"}}
    return [
        *trained,
        (f"{style}: style margin", nearness | {"template": "bar_horizontal"}),
        (f"{style}: style and content of each picture", pictures | {"template": "scatter"}),
    ]


def _tracked_but_left_out(workspace: Workspace, params: Params) -> list[str]:
    content = _yaml().load(workspace.params_file.read_text(encoding="utf-8"))
    keys = {
        key
        for stage in STAGES.values()
        for style in params.styles
        for variant in params.variants
        for key in stage.keys(style, variant)
    }
    return sorted(key for key in keys if not _has(content, key.split(".")))


def _has(content: Any, parts: list[str]) -> bool:
    for part in parts:
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True


def _write_left_out(workspace: Workspace, params: Params) -> list[str]:
    missing = _tracked_but_left_out(workspace, params)
    if not missing:
        return []
    yaml = _yaml()
    content = yaml.load(workspace.params_file.read_text(encoding="utf-8"))
    defaults = params.model_dump(mode="json")
    for key in missing:
        *parents, last = key.split(".")
        section, default = content, defaults
        for part in parents:
            section, default = section[part], default[part]
        section[last] = default[last]
    _write(yaml, content, workspace.params_file)
    return [f"params.yaml: {key} written out, as DVC tracks it" for key in missing]


def _dvc_file(workspace: Workspace) -> Path:
    path = workspace.root / "dvc.yaml"
    if not path.is_file():
        raise ParamsError(f"{path} is not there: run this in the folder that holds dvc.yaml")
    return path


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def _write(yaml: YAML, content: Any, path: Path) -> None:
    text = StringIO()
    yaml.dump(content, text)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text.getvalue(), encoding="utf-8")
    partial.replace(path)
