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
        "each `threads` cores. Left out: as many as there are cards, and on the CPU one "
        "(`make demo` with the embedded base: two). The variable `NSYNC_SLOTS` goes before it",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=MOST,
        description="of a stage on the CPU, alone or beside others; left out: the cores, divided "
        "by `slots`, and without those as many as torch takes. `OMP_NUM_THREADS` goes before it",
    )
