"""From a base model's name to its files on this machine: embedded, local or the hub's."""

import hashlib
import json
import logging
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from nsync_pipeline import sketchbook
from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.checkpoint_file import CheckpointKind, kind_of_checkpoint
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.files import file_sha256, read_json, write_whole

_log = logging.getLogger(__name__)


REACHED_WITHIN = 3.0  # seconds


@contextmanager
def offline_without_a_network() -> Iterator[None]:
    """Have the hub's client look on this machine only, where it would ask in vain.

    It asks six times, for half a minute. Behind a proxy it is left to find out by itself.
    """
    before, hub = constants.HF_HUB_OFFLINE, urlsplit(constants.ENDPOINT)
    if not (before or getproxies()):
        port = hub.port or (80 if hub.scheme == "http" else 443)
        try:
            socket.create_connection((hub.hostname or "", port), timeout=REACHED_WITHIN).close()
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def hub_errors(where: str, name: str) -> Iterator[None]:
    """Make a ``BaseModelError`` that begins with ``where`` of what the hub's client raises.

    ``where`` is the setting and its value, ``name`` the hub id.
    """
    try:
        with offline_without_a_network():
            yield
    except GatedRepoError as error:
        raise BaseModelError(
            f"{where} is gated: accept its terms at https://huggingface.co/{name}, then log in by "
            "`hf auth login` or set HF_TOKEN."
        ) from error
    except RevisionNotFoundError as error:
        raise BaseModelError(f"{where} does not exist: the hub has no such revision.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise BaseModelError(
            f"{where} is neither a folder here nor a model on the hub (a private one needs "
            "HF_TOKEN)."
        ) from error
    except LocalEntryNotFoundError as error:
        raise BaseModelError(
            f"{where} is not in the local cache, and the hub cannot be reached. Connect once to "
            "download it, or give a local folder."
        ) from error
    except Exception as error:  # the hub's client lets its HTTP library's own errors through
        reason = str(error).strip().split("\n")[0]
        raise BaseModelError(f"{where} could not be downloaded: {reason}") from error


SKETCHBOOK = "sketchbook"
INDEX = "model_index.json"
WEIGHTS = ("model.safetensors", "diffusion_pytorch_model.safetensors")
"""The weight files of a component that are loaded; of another precision only without them."""
HALVES = ("fp16", "bf16")
PICKLES = ("pytorch_model.bin", "diffusion_pytorch_model.bin")


def is_hub_id(name: str) -> bool:
    """Whether ``name`` can be a hub id, ``organisation/model``."""
    return name.count("/") == 1 and not name.startswith(("/", ".", "~"))


def downloaded(
    name: str,
    revision: str | None,
    components: Sequence[str],
    setting: str,
    weights: bool = True,
    pickles: bool = False,
) -> Path:
    """The snapshot of a hub model in the local cache; its folder's name is the commit.

    Args:
        revision: a commit, tag or branch; the newest where None.
        components: the subfolders that are needed; none: the index alone.
        setting: which setting names the model, for the messages.
        weights: whether their weights are needed too, or only settings and vocabularies.
        pickles: whether weights may be pickled.

    Raises:
        BaseModelError: as ``hub_errors``.
    """
    patterns = [INDEX]
    files = (WEIGHTS + PICKLES if pickles else WEIGHTS) if weights else ()
    for component in components:
        patterns += [f"{component}/*.{of}" for of in ("json", "txt", "model", "jinja")]
        for file in files:
            stem, ending = file.rsplit(".", 1)
            patterns += [f"{component}/{file}", f"{component}/{stem}-*-of-*.{ending}"]
    where = f"{setting}: {name!r}" + (f" at revision {revision!r}" if revision else "")
    with hub_errors(where, name):
        path = Path(
            snapshot_download(
                name, revision=revision, allow_patterns=patterns, ignore_patterns=["*.fp16*"]
            )
        )
        halves = [
            pattern
            for component in components
            if weights and (path / component / "config.json").is_file()
            if not (weight_files(path / component) or pickled_files(path / component))
            for half in HALVES
            for pattern in (f"{component}/*.{half}*.safetensors", f"{component}/*.{half}.json")
        ]
        if halves:  # it may have no others
            snapshot_download(name, revision=revision, allow_patterns=halves)
    return path


