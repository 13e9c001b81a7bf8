"""What a job does on a node: fetch what the stage reads, run it, send what it made.

    python -m nsync_pipeline.graph.remote.job

runs in a folder with a request in it, and works in a copy of the workspace of its own, which it
removes. What it prints is what the one who asked sees; the line that begins with ``MADE`` says by
which note the artefact is found.
"""

import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType

from pydantic import TypeAdapter

from nsync_pipeline import __version__
from nsync_pipeline.errors import UserError
from nsync_pipeline.files import partial_folder, read_json
from nsync_pipeline.graph.artefacts import AblationPart, Artefact, Graph, difference
from nsync_pipeline.graph.made import Made
from nsync_pipeline.graph.places import ON
from nsync_pipeline.graph.processes import die_with_parent
from nsync_pipeline.graph.remote.courier import Courier
from nsync_pipeline.graph.remote.kept import KeptTraining
from nsync_pipeline.graph.run import bring_up_to_date, device_kind
from nsync_pipeline.graph.table import STAGES
from nsync_pipeline.tracking.sender import SWITCH
from nsync_pipeline.workspace import Workspace

REQUEST_FILE = "request.json"
STARTED, MADE = "nsync-started ", "nsync-made "
"""How the lines begin that are for the one who asked: where it runs, and what it made."""


@dataclass(frozen=True)
class Request:
    """All that a node needs to make one artefact."""

    plan: Made  # what its made.json is to say
    of_ablation: bool
    part: AblationPart
    params: str  # the text of params.yaml
    notes: Mapping[str, str]  # what it reads: the courier's notes, by path
    remote: Mapping[str, str]  # DVC's, without what is secret
    cache: str | None  # a folder of the node
    checkpoints: str | None  # where those of this training are kept
    engine: str = __version__

    def write(self, folder: Path) -> None:
        (folder / REQUEST_FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")


def main() -> None:
    """Run the job of the current folder; a mistake of the user's is one message."""
    die_with_parent()
    signal.signal(signal.SIGTERM, _ended)
    os.environ |= {ON: "local", SWITCH: "off"}  # MLflow is told at home
    try:
        run_job(Path.cwd())
    except UserError as error:
        print(f"nsync: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


def _ended(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)  # what is open is closed, and the copy is removed


def run_job(folder: Path) -> None:
    """Make what the request in ``folder`` asks for, and send it.

    Raises:
        UserError: this engine is another one, or would make something else; and as
            ``bring_up_to_date`` and ``Courier`` do.
    """
    content = read_json(folder / REQUEST_FILE)
    _require_same_engine(content)
    request = TypeAdapter(Request).validate_python(content)
    with _private_workspace() as workspace:
        print(f"{STARTED}{socket.gethostname()}", flush=True)
        workspace.params_file.write_text(request.params, encoding="utf-8", newline="")
        courier = Courier.set_up(workspace.root, request.remote, request.cache)
        courier.fetch(request.notes)
        graph = Graph.read(workspace, request.part)
        artefact = _artefact(graph, request)
        plan = graph.plan(artefact)
        if not plan.made_alike(request.plan):
            raise UserError(
                f"{socket.gethostname()} would make another {artefact.title} than was asked for: "
                f"{difference(request.plan, plan)}"
            )
        with ExitStack() as until_made:
            kept = _kept(graph, artefact, request)
            if kept is not None:
                until_made.enter_context(kept.followed())
            bring_up_to_date(graph, artefact)
        note = courier.send(artefact.path)[artefact.path]
        if kept is not None:
            kept.forget()
    print(f"{MADE}{note}", flush=True)


def _require_same_engine(content: Mapping[str, object]) -> None:
    """Raise ``UserError`` where another engine, or another recipe of it, was asked."""
    plan = content.get("plan")
    assert isinstance(plan, Mapping), "a request has a plan"
    stage, recipe, here = str(plan["stage"]), plan["recipe"], socket.gethostname()
    if content.get("engine") != __version__:
        raise UserError(
            f"{here} has version {__version__} of nsync-pipeline, and the workspace is worked on "
            f"by {content.get('engine')}: install the same on both (`pip install "
            f"nsync-pipeline=={content.get('engine')}`, with {sys.executable})."
        )
    if stage not in STAGES or STAGES[stage].recipe != recipe:
        known = STAGES[stage].recipe if stage in STAGES else None
        raise UserError(
            f"{here} makes {stage} by recipe {known}, and the workspace by recipe {recipe}: "
            f"install the same engine on both (here it is {sys.executable})."
        )


@contextmanager
def _private_workspace() -> Iterator[Workspace]:
    """A folder that nobody else reads or writes; what jobs that were killed left is removed."""
    place = Path(tempfile.gettempdir(), f"nsync-job-of-{os.getuid()}")
    with partial_folder(place) as folder:
        folder.chmod(0o700)
        yield Workspace(folder)


def _artefact(graph: Graph, request: Request) -> Artefact:
    plan = request.plan
    return graph.artefact(
        plan.stage, plan.style, plan.variant, plan.training_seed, request.of_ablation
    )


def _kept(graph: Graph, artefact: Artefact, request: Request) -> KeptTraining | None:
    """Where the training goes on from, brought here; None for what is no training."""
    if request.checkpoints is None or artefact.stage.name != "training":
        return None
    kind = device_kind(graph, artefact).replace(" ", "-").replace("/", "-")
    scratch = replace(graph.workspace, of_ablation=artefact.of_ablation).scratch()
    scratch.mkdir(parents=True)
    kept = KeptTraining(scratch, request.checkpoints, kind)
    if kept.bring():
        print(f"{artefact.title}: goes on from {request.checkpoints}", flush=True)
    return kept


if __name__ == "__main__":
    main()
