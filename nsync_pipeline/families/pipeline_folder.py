"""From a base model's name to its diffusers pipeline's folder: embedded, local or the hub's."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from nsync_pipeline import sketchbook
from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.hub import hub_errors

SKETCHBOOK = "sketchbook"
INDEX = "model_index.json"
WEIGHTS = ("model.safetensors", "diffusion_pytorch_model.safetensors")
"""The weight files of a component that are loaded: never another precision or a pickle."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PipelineFolder:
    """A diffusers pipeline on this machine."""

    name: str  # as the user named it
    path: Path
    index: dict[str, Any]  # model_index.json
    commit: str | None  # of a hub model
    embedded: bool

    def revision(self, components: Sequence[str]) -> str:
        """What the model is: the hub's commit, or ``sha256:`` and 16 digits over the files.

        The digest is over the names and contents of the JSON, text and safetensors files of the
        components that are used, so that it does not depend on where the folder lies.
        """
        if self.commit is not None:
            return self.commit
        whole = hashlib.sha256()
        for component in sorted(components):
            for file in sorted((self.path / component).glob("*")):
                if file.suffix in {".json", ".txt", ".safetensors"}:
                    with file.open("rb") as stream:
                        digest = hashlib.file_digest(stream, "sha256").hexdigest()
                    whole.update(f"{component}/{file.name}\0{digest}\n".encode())
        return f"sha256:{whole.hexdigest()[:16]}"


def find_pipeline(
    config: BaseModelConfig, components: Sequence[str], weights: bool = True
) -> PipelineFolder:
    """The folder of the pipeline that ``config`` names; a hub model is downloaded where it must be.

    Args:
        config: the ``base_model`` section.
        components: the subfolders that will be loaded; nothing else is downloaded.
        weights: whether their weights are needed too, or only settings and vocabularies.

    Raises:
        BaseModelError: there is no such folder or hub model, it cannot be reached, it asks for an
            agreement first, or it is not a diffusers pipeline.
    """
    name = config.name
    if name == SKETCHBOOK:
        return _folder(name, sketchbook.PIPELINE_FOLDER, embedded=True)
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder(name, path)
    if name.startswith(("/", ".", "~")) or name.count("/") != 1:
        raise BaseModelError(
            f"base_model.name: {name!r} is not a folder that exists. Allowed are `sketchbook`, the "
            "folder of a diffusers pipeline, or a hub id such as `organisation/model`."
        )
    path = _downloaded(config, components, weights)
    if config.revision is None:
        _log.warning(
            "base_model.revision is not set: %s is used at its newest commit. Pin it by "
            "`revision: %s`, so that a later run uses the same weights.", name, path.name,
        )  # fmt: skip
    return _folder(name, path, commit=path.name)


def _folder(
    name: str, path: Path, commit: str | None = None, embedded: bool = False
) -> PipelineFolder:
    index_file = path / INDEX
    if not index_file.is_file():
        hint = (
            "The weights of the embedded base are missing: install the package again."
            if embedded
            else "Save one there by `pipeline.save_pretrained(folder)`; a single .safetensors "
            "checkpoint has to be converted first."
        )
        raise BaseModelError(
            f"base_model.name: {name!r}: {path} is not a diffusers pipeline: "
            f"it has no {INDEX}. {hint}"
        )
    try:
        index = json.loads(index_file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise BaseModelError(f"{index_file} cannot be read: {error}") from error
    if not isinstance(index, dict):
        raise BaseModelError(f"{index_file} is not the index of a diffusers pipeline")
    return PipelineFolder(name, path, index, commit, embedded)


def _downloaded(config: BaseModelConfig, components: Sequence[str], weights: bool) -> Path:
    """The snapshot of a hub model in the local cache; its folder's name is the commit."""
    name, at = config.name, f" at revision {config.revision!r}" if config.revision else ""
    patterns = [INDEX]
    for component in components:
        patterns += [f"{component}/*.json", f"{component}/*.txt"]
        if weights:
            patterns += [f"{component}/{file}" for file in WEIGHTS]
            patterns += [f"{component}/{Path(file).stem}-*-of-*.safetensors" for file in WEIGHTS]
    where = f"base_model.name: {name!r}{at}"
    with hub_errors(where, name):
        return Path(
            snapshot_download(
                name, revision=config.revision, allow_patterns=patterns, ignore_patterns=["*.fp16*"]
            )
        )
