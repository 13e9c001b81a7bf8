"""The line to Dagster, where this process was started by one of its assets."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, open_dagster_pipes


@dataclass(frozen=True)
class DagsterLine:
    """The Dagster run this process works for."""

    run_id: str
    say: Callable[[str], None]
    """Writes a line to the run's log."""


@contextmanager
def dagster_line() -> Iterator[DagsterLine | None]:
    """The open line; None outside of Dagster."""
    if DAGSTER_PIPES_CONTEXT_ENV_VAR not in os.environ:
        yield None
        return
    with open_dagster_pipes() as pipes:
        yield DagsterLine(pipes.run_id, pipes.log.info)
