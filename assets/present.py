"""What is there now, before anything runs: settings, inputs and code, as DVC would record them."""

from collections.abc import Sequence
from typing import Any

from dagster import AssetKey
from nsync_pipeline.graph.inputs import Tree, read_tree, tree_digest
from ruamel.yaml import YAML

from assets.keys import CHOICES, SOURCES
from assets.lock_file import CODE, json_digest
from assets.place import WORKSPACE
from nsync_pipeline.graph import Stage

_seen: dict[str, Tree] = {}


def params_now() -> Any:
    """``params.yaml`` as it is written, defaults not filled in: so DVC reads it, too."""
    return YAML(typ="safe", pure=True).load(WORKSPACE.params_file.read_text(encoding="utf-8"))


def settings_of(params: Any, keys: Sequence[str]) -> dict[str, Any]:
    """The part of ``params`` under these dotted keys."""
    return {key: _at(params, key) for key in keys}


def filled_by_people(style: str) -> dict[AssetKey, str]:
    """The folders of a style that people fill, by the asset that stands for each."""
    folders = {SOURCES: WORKSPACE.source(style), CHOICES: WORKSPACE.choices(style)}
    return {key: path.relative_to(WORKSPACE.root).as_posix() for key, path in folders.items()}


def filled_now(style: str) -> dict[AssetKey, str]:
    """The digests of those folders that are there."""
    found = {key: _digest(folder) for key, folder in filled_by_people(style).items()}
    return {key: digest for key, digest in found.items() if digest is not None}


def code_version(stage: Stage) -> str:
    """The version of the code the stage's artefact depends on."""
    return json_digest({f"{CODE}{part}": _digest(f"{CODE}{part}") for part in stage.code})


def _at(content: Any, key: str) -> Any:
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def _digest(path: str) -> str | None:
    """Of a file or folder; a file that did not change since it was asked last is not read again."""
    if not (WORKSPACE.root / path).exists():
        return None
    _seen[path] = read_tree(WORKSPACE.root / path, _seen.get(path))
    return tree_digest(_seen[path])
