"""``executor`` in params.yaml: where stages run, and how many side by side.

It decides no artefact: no stage has it among its settings.
"""

from typing import Literal

from pydantic import Field

from nsync_pipeline.settings import Section

MOST = 1024


class ResourcesConfig(Section):
    """What one stage's job asks of a node."""

    cpus: float = Field(default=1.0, gt=0, le=MOST, description="cores, as Ray counts them")
    gpus: float | None = Field(
        default=None,
        ge=0,
        le=MOST,
        description="left out: 1 where the stage uses an accelerator and `base_model.device` is "
        "`auto` or `cuda`, else 0",
    )
    memory_gib: float | None = Field(default=None, gt=0, description="of the node's own memory")
    labels: dict[str, str] = Field(
        default={}, description="of the node: `ray start --labels kind=a100` gives it some"
    )
    custom: dict[str, float] = Field(
        default={}, description="Ray's own resources: `ray start --resources '{\"lab\": 1}'`"
    )


class RayConfig(Section):
    """A cluster that runs stages as jobs (docs/scaling.md)."""

    address: str = Field(
        pattern=r"^https?://\S+$", description="of its dashboard: `http://head:8265`"
    )
    retries: int = Field(
        default=3, ge=0, le=MOST, description="of a job whose node, or whose process, died"
    )
    python: str = Field(
        default="python", min_length=1, description="the Python of a node that has this package"
    )
    checkpoints: str | None = Field(
        default=None,
        min_length=1,
        description="a folder that all nodes see, or any address that fsspec knows "
        "(`s3://bucket/folder`): what an interrupted stage goes on from is kept there until it is "
        "done. Left out: on the node alone",
    )
    cache: str | None = Field(
        default=None,
        min_length=1,
        description="a folder on each node that keeps what jobs read. Left out: nothing is kept",
    )
    wait_minutes: float = Field(
        default=0.0,
        ge=0,
        description="how long a job waits for a node that can hold it, where none is there: for "
        "clusters that start nodes when they are asked for",
    )
    resources: dict[str, ResourcesConfig] = Field(default={}, description="by stage")


class ExecutorConfig(Section):
    """What of this machine stages may use at once, by whichever door they are started."""

    kind: Literal["local", "ray"] = Field(
        default="local",
        description="`local`: stages run on this machine; `ray`: each is a job on the cluster that "
        "`ray` names. The variable `NSYNC_ON` goes before it",
    )
    slots: int | None = Field(
        default=None,
        ge=1,
        le=MOST,
        description="how many stages run side by side: at most one a card, and on the CPU one for "
        "each `threads` cores. Left out: as many as there are cards, and on the CPU one "
        "(`make demo` with the embedded base: two); on Ray so many jobs are asked for, 8 where it "
        "is left out. The variable `NSYNC_SLOTS` goes before it",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=MOST,
        description="of a stage on the CPU, alone or beside others; left out: the cores, divided "
        "by `slots`, and without those as many as torch takes. `OMP_NUM_THREADS` goes before it",
    )
    ray: RayConfig | None = Field(default=None, description="the cluster")
