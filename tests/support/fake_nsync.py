"""``nsync`` with fake stages (fake_stages.py); everything around them is real.

In the environment, ``FAKE_SECONDS`` is how long each takes, ``FAKE_SLOW`` names one that takes a
minute, ``FAKE_FAILS`` names one that fails; each adds its name to the file ``FAKE_LOG`` once it is
done.
"""

import os
import sys
from pathlib import Path
from typing import Any

from nsync_pipeline.cli.app import main
from nsync_pipeline.graph.table import Stage
from nsync_pipeline.stage import StageContext, StageResult
from tests.support.fake_stages import Fakes


def install_fake_stages() -> None:
    """Put the fakes, as the environment asks for them, in the place of the stages."""
    fakes = Fakes(
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


if __name__ == "__main__":
    install_fake_stages()
    sys.exit(main())
