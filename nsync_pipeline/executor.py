"""``executor`` in params.yaml: where stages run, and how many side by side.

It decides no artefact: no stage has it among its settings.
"""

from typing import Literal

from pydantic import Field

from nsync_pipeline.settings import Section

MOST = 1024


class ExecutorConfig(Section):
    """What of this machine stages may use at once, by whichever door they are started."""

    kind: Literal["local"] = Field(
        default="local", description="`local`: stages run on this machine"
    )
    slots: int | None = Field(
        default=None,
        ge=1,
        le=MOST,
        description="how many stages run side by side: at most one a card, and on the CPU one for "
        "each `threads` cores. Left out: as many as there are cards; on the CPU one, and of the "
        "embedded base two",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=MOST,
        description="of a slot on the CPU; left out: the cores, divided by `slots`",
    )
