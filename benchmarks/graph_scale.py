"""What the graph itself costs in a large workspace: 100 styles x 10 variants x 5 training seeds.

    python -m benchmarks.graph_scale [--styles 100] [--rounds 5] [--dvc]

Writes the 10,600 artefacts of such a workspace as small folders, each with its ``made.json``, into
a temporary folder. Prints, with the median and the range over rounds, the seconds of

- ``nsync sync`` where all is in order, and where one variant is new,
- ``nsync status``, which judges every artefact,
- ``nsync run`` of a training that finds itself fresh, started as DVC starts it,
- the same where it makes an artefact, by a stage that does nothing: the runner's own work,
- with ``--dvc``, ``dvc status`` where all is committed: 1,166 stages with ``--styles 11``. The
  commit before takes twice as long.

Each round is a process of its own; seconds on the clock and seconds of the processor, its start
included.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.graph.dvc import sync_dvc_file
from nsync_pipeline.graph.made import describe
from nsync_pipeline.stage import StageResult
from nsync_pipeline.workspace import Workspace

RUN = (
    "run", "training", "--style", "style_0", "--variant", "variant_0", "--training-seed", "0",
)  # fmt: skip
EMPTY_STAGE = """
import sys
from nsync_pipeline.cli.app import main
from nsync_pipeline.graph.table import Stage
from nsync_pipeline.stage import StageResult
def run(stage, context):
    (context.folder / "nothing.txt").write_text("nothing")
    return StageResult({"files": 1})
Stage.run = run
sys.argv[0] = "nsync"
main()
"""


@dataclass(frozen=True)
class Cost:
    """Of one process, in seconds."""

    clock: float
    processor: float


def write_workspace(root: Path, styles: int, variants: int, seeds: int) -> int:
    """A workspace in which every artefact is fresh; gives how many there are."""
    lines = ["base_model: {device: cpu}", "styles:"]
    lines += [
        f"  style_{n}: {{source: 'sketchbook:woodblock', pictures: 8}}" for n in range(styles)
    ]
    lines += ["variants:"]
    lines += [
        f"  variant_{n}: {{update_rule: orthogonal, learning_rate: 0.00{n + 1}}}"
        for n in range(variants)
    ]
    lines += [f"training_seeds: [{', '.join(map(str, range(seeds)))}]"]
    workspace = Workspace(root)
    workspace.params_file.write_text("\n".join(lines) + "\n")
    sync_dvc_file(workspace)
    graph = Graph.read(workspace)
    count = 0
    for style in graph.params.styles:
        workspace.source(style).mkdir(parents=True, exist_ok=True)
        for artefact in graph.artefacts(style):
            folder = root / artefact.path
            folder.mkdir(parents=True)
            (folder / "content.txt").write_text(f"{artefact.title}\n")
            describe(folder, graph.plan(artefact), StageResult({"pictures": 8}))
            graph.refresh()
            count += 1
    return count


def cost(root: Path, command: Sequence[str], **environment: str) -> Cost:
    """Run Python in the workspace, which must succeed."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *command], cwd=root, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **environment},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(time.monotonic() - began, processor)


def one_round(root: Path, dvc: bool) -> dict[str, Cost]:
    """Every measurement once; the workspace is afterwards as it was before."""
    nsync = ("-m", "nsync_pipeline.cli")
    found = {
        "sync, all in order": cost(root, (*nsync, "sync")),
        "status of everything": cost(root, (*nsync, "status")),
        "a run that is fresh": cost(root, (*nsync, *RUN), DVC_STAGE="training"),
        "a run that makes": cost(root, ("-c", EMPTY_STAGE, *RUN, "--force"), DVC_STAGE="training"),
    }
    if dvc:
        found["dvc status"] = cost(root, ("-m", "dvc", "status"))
    params = root / "params.yaml"
    before = params.read_text()
    params.write_text(
        before.replace("training_seeds", "  more: {update_rule: none}\ntraining_seeds")
    )
    found["sync, a new variant"] = cost(root, (*nsync, "sync"))
    params.write_text(before)
    sync_dvc_file(Workspace(root))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("styles", 100), ("variants", 10), ("seeds", 5), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dvc", action="store_true", help="what DVC takes, too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="graph-scale-") as folder:
        count = write_workspace(Path(folder), given.styles, given.variants, given.seeds)
        print(f"{count:,} artefacts; median (least to most) of {given.rounds} rounds, in seconds")
        if given.dvc:
            cost(Path(folder), ("-m", "dvc", "init", "--no-scm", "--quiet"))
            cost(Path(folder), ("-m", "dvc", "commit", "--force", "--quiet"))
        rounds = [one_round(Path(folder), given.dvc) for _ in range(given.rounds)]
    print(f"{'':24} {'on the clock':>22} {'of the processor':>22}")
    for name in rounds[0]:
        clock = _shown([costs[name].clock for costs in rounds])
        processor = _shown([costs[name].processor for costs in rounds])
        print(f"{name:24} {clock:>22} {processor:>22}")


def _shown(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    main()
