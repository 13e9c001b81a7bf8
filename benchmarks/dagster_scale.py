"""What Dagster's sensors cost in a large workspace: 100 styles x 10 variants x 5 training seeds.

    python -m benchmarks.dagster_scale [--styles 100] [--imports 5]

Writes the 10,600 artefacts of such a workspace as small folders, each with its ``made.json``, into
a temporary folder. Prints the seconds of

- ticks of the first import: one portion each,
- a tick of ``workspace`` with all of it known and nothing new, and its cursor's size,
- the same where a setting of every training was changed,
- a tick of ``keep_up_to_date`` then: it asks for as many runs as fit.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from dagster import DagsterInstance, SensorResult, build_sensor_context

from assets.lineage import PEOPLE_S
from assets.sensors import SHORT, Known, keep_up_to_date, people_s, workspace
from nsync_pipeline.graph.artefacts import Artefact, Graph
from nsync_pipeline.graph.made import SUMS_FILE, describe
from nsync_pipeline.graph.table import STAGES
from nsync_pipeline.stage import StageResult
from nsync_pipeline.workspace import Workspace


def write_workspace(root: Path, styles: int) -> list[Artefact]:
    """A workspace in which every artefact is fresh."""
    place = Workspace(root)
    lines = ["base_model: {device: cpu}", "training: {learning_rate: 0.002}", "styles:"]
    lines += [f"  s{n}: {{source: 'sketchbook:woodblock', pictures: 8}}" for n in range(styles)]
    lines += ["variants:", *(f"  v{n}: {{update_rule: orthogonal}}" for n in range(10))]
    place.params_file.write_text("\n".join([*lines, "training_seeds: [0, 1, 2, 3, 4]"]) + "\n")
    made = []
    for stage in STAGES.values():
        graph = Graph.read(place)  # what earlier stages made is read anew
        for style in graph.params.styles:
            for artefact in graph.of_stage(stage, style):
                folder = root / artefact.path
                folder.mkdir(parents=True)
                (folder / "content.txt").write_text(f"{artefact.title}\n")
                describe(folder, graph.plan(artefact), StageResult({"pictures": 8}))
                assert (folder / SUMS_FILE).is_file()
                made.append(artefact)
    return made


def timed(what: str, call: Callable[[], object]) -> None:
    began, before = time.monotonic(), time.process_time()
    said = call()
    clock, processor = time.monotonic() - began, time.process_time() - before
    print(f"{what:40} {clock:6.2f} s, {processor:5.2f} s of the processor  {said}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--styles", type=int, default=100)
    parser.add_argument("--imports", type=int, default=5, help="portions of the first import")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dagster-scale-") as folder:
        root = Path(folder)
        os.chdir(root)
        made = write_workspace(root, given.styles)
        print(f"{len(made):,} artefacts")
        (root / "home").mkdir()
        with DagsterInstance.local_temp(str(root / "home")) as instance:
            _measure(instance, root, made, given.imports)


def _measure(instance: DagsterInstance, root: Path, made: list[Artefact], portions: int) -> None:
    cursor: str | None = None

    def tick() -> object:
        nonlocal cursor
        context = build_sensor_context(instance, cursor=cursor)
        result = workspace(context)
        cursor = context.cursor
        return str(getattr(result, "skip_message", result))[:80]

    for number in range(portions):
        timed(f"first import, portion {number + 1}", tick)
    graph = Graph.read(Workspace(root))
    known = Known(**json.loads(cursor or "{}"))
    print(f"{len(known.versions):,} of them told in that time")
    for artefact in made:
        found = graph.made(artefact)
        assert found is not None
        known.versions[artefact.path] = found.content[:SHORT]
    for style in graph.params.styles:
        for reads in PEOPLE_S:
            known.versions[reads.format(style=style)] = people_s(graph, reads, style)
    cursor = json.dumps(known.__dict__)
    timed("all known, the checks told", tick)
    timed("all known, nothing new", tick)
    print(f"cursor: {len(cursor or '') / 1e6:.1f} MB")
    params = root / "params.yaml"
    params.write_text(params.read_text().replace("0.002", "0.001"))
    timed("all known, every training out of date", tick)

    def request() -> object:
        result = keep_up_to_date(build_sensor_context(instance))
        assert isinstance(result, SensorResult)
        return f"{len(result.run_requests or ())} runs asked for"

    timed("keep_up_to_date", request)


if __name__ == "__main__":
    main()
