"""What ``nsync doctor`` finds, a line each."""

import configparser
import os
import platform
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from nsync_pipeline.doctor import Finding, State
from nsync_pipeline.doctor.memory import memory_finding
from nsync_pipeline.errors import BaseModelError, ParamsError, PictureError, UserError, short_list
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.given_files import given_files
from nsync_pipeline.params import Params, read_params
from nsync_pipeline.ranks import usable_cores
from nsync_pipeline.tracking.destination import OWN, configured_uri, is_remote, masked
from nsync_pipeline.workspace import ABLATIONS, Workspace

NEEDED = ("torch", "diffusers", "transformers", "peft", "mlflow")
DOORS = ("dagster", "dvc")
GIB = 2**30
LITTLE_MEMORY = 4  # GiB available; the embedded base takes about 1.5
LITTLE_DISK = 2  # GiB free


def machine_findings(folder: Path) -> Iterator[Finding]:
    """``folder`` is on the disk that matters."""
    yield Finding(State.OK, "Python", f"{platform.python_version()} in {sys.prefix}")
    yield from _packages()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    yield Finding(State.OK, "Cores", f"{usable_cores()}{load}")
    yield _memory()
    yield _disk(folder)
    yield _accelerators()


def _packages() -> Iterator[Finding]:
    versions = {name: _version(name) for name in (*NEEDED, *DOORS)}
    found = ", ".join(f"{name} {v}" for name, v in versions.items() if v)
    yield Finding(State.OK, "Packages", found or "none")
    if missing := [name for name in NEEDED if versions[name] is None]:
        yield Finding(State.MISSING, "Packages", f"no {', '.join(missing)}", "make setup")
    if missing := [name for name in DOORS if versions[name] is None]:
        advice = "pip install 'nsync-pipeline[orchestration]'; the command line works without"
        yield Finding(State.WARN, "Packages", f"no {', '.join(missing)}", advice)
    antlr = _version("antlr4-python3-runtime")
    if versions["dagster"] and antlr and not antlr.startswith("4.13"):
        yield Finding(
            State.WARN, "Packages", f"antlr4-python3-runtime {antlr} breaks Dagster's selections",
            "pip install 'antlr4-python3-runtime>=4.13' 'hydra-core>=1.4.0rc1'",
        )  # fmt: skip


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    found = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB available"
    if memory.available < LITTLE_MEMORY * GIB:
        return Finding(State.WARN, "Memory", found, "close something, or lower training.batch_size")
    return Finding(State.OK, "Memory", found)


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / GIB
    found = f"{free:.1f} GiB free in {folder}"
    if free < LITTLE_DISK:
        return Finding(State.WARN, "Disk", found, "make room: artefacts are kept twice, by DVC too")
    return Finding(State.OK, "Disk", found)


def _accelerators() -> Finding:
    try:
        import torch  # seconds; only here
    except ImportError as error:
        return Finding(State.MISSING, "Accelerator", f"torch: {error}", "make setup")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        found = ", ".join(f"{p.name} ({p.total_memory / GIB:.0f} GiB)" for p in names)
        return Finding(State.OK, "Accelerator", found)
    if torch.backends.mps.is_available():
        return Finding(State.OK, "Accelerator", "Apple MPS")
    found = "none: everything runs on the CPU, fine for the sketchbook base"
    return Finding(State.OK, "Accelerator", found)


ANSWER_WITHIN = 1.0  # seconds


def service_findings(workspace: Workspace) -> Iterator[Finding]:
    yield _dvc(workspace)
    yield from _dvc_locks(workspace)
    yield _mlflow()
    yield from _refused(workspace)
    if find_spec("dagster") is not None:
        yield _dagster(workspace)