def weight_files(folder: Path, precision: str = "") -> list[Path]:
    """The safetensors files of a component, whole or in shards; of no precision, or of one."""
    ending = rf"\.{precision}" if precision else ""
    for file in WEIGHTS:
        stem = re.escape(file.removesuffix(".safetensors"))
        if whole := _called(folder, rf"{stem}{ending}\.safetensors"):
            return whole
        shard = r"-\d+-of-\d+"  # before or behind the precision: older libraries, and newer
        if shards := _called(folder, rf"{stem}(?:{ending}{shard}|{shard}{ending})\.safetensors"):
            return shards
    return []


def _called(folder: Path, pattern: str) -> list[Path]:
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(file for file in files if re.fullmatch(pattern, file.name))


def variant_of(folder: Path, allow_pickle: bool = False) -> str | None:
    """The precision whose weight files are loaded, where there are none without one."""
    if weight_files(folder) or (allow_pickle and pickled_files(folder)):
        return None
    safe = next((half for half in HALVES if weight_files(folder, half)), None)
    if safe is not None or not allow_pickle:
        return safe
    return next((half for half in HALVES if pickled_files(folder, half)), None)


def pickled_files(folder: Path, precision: str = "") -> list[Path]:
    """Those of a component, of no precision or of one."""
    ending = f".{precision}.bin" if precision else ".bin"
    files = (folder / file.replace(".bin", ending) for file in PICKLES)
    return [file for file in files if file.is_file()]


@dataclass(frozen=True)
class PipelineFolder:
    """A diffusers pipeline on this machine, or a checkpoint with the settings of one."""

    name: str  # as the user named it
    path: Path  # of the settings and vocabularies, and of the weights unless in a checkpoint
    index: dict[str, Any]  # model_index.json
    commit: str | None  # of a hub model
    embedded: bool
    checkpoint: Path | None = None  # the single file that all weights are in
    checkpoint_kind: CheckpointKind | None = None
    allow_pickle: bool = False

    def revision(self, components: Sequence[str]) -> str:
        """What the model is: the hub's commit, or ``sha256:`` and 16 digits over the files.

        The digest is over names and contents of the components' settings, vocabularies and weights,
        or of the checkpoint in the place of weights; not over where they lie.
        """
        if self.commit is not None:
            return self.commit
        settings = {".json", ".txt", ".model", ".jinja"}
        weights = {".safetensors", ".bin"} if self.allow_pickle else {".safetensors"}
        files = [
            (f"{component}/{file.name}", file)
            for component in sorted(components)
            for file in sorted((self.path / component).glob("*"))
            if file.suffix in settings
            or (file.suffix in weights and self.checkpoint_of(component) is None)
        ]
        if self.checkpoint is not None:
            files.append(("checkpoint", self.checkpoint))
        whole = hashlib.sha256()
        for name, file in files:
            whole.update(f"{name}\0{_remembered_sha256(file)}\n".encode())
        return f"sha256:{whole.hexdigest()[:16]}"

    def checkpoint_of(self, component: str) -> Path | None:
        """The single file that the component's weights are in; None: its own folder."""
        holds = None if self.checkpoint_kind is None else self.checkpoint_kind.holds
        return self.checkpoint if holds is None or component in holds else None

    def component(self, name: str) -> str | None:
        """The class of a component; None where the pipeline has none."""
        entry = self.index.get(name)
        kind = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        return None if kind is None else str(kind)

    def require(self, components: Mapping[str, Sequence[str]]) -> None:
        """BaseModelError where one is missing or of none of its classes (none named: any)."""
        for name, allowed in components.items():
            kind = self.component(name)
            if kind is None or (allowed and kind not in allowed):
                takes = " or ".join(allowed) if allowed else "a diffusers scheduler"
                raise BaseModelError(
                    f"base_model.name: {self.name}: its {name} is {kind}; taken is {takes}: name a "
                    "model that has it, or update nsync-pipeline where this one is newer."
                )


REMEMBERED_FROM = 2**20  # bytes from which a file's digest is kept for the next load
SETTLED = 2.0  # seconds without a change after which it is: so coarse is some file systems' clock


def _remembered_sha256(file: Path) -> str:
    """As ``file_sha256``; of a large file with the same size, time and inode, from last time."""
    before = _state(file)
    if before[0] < REMEMBERED_FROM:
        return file_sha256(file)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    name = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:32]
    kept = cache / "nsync-pipeline" / "sha256" / name
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = read_json(kept)
        if known["state"] == before:
            return str(known["sha256"])
    digest = file_sha256(file)
    if _state(file) == before and time.time() - before[1] / 1e9 > SETTLED:
        with suppress(OSError):  # a home that cannot be written to
            write_whole(kept, json.dumps({"state": before, "sha256": digest}))
    return digest


