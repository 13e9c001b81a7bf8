"""DVC as a program: the one thing the assets start."""

import json
import sys
import time
from collections.abc import Mapping, Sequence

from assets.child_process import Ended, run_child

BUSY = ("is busy, it is being blocked by", "Unable to acquire lock")
"""What DVC says while another DVC command holds what this one needs."""
PATIENCE = 24 * 3600.0  # seconds: another training may go first
LONGEST_PAUSE = 30.0  # seconds between two tries


class DvcError(Exception):
    """DVC, or the stage it ran, failed; the message is what was said on stderr."""


def repro(stage: str, environment: Mapping[str, str]) -> None:
    """Bring one stage up to date, as ``dvc repro --single-item`` does.

    Raises:
        DvcError: it failed.
    """
    arguments = ("--wait-for-lock", "repro", "--quiet", "--single-item", stage)
    ended = _run_dvc(arguments, environment)
    print(ended.stderr, end="", file=sys.stderr)  # warnings, where there were any


def stages_out_of_date(stages: Sequence[str]) -> set[str]:
    """Those of ``stages`` that DVC would run now; what is only downstream of them is not in.

    Raises:
        DvcError: DVC could not say.
    """
    arguments = ("--wait-for-lock", "status", "--json", *stages)
    status = json.loads(_run_dvc(arguments, {}, keep_stdout=True).stdout)
    return {name for name in status if name in stages}


def _run_dvc(
    arguments: Sequence[str], environment: Mapping[str, str], keep_stdout: bool = False
) -> Ended:
    give_up, pause = time.monotonic() + PATIENCE, 1.0
    while True:
        ended = run_child((sys.executable, "-m", "dvc", *arguments), environment, keep_stdout)
        if ended.code == 0:
            return ended
        if time.monotonic() > give_up or not any(saying in ended.stderr for saying in BUSY):
            raise DvcError(ended.stderr.strip() or f"dvc ended with exit code {ended.code}")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
