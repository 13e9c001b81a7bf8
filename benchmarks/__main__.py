"""What people wait for, in one table: each figure beside what it is held against, with its spread.

    OMP_NUM_THREADS=1 python -m benchmarks [--rounds 5]

On one thread it is the process's own time that counts, so that other work on the machine does not
(``timing.py``). `training_step`, `true_size`, `negatives` and the others have their own commands.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.timing import Timing, by_turns, machine, ratio, table
from nsync_pipeline.contrast.branch_gradients import MemoryPlan
from nsync_pipeline.drawing.config import SamplerConfig
from nsync_pipeline.drawing.sampling import PictureRequest, draw_pictures
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.metrics.bootstrap import prompt_draws
from nsync_pipeline.metrics.scores import PictureSet, make_reference, score_set
from nsync_pipeline.pictures.decoding import decode_picture
from nsync_pipeline.style_set.ingestion import Candidate
from nsync_pipeline.style_set.looking import looked_at
from nsync_pipeline.training.checkpoint import Checkpoint, CheckpointFolder
from nsync_pipeline.training.checkpoint_writer import CheckpointWriter
from nsync_pipeline.training.history import StepRecord

Row = tuple[str, str, str, str, str]
"""What, how long, beside what, how long that, and the ratio."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds: int = parser.parse_args().rounds
    threads = torch.get_num_threads()
    clock = time.process_time if threads == 1 else time.perf_counter
    measure = partial(by_turns, rounds=rounds, clock=clock)
    print(f"{machine(threads)}; torch {torch.__version__}; medians of {rounds} rounds\n")
    head = ("what", "ms", "beside", "ms", "ratio")
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for part in PARTS for row in part(Path(folder), measure)]
    print(table(head, rows))


Measure = Callable[[Any], dict[str, Timing]]


def pair(measure: Measure, what: str, way: Callable[[], object], beside: str, than: Any) -> Row:
    found = measure({what: way, beside: than})
    a, b = found[what], found[beside]
    return what, a.told(1000, 1), beside, b.told(1000, 1), ratio(a, b)


def imports(folder: Path, measure: Measure) -> Iterator[Row]:
    """By the clock: they are processes of their own."""

    def importing(module: str) -> Callable[[], object]:
        return partial(subprocess.run, [sys.executable, "-c", f"import {module}"], check=True)

    ways = {
        "`nsync` on a workspace": importing("nsync_pipeline.graph.run"),
        "captions that came along": importing("nsync_pipeline.captions.stage"),
        "the report": importing("nsync_pipeline.report.stage"),
        "a training": importing("nsync_pipeline.training.stage"),
    }
    found = by_turns(ways, rounds=3)
    whole = found.pop("a training")
    for name, one in found.items():
        yield (
            f"imports of {name}",
            one.told(1000, 0),
            "of a training",
            whole.told(1000, 0),
            ratio(one, whole),
        )


def ingest(folder: Path, measure: Measure) -> Iterator[Row]:
    """Of JPEGs of 600 pixels; beside Pillow's decoding."""
    rng, files = np.random.default_rng(0), []
    for number in range(24):
        coarse = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
        files.append(folder / f"{number}.jpg")
        coarse.resize((600, 600), Image.Resampling.BICUBIC).save(files[-1], quality=90)
    candidates = [
        Candidate(file.name, None, None, partial(decode_picture, file, 64, 100.0), path=file)
        for file in files
    ]

    def decoded() -> None:
        for file in files:
            with Image.open(file) as image:
                image.convert("RGB")

    def seen() -> None:
        list(looked_at(candidates, 64, 100.0, None))

    yield pair(measure, "24 pictures taken in", seen, "decoded by Pillow", decoded)


def drawing(folder: Path, measure: Measure) -> Iterator[Row]:
    """Four pictures of four steps by the embedded base."""
    requests = [PictureRequest(f"{n}", "a red boat on water under a sun", n) for n in range(4)]

    def drawn(dtype: Any) -> Callable[[], object]:
        sampler = SamplerConfig(steps=4, dtype=dtype)
        family = load_family(sampler.base(BaseModelConfig()))
        return lambda: list(draw_pictures(family, requests, sampler))

    yield pair(measure, "drawn in bfloat16", drawn("bfloat16"), "in float32", drawn("float32"))


def evaluation(folder: Path, measure: Measure) -> Iterator[Row]:
    """A set of 2,000 pictures, 2,000 draws, features as wide as ours; beside half of it."""

    def scored(count: int) -> Callable[[], object]:
        rng = np.random.default_rng(0)

        def pictures(first: int) -> PictureSet:
            rows = rng.normal(size=(count, 128)) + 0.3
            unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            return PictureSet(unit, unit, rows, unit, unit, np.arange(first, first + count))

        test, train, shown = pictures(0), pictures(count), pictures(0)
        reference = make_reference(test, train, {"other": train.style[:9]}, 0.01)
        draws = [prompt_draws(count, 2000, rng) for _ in range(2)]
        weights = np.concatenate(draws, axis=1)
        return lambda: score_set(shown, reference, weights, np.random.default_rng(0))

    yield pair(measure, "a set of 2,000 scored", scored(2000), "of 1,000", scored(1000))


def checkpoints(folder: Path, measure: Measure) -> Iterator[Row]:
    """One after 10,000 steps, beside one after 100."""
    record = StepRecord(1, 0.1, 0.2, None, 0.3, 2.0, None, -0.25, None, 0.25, 0.3, 1e-3)
    tensors = {"weight.0": torch.zeros(2**20)}

    def written(steps: int) -> Callable[[], object]:
        checkpoint_folder = CheckpointFolder(folder / f"after_{steps}", {})
        done = steps

        def write() -> None:
            nonlocal done
            done += 20
            plan = MemoryPlan(fused=True, micro_batch=8)
            history = (record,) * done
            checkpoint_folder.write(Checkpoint(done, tensors, history, {}, plan, None, None))

        return write

    yield pair(measure, "a checkpoint after 10,000 steps", written(10_000), "100", written(100))


def waited(folder: Path, measure: Measure) -> Iterator[Row]:
    """What a training waits for at a checkpoint; by the clock."""
    tensors = {str(n): torch.zeros(2**20) for n in range(16)}
    steps = count(1)

    def checkpoint() -> Checkpoint:
        copied = {name: tensor.clone() for name, tensor in tensors.items()}
        plan = MemoryPlan(fused=True, micro_batch=8)
        return Checkpoint(next(steps), copied, (), {}, plan, None, None)

    trained: Any = SimpleNamespace(checkpoint=checkpoint)
    with CheckpointWriter(CheckpointFolder(folder / "waited", {})) as writer:

        def written() -> None:
            writer.begin(trained)
            writer.require_written()

        ways: dict[str, Callable[[], object]] = {
            "a checkpoint of 64 MiB, waited for": partial(writer.begin, trained),
            "meanwhile": writer.require_written,
            "until it is on the disk": written,
        }
        found = by_turns(ways, rounds=5)
    (what, a), _, (beside, b) = found.items()
    yield what, a.told(1000, 1), beside, b.told(1000, 1), ratio(a, b)


PARTS = (imports, ingest, drawing, evaluation, checkpoints, waited)

if __name__ == "__main__":
    main()