def _state(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def find_pipeline(config: BaseModelConfig) -> PipelineFolder:
    """What ``config`` names, as far as its index; of a hub model, no more is downloaded yet.

    Raises:
        BaseModelError: it is not to be had, or not a text-to-image model in a known layout.
    """
    name = config.name
    if name == SKETCHBOOK:
        return _folder(name, sketchbook.PIPELINE_FOLDER, embedded=True)
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder(name, path, allow_pickle=config.allow_pickle)
    if path.is_file():
        return _with_settings(config, path)
    if not is_hub_id(name) or path.suffix in {".safetensors", ".ckpt"}:
        raise BaseModelError(
            f"base_model.name: {name!r} is not a folder that exists, nor a file. Allowed are "
            "`sketchbook`, the folder of a diffusers pipeline, a single-file checkpoint, or a hub "
            "id such as `organisation/model`."
        )
    path = downloaded(name, config.revision, (), "base_model.name")
    if config.revision is None:
        _log.warning(
            "base_model.revision is not set: %s is used at its newest commit. Pin it by "
            "`revision: %s`, so that a later run uses the same weights.", name, path.name,
        )  # fmt: skip
    return _folder(name, path, path.name, allow_pickle=config.allow_pickle)


def with_components(
    folder: PipelineFolder, components: Sequence[str], weights: bool = True
) -> PipelineFolder:
    """``folder`` with these components on this machine; of a hub model they are ``downloaded``."""
    if folder.commit is None:
        return folder
    path = downloaded(
        folder.name, folder.commit, components, "base_model.name", weights, folder.allow_pickle
    )
    return replace(folder, path=path)


def _with_settings(config: BaseModelConfig, checkpoint: Path) -> PipelineFolder:
    """The checkpoint, with the settings and vocabularies of the pipeline it is of."""
    kind = kind_of_checkpoint(checkpoint, config.allow_pickle)
    source = config.config or kind.settings
    if source is None:
        raise BaseModelError(
            f"base_model.config is needed with {config.name}: {kind.undecided} Give the folder or "
            "hub id of the diffusers pipeline that the checkpoint was made from."
        )
    if kind.lacks:
        raise BaseModelError(
            f"base_model.name: {checkpoint} is of the family {kind.family}, without its "
            f"{' and '.join(kind.lacks)}: take a file that has all parts, or the folder of a "
            "diffusers pipeline."
        )
    path = Path(source).expanduser()
    if not path.is_dir():
        if not is_hub_id(source):
            raise BaseModelError(
                f"base_model.config: {source!r} is neither a folder here nor a hub id."
            )
        inside = kind.components if kind.holds is None else kind.holds
        path = downloaded(source, None, inside, "base_model.config", weights=False)
        if outside := [name for name in kind.components if name not in inside]:
            path = downloaded(source, path.name, outside, "base_model.config")
    if kind.absent:
        _log.warning("%s has no %s: drawn and trained without", checkpoint, kind.absent[0])
    folder = _folder(config.name, path, allow_pickle=config.allow_pickle)
    index = folder.index | {component: [None, None] for component in kind.absent}
    return replace(folder, index=index, checkpoint=checkpoint, checkpoint_kind=kind)


def _folder(
    name: str,
    path: Path,
    commit: str | None = None,
    embedded: bool = False,
    allow_pickle: bool = False,
) -> PipelineFolder:
    index_file = path / INDEX
    if not index_file.is_file():
        raise BaseModelError(
            f"base_model.name: {name!r}: {path} is not a diffusers pipeline: "
            f"it has no {INDEX}. {_hint(path, embedded)}"
        )
    try:
        index = read_json(index_file)
    except (ValueError, OSError) as error:
        raise BaseModelError(f"{index_file} cannot be read: {error}") from error
    if not isinstance(index, dict):
        raise BaseModelError(f"{index_file} is not the index of a diffusers pipeline")
    return PipelineFolder(name, path, index, commit, embedded, allow_pickle=allow_pickle)


def _hint(path: Path, embedded: bool) -> str:
    if embedded:
        return "The weights of the embedded base are missing: install the package again."
    files = sorted(path.glob("*.safetensors"))
    if files and not (path / "config.json").is_file():
        return f"To use a single-file checkpoint, name the file itself: {files[0]}."
    return "Save one there by `pipeline.save_pretrained(folder)`."
