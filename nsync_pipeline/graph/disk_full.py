"""A full disk is reported by each library in its own words; a user is told once, in ours."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nsync_pipeline.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
SAYINGS = ("No space left on device", "Disk quota exceeded", "database or disk is full")


@contextmanager
def disk_full_explained(folder: Path) -> Iterator[None]:
    """Turn any error that means "the disk is full" into one clear message.

    Raises:
        UserError: in place of such an error.
    """
    try:
        yield
    except Exception as error:
        if not _means_full(error):
            raise
        free = shutil.disk_usage(folder).free / 2**20
        raise UserError(
            f"The disk is full: {folder} has {free:.0f} MiB left. Make room, then run this again; "
            "it goes on where it was cut off."
        ) from error


def _means_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if any(saying in str(error) for saying in SAYINGS):
            return True
        error = error.__cause__ or error.__context__
    return False
