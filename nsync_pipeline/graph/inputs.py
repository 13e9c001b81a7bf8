"""The input guard: what a stage read must still be there when its result is recorded.

DVC takes the digests of deps and settings *after* the command. Without this guard, a setting edited
during a training would be recorded as the one the model was trained with.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nsync_pipeline.errors import InputsChangedError, ParamsError
from nsync_pipeline.files import file_md5
from nsync_pipeline.params import Params, read_params

IGNORED = ("__pycache__", ".pyc", ".mypy_cache", ".ruff_cache", ".pytest_cache")
"""As in ``.dvcignore``: name endings of what is no input."""


@dataclass(frozen=True)
class FileState:
    """One file, as it was."""

    size: int  # bytes
    changed: int  # nanoseconds since 1970
    md5: str


Tree = dict[str, FileState]

ReadParams = Callable[[Path], Params]
"""Reads ``params.yaml``, as it applies to what is made."""


def read_tree(path: Path, known: Mapping[str, FileState] | None = None) -> Tree:
    """The files at or under ``path`` by relative path.

    A file as large and as old as in ``known`` is not read again.
    """
    tree: Tree = {}
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        relative = file.relative_to(path)
        if not file.is_file() or any(p.endswith(IGNORED) for p in relative.parts):
            continue
        name, stat = relative.as_posix(), file.stat()
        before = (known or {}).get(name)
        if before is None or (before.size, before.changed) != (stat.st_size, stat.st_mtime_ns):
            before = FileState(stat.st_size, stat.st_mtime_ns, file_md5(file))
        tree[name] = before
    return tree


def tree_digest(tree: Mapping[str, FileState]) -> str:
    """The name DVC gives the content: ``<md5>`` of a file, ``<md5>.dir`` of a folder."""
    if list(tree) == ["."]:
        return tree["."].md5
    listing = [{"md5": tree[name].md5, "relpath": name} for name in sorted(tree)]
    content = json.dumps(listing, sort_keys=True).encode()
    return hashlib.md5(content, usedforsecurity=False).hexdigest() + ".dir"


def settings_of(params: Params, keys: Iterable[str]) -> dict[str, Any]:
    """The settings at the dotted ``keys``, defaults filled in."""
    content = params.model_dump(mode="json")
    values: dict[str, Any] = {}
    for key in keys:
        value: Any = content
        for part in key.split("."):
            value = value[part]
        values[key] = value
    return values


@dataclass(frozen=True)
class Inputs:
    """Everything a stage reads, as it was when the stage began."""

    params_file: Path
    settings: Mapping[str, Any]
    trees: Mapping[Path, Tree]
    read_again: ReadParams = read_params
    """How ``params_file`` was read: an ablation has variants of its own."""

    @staticmethod
    def read(
        params_file: Path,
        params: Params,
        keys: Iterable[str],
        paths: Iterable[Path],
        read_again: ReadParams = read_params,
        known: MutableMapping[Path, Tree] | None = None,
    ) -> "Inputs":
        """``known`` holds trees that were read before: what did not change is not read again."""
        known = {} if known is None else known
        trees = {path: read_tree(path, known.get(path)) for path in paths}
        known.update(trees)
        return Inputs(params_file, settings_of(params, keys), trees, read_again)

    def digest(self) -> str:
        """32 hex digits over all of it; the same in every workspace."""
        root = self.params_file.parent
        content = {
            "settings": self.settings,
            "inputs": {
                str(path.relative_to(root) if path.is_relative_to(root) else path.name):
                tree_digest(tree) for path, tree in self.trees.items()
            },
        }  # fmt: skip
        return hashlib.blake2b(
            json.dumps(content, sort_keys=True).encode(), digest_size=16
        ).hexdigest()

    def check_unchanged(self) -> None:
        """Compare with what is there now.

        Raises:
            InputsChangedError: something changed; the message names it.
        """
        changed = self._changed_settings()
        for path, tree in self.trees.items():
            now = read_tree(path, tree)
            if tree_digest(now) != tree_digest(tree):
                names = sorted(n for n in {*tree, *now} if _md5(tree, n) != _md5(now, n))
                changed.append(f"{path} ({names[0]}{', ...' if len(names) > 1 else ''})")
        if changed:
            raise InputsChangedError(
                f"While this stage ran, its inputs changed: {'; '.join(changed)}. Its result would "
                "not be what these inputs give, so it is not kept: run it again."
            )

    def _changed_settings(self) -> list[str]:
        try:
            now = settings_of(self.read_again(self.params_file), self.settings)
        except (ParamsError, KeyError):
            return [f"{self.params_file.name} cannot be read any more"]
        return [key for key, value in self.settings.items() if now[key] != value]


def _md5(tree: Tree, name: str) -> str | None:
    return tree[name].md5 if name in tree else None
