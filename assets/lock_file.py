"""``dvc.lock``: what DVC knows of every artefact. Nothing else of DVC's is read."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from assets.place import WORKSPACE
from nsync_pipeline.workspace import TrainingRun

LOCK = WORKSPACE.root / "dvc.lock"

CODE = "nsync_pipeline/"
"""Deps under it are code, the others artefacts or sources."""


@dataclass(frozen=True)
class LockEntry:
    """One stage of one style (and training)."""

    out: str
    """The digest of the artefact: ``<md5>.dir``."""
    deps: dict[str, str]
    """Digests of the artefacts and sources it was made from, by path."""
    code: dict[str, str]
    """Digests of the code it was made with, by path."""
    settings: dict[str, Any]
    """The settings it was made with, by dotted key."""
    digest: str
    """Of the whole entry: a run that made the same bytes from other inputs has another."""


def read_lock(path: Path) -> dict[str, LockEntry]:
    """The entries by DVC's stage name, such as ``training@ink-nsync-0``; none where nothing ran."""
    if not path.is_file():
        return {}
    content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")) or {}
    return {name: _entry(entry) for name, entry in content.get("stages", {}).items()}


def stage_name(stage: str, style: str, training: TrainingRun | None) -> str:
    """DVC's name of one stage of a matrix."""
    return f"{stage}@{style}" if training is None else f"{stage}@{style}-{training.name}"


def json_digest(content: Any) -> str:
    """32 hex digits over ``content``, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _entry(entry: dict[str, Any]) -> LockEntry:
    digests = {dep["path"]: dep["md5"] for dep in entry.get("deps", ())}
    (out,) = entry["outs"]
    return LockEntry(
        out=out["md5"],
        deps={path: md5 for path, md5 in digests.items() if not path.startswith(CODE)},
        code={path: md5 for path, md5 in digests.items() if path.startswith(CODE)},
        settings=entry.get("params", {}).get("params.yaml", {}),
        digest=json_digest(entry),
    )
