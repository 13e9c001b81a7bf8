"""``nsync`` as a person starts it, in this process: a process of its own imports for seconds."""

import io
import logging
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from nsync_pipeline.cli.app import main


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def nsync(folder: Path, *arguments: str) -> Done:
    """``nsync ARGUMENTS`` in ``folder``; what the log says goes to ``stderr``, as it does there."""
    out, err = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(err)
    handler.setLevel(logging.WARNING)
    logging.getLogger().addHandler(handler)
    code: int | str | None = 0
    try:
        called = patch.object(sys, "argv", ["nsync", *arguments])
        with chdir(folder), redirect_stdout(out), redirect_stderr(err), called:
            main()
    except SystemExit as end:
        code = end.code
    finally:
        logging.getLogger().removeHandler(handler)
    assert code is None or isinstance(code, int)
    return Done(code or 0, out.getvalue(), err.getvalue())
