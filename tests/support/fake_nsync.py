"""``nsync`` with fake stages (fake_stages.py); everything around them is real.

In the environment, ``FAKE_SECONDS`` is how long each takes, ``FAKE_SLOW`` names one that takes a
minute, ``FAKE_FAILS`` names one that fails; each adds its name to the file ``FAKE_LOG`` once it is
done. Where ``FAKE_MEETING`` names a folder, a training ends only after two were in there at once.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

from nsync_pipeline.cli.app import main
from nsync_pipeline.errors import UserError
from nsync_pipeline.graph import run as of_run
from nsync_pipeline.graph.table import Stage
from nsync_pipeline.stage import StageContext, StageResult
from tests.support.fake_stages import Fakes


def install_fake_stages() -> None:
    """Put the fakes, as the environment asks for them, in the place of the stages."""
    fakes = Fakes(
        meanwhile=_meet,
        seconds=float(os.environ.get("FAKE_SECONDS", "0")),
        slow=os.environ.get("FAKE_SLOW"),
        fails=os.environ.get("FAKE_FAILS"),
    )

    def run(stage: Stage, context: StageContext[Any]) -> StageResult:
        result = fakes.run(stage, context)
        if "FAKE_LOG" in os.environ:
            with Path(os.environ["FAKE_LOG"]).open("a") as log:
                log.write(f"{fakes.ran[-1]}\n")
        return result

    Stage.run = run  # type: ignore[assignment, method-assign]
    of_run.ENGINE = (sys.executable, __file__)


def _meet(context: StageContext[Any]) -> None:
    if "FAKE_MEETING" not in os.environ or context.variant is None:
        return
    meeting = Path(os.environ["FAKE_MEETING"])
    (meeting / f"{os.getpid()}").touch()
    limit = time.monotonic() + 120.0
    while len(list(meeting.iterdir())) < 2:
        if time.monotonic() > limit:
            raise UserError("no other training ran at the same time")
        time.sleep(0.02)


if __name__ == "__main__":
    install_fake_stages()
    sys.exit(main())