def _dvc(workspace: Workspace) -> Finding:
    config = workspace.root / ".dvc" / "config"
    if not config.parent.is_dir():
        advice = "git init && dvc init; `nsync run` works without"
        return Finding(State.WARN, "DVC", f"{workspace.root} is no DVC repository", advice)
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read([config, config.with_name("config.local")], encoding="utf-8")
    except (configparser.Error, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        advice = "correct it, or bring it back: `git checkout .dvc/config`"
        return Finding(State.MISSING, "DVC", f"{config} cannot be read: {reason}", advice)
    remotes = re.findall(r'remote "(.+?)"', " ".join(parser.sections()))
    if not remotes:
        advice = "dvc remote add -d <name> <url>, to share artefacts"
        return Finding(State.OK, "DVC", "repository without a remote", advice)
    return Finding(State.OK, "DVC", f"remote {', '.join(remotes)}")


def _dvc_locks(workspace: Workspace) -> Iterator[Finding]:
    """Where one cannot be read, DVC runs nothing, and says so in many lines."""
    for folder in (workspace.root, workspace.root / ABLATIONS):
        lock = folder / "dvc.lock"
        if not lock.is_file():
            continue
        try:
            whole = isinstance(YAML(typ="safe").load(lock.read_bytes()), dict)
        except (YAMLError, ValueError, RecursionError):
            whole = False
        if not whole:
            advice = (
                "`git checkout dvc.lock` brings the last one back; without one `dvc repro` makes "
                "nothing anew that is up to date"
            )
            yield Finding(State.MISSING, "DVC", f"{lock} is damaged, or of a merge", advice)


def _writable(folder: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        found = f"{folder} cannot be written to: {error.strerror}"
        return Finding(State.MISSING, "Workspace", found, "no stage can run here")
    return Finding(State.OK, "Workspace", f"{folder}")


def _mlflow() -> Finding:
    try:
        uri = configured_uri()
    except UserError as error:
        advice = "nothing is recorded until it is put right"
        return Finding(State.WARN, "MLflow", str(error), advice)
    if uri == OWN:
        return Finding(State.OK, "MLflow", "the workspace's own store")
    parts, shown = urlsplit(uri), masked(uri)
    port = 443 if uri.startswith("https") else 80
    if is_remote(uri) and not _answers(parts.hostname or "", parts.port or port):
        advice = "nothing is lost: `nsync deliver` sends it when the server answers"
        return Finding(State.WARN, "MLflow", f"{shown} does not answer", advice)
    return Finding(State.OK, "MLflow", f"{shown} (MLFLOW_TRACKING_URI)")


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=ANSWER_WITHIN).close()
    except OSError:
        return False
    return True


def _refused(workspace: Workspace) -> Iterator[Finding]:
    refused = workspace.tracking / "refused.jsonl"
    if refused.is_file():
        advice = f"MLflow refused them; {refused} says why, and can be deleted"
        lines = len(refused.read_bytes().splitlines())
        yield Finding(State.WARN, "MLflow", f"{lines} batches of values refused", advice)


def _dagster(workspace: Workspace) -> Finding:
    home, dotenv = os.environ.get("DAGSTER_HOME"), workspace.root / ".env"
    if not home and dotenv.is_file():
        line = r"^\s*DAGSTER_HOME\s*=\s*(.+?)\s*$"
        found = re.search(line, dotenv.read_text(encoding="utf-8", errors="replace"), re.M)
        home = found[1].strip("'\"") if found else None
    if not home:
        advice = "make setup writes it to .env; without it Dagster forgets its history"
        return Finding(State.WARN, "Dagster", "DAGSTER_HOME is not set", advice)
    if not (Path(home) / "dagster.yaml").is_file():
        advice = "make setup writes it: run monitoring, the gpu pool, telemetry off"
        return Finding(State.WARN, "Dagster", f"{home} has no dagster.yaml", advice)
    return Finding(State.OK, "Dagster", f"home {home}")


def workspace_findings(workspace: Workspace) -> Iterator[Finding]:
    try:
        params = read_params(workspace.params_file)
    except ParamsError as error:
        yield Finding(State.MISSING, "Settings", str(error), "correct params.yaml")
        return
    names = f"styles: {', '.join(params.styles)}; variants: {', '.join(params.variants)}"
    yield Finding(State.OK, "Settings", f"{workspace.params_file} ({names})")
    yield _writable(workspace.root)
    yield places_finding(params)
    yield base_model_finding(params.base_model)
    yield memory_finding(params)
    yield captioner_finding(params)
    if (workspace.root / "dvc.yaml").is_file():
        yield dvc_file_finding(workspace, params)
    for style in params.styles:
        yield style_finding(workspace, params, style)


def places_finding(params: Params) -> Finding:
    """How many stages run side by side here."""
    from nsync_pipeline.graph.places import places_of

    try:
        places = places_of(params)
    except ParamsError as error:
        return Finding(State.MISSING, "Side by side", str(error), "correct that variable")
    if places.note:
        advice = "lower executor.slots or executor.threads in params.yaml (NSYNC_SLOTS goes first)"
        return Finding(State.WARN, "Side by side", places.note, advice)
    return Finding(State.OK, "Side by side", places.says)


def dvc_file_finding(workspace: Workspace, params: Params) -> Finding:
    """Whether DVC is asked for what the settings say."""
    from nsync_pipeline.graph.artefacts import Graph
    from nsync_pipeline.graph.dvc import check_dvc_file

    try:
        check_dvc_file(Graph(workspace, params))
    except ParamsError as error:
        return Finding(State.WARN, "DVC's stages", str(error), "nsync sync")
    return Finding(State.OK, "DVC's stages", "as params.yaml asks for")


def base_model_finding(config: BaseModelConfig) -> Finding:
    """Looks on this machine only: a hub model that is not here would take long to download."""
    from nsync_pipeline.doctor.base_shapes import components_in_folder, local_copy
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
    from nsync_pipeline.graph.artefacts import Graph

    here, missing = 0, []
    for artefact in Graph(workspace, params).artefacts(style):
        if (workspace.root / artefact.path).is_dir():
            here += 1
        else:
            missing.append(" ".join((artefact.stage.name, artefact.training or "")).strip())
    total = here + len(missing)
    if unfit := _unfit_files(workspace.source(style)):
        advice = "mend them or take them out: they can be neither read nor versioned"
        return Finding(State.MISSING, f"Style {style}", unfit, advice)
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


def _unfit_files(folder: Path) -> str | None:
    """What of a style's own files no stage can use, and DVC cannot version."""
    if not folder.is_dir():
        return None
    try:
        refused = given_files(folder).refused
    except PictureError as error:
        return str(error)
    listed = [f"{name} {reason}" for name, reason in refused.items()]
    return f"in {folder}: {short_list(listed)}" if listed else None


def captioner_finding(params: Params) -> Finding:
    """Whether the model that describes pictures without a caption is here."""
    from huggingface_hub import try_to_load_from_cache

    model, subject = params.captioning.asked, "Captioner"
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
        f"see {model.section} in params.yaml",
    )  # fmt: skip
