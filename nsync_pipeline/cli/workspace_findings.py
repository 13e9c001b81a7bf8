"""The doctor on the workspace: settings, base model, styles and their artefacts."""

from collections.abc import Iterator
from pathlib import Path

from nsync_pipeline.artifacts import Workspace
from nsync_pipeline.cli.findings import Finding, State
from nsync_pipeline.cli.memory_findings import memory_finding
from nsync_pipeline.errors import BaseModelError, ParamsError
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.params import Params, read_params


def workspace_findings(workspace: Workspace) -> Iterator[Finding]:
    try:
        params = read_params(workspace.params_file)
    except ParamsError as error:
        yield Finding(State.MISSING, "Settings", str(error), "correct params.yaml")
        return
    names = f"styles: {', '.join(params.styles)}; variants: {', '.join(params.variants)}"
    yield Finding(State.OK, "Settings", f"{workspace.params_file} ({names})")
    yield base_model_finding(params.base_model)
    yield memory_finding(params)
    yield captioner_finding(params)
    if (workspace.root / "dvc.yaml").is_file():
        yield dvc_file_finding(workspace, params)
    for style in params.styles:
        yield style_finding(workspace, params, style)


def dvc_file_finding(workspace: Workspace, params: Params) -> Finding:
    """Whether DVC is asked for what the settings say."""
    from nsync_pipeline.pipeline.dvc_file import check_dvc_file

    try:
        check_dvc_file(workspace, params)
    except ParamsError as error:
        return Finding(State.WARN, "DVC's stages", str(error), "nsync sync")
    return Finding(State.OK, "DVC's stages", "as params.yaml asks for")


def base_model_finding(config: BaseModelConfig) -> Finding:
    """Looks on this machine only: a hub model that is not here would take long to download."""
    from nsync_pipeline.cli.base_shapes import local_copy
    from nsync_pipeline.cli.weight_headers import components_in_folder
    from nsync_pipeline.families.loading import find_base

    here = local_copy(config)
    if here is None:
        return Finding(
            State.WARN, "Base model", f"{config.name} is not on this machine",
            "the first stage downloads it (network, disk space)",
        )  # fmt: skip
    try:
        loader, folder = find_base(here)
        if here == config:
            revision = folder.revision(loader.components)
            return Finding(State.OK, "Base model", f"{config.name}, revision {revision}")
    except BaseModelError as error:
        return Finding(State.MISSING, "Base model", str(error), "see base_model in params.yaml")
    try:
        components_in_folder(folder.path, loader.components)
    except BaseModelError as error:
        return Finding(
            State.WARN, "Base model", f"{config.name} is only partly on this machine: {error}",
            "the first stage downloads the rest (network, disk space)",
        )  # fmt: skip
    return Finding(State.OK, "Base model", f"{config.name}, revision {folder.path.name}")


def style_finding(workspace: Workspace, params: Params, style: str) -> Finding:
    """How far the style is: which stages' artefacts are there."""
    from nsync_pipeline.pipeline import STAGES, places

    here, missing = 0, []
    for stage in STAGES.values():
        for place in places(stage, workspace, style, params):
            if stage.folder(place).is_dir():
                here += 1
            else:
                missing.append(" ".join((stage.name, "-".join(place.parts[1:]))).strip())
    total = here + len(missing)
    if not missing:
        return Finding(State.OK, f"Style {style}", f"whole: {total} artefacts")
    more = f" and {len(missing) - 2} more" if len(missing) > 2 else ""
    found = f"{here} of {total} artefacts; not made yet: {', '.join(missing[:2])}{more}"
    advice = "dvc repro, or the job in Dagster"
    if params.styles[style].source == "folder" and not any(
        path.name != "README.md" for path in workspace.source(style).glob("*")
    ):
        found = f"{workspace.source(style)} holds no pictures"
        advice = f"dvc pull, or nsync add-style {style} <folder>"
    return Finding(State.WARN, f"Style {style}", found, advice)


def captioner_finding(params: Params) -> Finding:
    """Whether the model that describes pictures without a caption is here."""
    from huggingface_hub import try_to_load_from_cache

    model, subject = params.captioning.model, "Captioner"
    if model is None:
        return Finding(State.OK, subject, "none: pictures without a caption are refused")
    if Path(model.name).expanduser().is_dir():
        return Finding(State.OK, subject, model.name)
    if model.name.count("/") == 1 and not model.name.startswith(("/", ".", "~")):
        if isinstance(
            try_to_load_from_cache(model.name, "config.json", revision=model.revision), str
        ):
            return Finding(State.OK, subject, f"{model.name}, revision {model.revision}")
        return Finding(
            State.OK, subject, f"{model.name} is not on this machine",
            "needed only for pictures without a caption: the captions stage then downloads it",
        )  # fmt: skip
    return Finding(
        State.WARN, subject, f"{model.name} is not a folder that exists",
        "see captioning.model in params.yaml",
    )  # fmt: skip
