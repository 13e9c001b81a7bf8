"""The newest checkpoint of a training, kept where the node that takes over finds it.

A thread beside the training copies it, with what belongs to it (its history, its looks), as one
archive: what is kept is of one piece. The training waits for none of it.
"""

import logging
import os
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from nsync_pipeline.errors import UserError
from nsync_pipeline.files import PARTIAL
from nsync_pipeline.tracking.destination import masked, reason_of

logger = logging.getLogger(__name__)

EVERY = 2.0  # seconds between two looks at the checkpoints
KINDS = ("training", "looks")  # of scratch, which the archive has
CHECKPOINT = "step_*.checkpoint"
ARCHIVE = "training.tar"


class KeptTraining:
    """A copy of a training's scratch at an address that fsspec knows, by the kind of device."""

    def __init__(self, scratch: Path, url: str, kind: str) -> None:
        """Raises ``UserError`` where nothing can be kept there.

        One kind of device does not go on with what another began: the result would be neither's.
        """
        self._scratch, self._url = scratch, masked(url)
        self._last: Path | None = None
        try:
            self._files, self._folder = fsspec.core.url_to_fs(url)
            self._files.makedirs(f"{self._folder}/{kind}", exist_ok=True)
        except Exception as error:  # each kind of storage has its own
            raise UserError(
                f"no checkpoint can be kept at {self._url}: {reason_of(error)}"
            ) from error
        self._archive = f"{self._folder}/{kind}/{ARCHIVE}"

    def bring(self) -> bool:
        """Bring what is kept into the scratch; gives whether there was anything.

        Raises:
            UserError: it is there, and cannot be read.
        """
        try:
            if not self._files.exists(self._archive):
                return False
            with tempfile.TemporaryFile(dir=self._scratch.parent) as copy:
                with self._files.open(self._archive) as kept:
                    while part := kept.read(2**24):
                        copy.write(part)
                copy.seek(0)
                with tarfile.open(fileobj=copy) as archive:
                    archive.extractall(self._scratch, filter="data")
        except Exception as error:
            message = f"the checkpoint at {self._url} cannot be read: {reason_of(error)}"
            raise UserError(message) from error
        self._last = self._newest()
        return True

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Keep each new checkpoint, until the end."""
        ended = threading.Event()
        thread = threading.Thread(target=self._follow, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def keep(self) -> None:
        """Copy the newest checkpoint, where it is not kept yet; what was kept is whole till then.

        The checkpoint is chosen first: all that belongs to it was there before it.
        """
        newest = self._newest()
        if newest is None or newest == self._last:
            return
        with tempfile.NamedTemporaryFile(dir=self._scratch.parent) as file:
            with tarfile.open(fileobj=file, mode="w") as archive:
                for path in (newest, *self._beside_checkpoints()):
                    archive.add(path, path.relative_to(self._scratch).as_posix())
            file.flush()
            partial = f"{self._archive}.{os.getpid()}.partial"
            self._files.put_file(file.name, partial)
            self._files.mv(partial, self._archive)
        self._last = newest

    def forget(self) -> None:
        """Remove what is kept, of all kinds: the training is done."""
        try:
            self._files.rm(self._folder, recursive=True)
        except Exception as error:
            logger.warning("%s stays: %s", self._url, reason_of(error))

    def _follow(self, ended: threading.Event) -> None:
        while not ended.wait(EVERY):
            try:
                self.keep()
            except FileNotFoundError:  # there is a newer one
                continue
            except Exception as error:  # the training goes on; it is only not kept
                logger.warning("the checkpoint is not kept at %s: %s", self._url, reason_of(error))

    def _newest(self) -> Path | None:
        found = [
            path for path in (self._scratch / "training").rglob(CHECKPOINT) if not _is_aside(path)
        ]
        return max(found, key=lambda path: path.name, default=None)

    def _beside_checkpoints(self) -> Iterator[Path]:
        for kind in KINDS:
            for path in sorted((self._scratch / kind).rglob("*")):
                parts = path.relative_to(self._scratch).parts
                partial = any(PARTIAL.fullmatch(part) for part in parts)
                if path.is_file() and not (partial or _is_aside(path) or path.match(CHECKPOINT)):
                    yield path


def _is_aside(path: Path) -> bool:
    return any(part.endswith(".set-aside") for part in path.parts)
