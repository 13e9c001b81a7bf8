"""Nine trainings on one slot and on two: how much sooner they are done, and that they are the same.

    python -m benchmarks.devices [--trainings 9] [--slots 1 2] [--threads 1] [--rounds 3]

Makes, in a temporary folder, a workspace of the embedded base: sixteen drawn pictures, short
trainings. In each round all trainings are made anew with each number of slots, as `nsync make` does
it. Prints the median and the range over rounds, in seconds on the clock, and the median of the
processor's; every training's bytes must be those of the first round's. Where there is a card, a
slot is a card.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.graph.made import SUMS_FILE
from nsync_pipeline.graph.places import SLOTS
from nsync_pipeline.graph.whole import make_all
from nsync_pipeline.workspace import Workspace

PARAMS = """\
styles:
  woodblock: {{source: "sketchbook:woodblock", pictures: 16}}
executor: {{threads: {threads}}}
training: {{steps: {steps}, batch_size: 8, learning_rate: 0.002, checkpoint_every: {steps}}}
variants:
  nsync: {{update_rule: orthogonal}}
training_seeds: [{seeds}]
"""
MAKE = "from benchmarks.devices import make; make({what!r})"


def make(what: str) -> None:
    """The trainings of the workspace in the current folder, or what they are made from."""
    workspace = Workspace(Path.cwd())
    artefacts = [
        artefact
        for artefact in Graph.read(workspace).artefacts("woodblock")
        if (artefact.stage.name == "training") == (what == "trainings")
        and artefact.stage.name in ("style_set", "captions", "negative_set", "training")
    ]
    make_all(workspace, artefacts, lambda line: None)


def seconds(root: Path, what: str, slots: int) -> tuple[float, float]:
    """That it takes, in processes of its own: on the clock, and of the processor."""
    before, used = time.monotonic(), _used()
    done = subprocess.run(
        [sys.executable, "-c", MAKE.format(what=what)], cwd=root, capture_output=True, text=True,
        env={
            **os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), SLOTS: str(slots),
            "NSYNC_TRACKING": "off",
        },
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return time.monotonic() - before, _used() - used


def _used() -> float:
    """Seconds of the processor, of all processes that were started here and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def contents(root: Path) -> dict[str, str]:
    """What each training made, by its folder."""
    found = (root / "models").rglob(SUMS_FILE)
    return {str(sums.parent.relative_to(root)): sums.read_text() for sums in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    numbers = (("trainings", 9), ("threads", 1), ("rounds", 3), ("steps", 40))
    for name, default in numbers:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    found: dict[int, list[tuple[float, float]]] = {slots: [] for slots in given.slots}
    with tempfile.TemporaryDirectory(prefix="devices-") as folder:
        root = Path(folder).resolve()
        seeds = ", ".join(map(str, range(given.trainings)))
        text = PARAMS.format(threads=given.threads, steps=given.steps, seeds=seeds)
        (root / "params.yaml").write_text(text)
        seconds(root, "pictures", 1)
        first: dict[str, str] = {}
        for _ in range(given.rounds):
            for slots in given.slots:
                found[slots].append(seconds(root, "trainings", slots))
                print(f"{slots} at once: {found[slots][-1]}", file=sys.stderr, flush=True)
                first = first or contents(root)
                if contents(root) != first:
                    raise SystemExit(f"with {slots} slots other bytes came out")
                for made in (root / "models", root / ".nsync"):
                    shutil.rmtree(made)
    print(
        f"{given.trainings} trainings of {given.steps} steps, {given.threads} threads a slot, "
        f"load {os.getloadavg()[0]:.1f}; median (least to most) of {given.rounds} rounds"
    )
    base = statistics.median(clock for clock, _ in found[given.slots[0]])
    for slots, took in found.items():
        clocks, processor = zip(*took, strict=True)
        median = statistics.median(clocks)
        spread = f"({min(clocks):.1f} to {max(clocks):.1f})"
        print(
            f"{slots} at once: {median:7.1f} s {spread:20} {base / median:.2f} x as fast; "
            f"{statistics.median(processor):.1f} s of the processor"
        )
    print(f"the bytes of all {given.trainings} are the same in each")


if __name__ == "__main__":
    main()
