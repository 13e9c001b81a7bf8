"""Folders and files sent and fetched through a DVC remote, each by its content.

A courier is a DVC repository of its own, without a pipeline and without git. What was sent is
named by a note: the digest by which DVC knows the folder or file.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from nsync_pipeline.errors import ElsewhereError, NotFetchedError, UserError
from nsync_pipeline.files import write_whole
from nsync_pipeline.graph.dvc import dvc_reason
from nsync_pipeline.settings_file import read_settings
from nsync_pipeline.text import ESCAPED
from nsync_pipeline.tracking.destination import masked

SECRET = (
    "password", "secret", "token", "key", "connection_string", "credential", "passphrase",
    "custom_auth_header",
)  # fmt: skip
"""What the names of options have in them that say who one is: they stay on their machine."""
FETCHED = "fetched"
SET_ONE = (
    "`dvc remote add --default store ADDRESS` sets one: a folder that all nodes see, "
    "s3://bucket/folder, ssh://host/folder, ..."
)


@dataclass(frozen=True)
class DvcRemote:
    """The remote that a workspace has by default."""

    options: Mapping[str, str]  # url, region, ...
    cache: str  # of this machine

    @property
    def url(self) -> str:
        return self.options["url"]

    @property
    def shown(self) -> dict[str, str]:
        """The options without what is secret: a node has its own."""
        return {k: v for k, v in self.options.items() if not any(word in k for word in SECRET)}


@lru_cache(maxsize=8)
def remote_of(root: Path) -> DvcRemote:
    """What DVC says of the workspace ``root``; asked once a process.

    Raises:
        UserError: it has no remote, or DVC is not there.
    """
    if find_spec("dvc") is None:
        raise UserError(
            "what jobs read and make goes through DVC, which is not installed: "
            "pip install 'nsync-pipeline[orchestration]'"
        )
    if not (root / ".dvc").is_dir():
        raise UserError(f"what jobs read and make goes through DVC: run `dvc init` in {root}")
    said = dict(line.split("=", 1) for line in _dvc(root, "config", "--list").splitlines())
    name = said.get("core.remote")
    prefix = f"remote.{name}."
    options = {k.removeprefix(prefix): v for k, v in said.items() if k.startswith(prefix)}
    if name is None or "url" not in options:
        raise UserError(
            f"what jobs read and make goes through a DVC remote, and {root} has none by default: "
            f"{SET_ONE}"
        )
    return DvcRemote(options, said.get("cache.dir", str(root / ".dvc" / "cache")))


@dataclass(frozen=True)
class Courier:
    """A DVC repository in ``folder``; used by one process at a time."""

    folder: Path

    @staticmethod
    def set_up(folder: Path, options: Mapping[str, str], cache: str | None) -> "Courier":
        """Write its settings; without ``cache`` it has one of its own."""
        lines = ["[core]", "    no_scm = true", "    analytics = false", "    check_update = false"]
        lines += ["    remote = home", "[cache]", '    type = "reflink,copy"']
        lines += [] if cache is None else [f"    dir = {cache}"]
        lines += ["['remote \"home\"']", *(f"    {k} = {v}" for k, v in options.items()), ""]
        text = "\n".join(lines)
        file = folder / ".dvc" / "config"
        if not file.is_file() or file.read_text() != text:
            write_whole(file, text)
            file.chmod(0o600)  # it may have a password
        return Courier(folder)

    def fetch(self, notes: Mapping[str, str]) -> None:
        """Bring what each note names to its path, relative to the courier's folder.

        Raises:
            NotFetchedError: DVC could not.
        """
        if not notes:
            return
        files = [self._write_note(path, note) for path, note in notes.items()]
        try:
            _dvc(self.folder, "pull", *files)
        except UserError as error:
            raise NotFetchedError(
                f"nothing could be fetched through the DVC remote: {error}"
            ) from error

    def send(self, *paths: str) -> dict[str, str]:
        """Put what lies at ``paths`` into the remote; gives the note of each.

        Raises:
            UserError: DVC could not take it in.
            ElsewhereError: the remote is full, say, or refuses.
        """
        if not paths:
            return {}
        _dvc(self.folder, "add", *paths)
        try:
            _dvc(self.folder, "push", *(f"{path}.dvc" for path in paths))
        except UserError as error:
            raise ElsewhereError(f"not all could be sent to the DVC remote: {error}") from error
        return {
            path: read_settings(self.folder / f"{path}.dvc")["outs"][0]["md5"] for path in paths
        }

    def _write_note(self, path: str, note: str) -> str:
        file = self.folder / f"{path}.dvc"
        out = {"md5": note, "hash": "md5", "path": file.name.removesuffix(".dvc")}
        write_whole(file, json.dumps({"outs": [out]}))  # which is YAML, with 0 as text
        return f"{path}.dvc"


def _dvc(folder: Path, *arguments: str) -> str:
    """What DVC printed; ``UserError`` with its reason where it failed."""
    environment = {k: v for k, v in os.environ.items() if k not in ("DVC_ROOT", "DVC_STAGE")}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, errors=ESCAPED,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise UserError(masked(dvc_reason(done.stderr, done.returncode)))
    return done.stdout


class HomeCourier:
    """The courier of a workspace: it remembers what it has sent."""

    def __init__(self, root: Path, state: Path) -> None:
        """``state`` is the workspace's own; raises as ``remote_of`` does."""
        self.remote = remote_of(root)
        self._folder = state / "courier"

    def send(self, content: Mapping[str, Path]) -> dict[str, str]:
        """Put the folders and files of ``content`` into the remote; gives the note of each key.

        A key says all that is in its place: what was sent once is known by it.
        """
        with self._alone() as courier:
            new = [key for key in content if not self._note(key).is_file()]
            try:
                for key in new:
                    _link(content[key], self._folder / key)
                for key, note in courier.send(*new).items():
                    write_whole(self._note(key), note)
            finally:
                for key in new:
                    _remove(self._folder / key)
                    (self._folder / f"{key}.dvc").unlink(missing_ok=True)
            return {key: self._note(key).read_text() for key in content}

    def fetch(self, note: str, place: Path) -> None:
        """Bring what ``note`` names to ``place``, where nothing is."""
        with self._alone() as courier:
            _remove(self._folder / FETCHED)
            courier.fetch({FETCHED: note})
            shutil.move(self._folder / FETCHED, place)

    def remember(self, key: str, note: str) -> None:
        """What ``key`` says is in the remote by this note."""
        write_whole(self._note(key), note)

    def forget(self) -> None:
        """Take nothing to be in the remote: somebody has emptied it."""
        shutil.rmtree(self._notes, ignore_errors=True)

    @property
    def _notes(self) -> Path:
        return self._folder / "notes" / hashlib.sha256(self.remote.url.encode()).hexdigest()[:16]

    def _note(self, key: str) -> Path:
        return self._notes / key

    @contextmanager
    def _alone(self) -> Iterator[Courier]:
        """One job after the other: DVC lets nobody else into its repository meanwhile."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder / "lock"):
            yield Courier.set_up(self._folder, self.remote.options, self.remote.cache)


def _link(source: Path, place: Path) -> None:
    """The same content at ``place``; as links where that is possible, for nobody writes there."""
    _remove(place)
    if source.is_dir():
        shutil.copytree(source, place, copy_function=_linked)
    else:
        _linked(str(source), str(place))


def _linked(source: str, place: str) -> str:
    try:
        os.link(os.path.realpath(source), place)
    except OSError:  # on another disk
        shutil.copyfile(source, place)
    return place


def _remove(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.unlink(missing_ok=True)
