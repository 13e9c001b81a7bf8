"""Where the captioner's files are, and which version of it they are, without loading it."""

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download

from nsync_pipeline.captioning.config import CaptionModelConfig
from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.hub import hub_errors

FILES = ("*.json", "*.txt", "*.jinja", "*.model", "*.safetensors")
"""Settings, vocabularies and weights; never a pickle, never code."""
NOT_NEEDED = ("*/*", "consolidated*")
COMMIT = re.compile(r"[0-9a-f]{40}")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaptionModelFiles:
    """A vision-language model that was named, and may not be on this machine yet."""

    name: str  # as the user named it
    revision: str  # the hub's commit, or ``sha256:`` and 16 digits over the files of a folder
    folder: Path | None  # of a local model

    def fetch(self) -> Path:
        """The folder with all its files, downloaded where they are not here.

        Raises:
            BaseModelError: it cannot be reached.
        """
        if self.folder is not None:
            return self.folder
        with hub_errors(_where(self.name, self.revision), self.name):
            return Path(
                snapshot_download(
                    self.name,
                    revision=self.revision,
                    allow_patterns=list(FILES),
                    ignore_patterns=list(NOT_NEEDED),
                )
            )


def find_model(config: CaptionModelConfig) -> CaptionModelFiles:
    """The model that ``config`` names.

    A hub model that is pinned to a commit is not looked for: what it answered may be known already.

    Raises:
        BaseModelError: it is neither a folder nor a hub id; or it is not pinned to a commit, and
            the hub cannot be reached.
    """
    name = config.name
    path = Path(name).expanduser()
    if path.is_dir():
        return CaptionModelFiles(name, _digest(path), path)
    if name.startswith(("/", ".", "~")) or name.count("/") != 1:
        raise BaseModelError(
            f"captioning.model.name: {name!r} is not a folder that exists. Allowed are the folder "
            "of a vision-language model or a hub id such as `organisation/model`."
        )
    if config.revision is not None and COMMIT.fullmatch(config.revision):
        return CaptionModelFiles(name, config.revision, None)
    with hub_errors(_where(name, config.revision), name):
        settings = Path(hf_hub_download(name, "config.json", revision=config.revision))
    commit = settings.parent.name
    _log.warning(
        "captioning.model.revision is %s: %s is used at the commit that is now. Pin it by "
        "`revision: %s`, so that a later run asks the same model.",
        "not set" if config.revision is None else f"{config.revision!r}, which may move",
        name,
        commit,
    )
    return CaptionModelFiles(name, commit, None)


def _where(name: str, revision: str | None) -> str:
    at = f" at revision {revision!r}" if revision else ""
    return f"captioning.model.name: {name!r}{at}"


def _digest(folder: Path) -> str:
    """Over the names and contents of the files that are read, wherever the folder lies."""
    whole = hashlib.sha256()
    for file in sorted({file for pattern in FILES for file in folder.glob(pattern)}):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        whole.update(f"{file.name}\0{digest}\n".encode())
    return f"sha256:{whole.hexdigest()[:16]}"
