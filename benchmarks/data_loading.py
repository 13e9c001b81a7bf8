"""What making a step's batches costs, with few pictures and with many.

    python -m benchmarks.data_loading [--pictures 100 100000] [--steps 50] [--latent 4 64 64]

Writes encodings of as many made-up pictures (a negative and a prompt each) as a training would have
kept on disk, in a folder that is removed afterwards, and then, in a process of its own for each
count: opens them, and makes the batches of ``orthogonal_anchor`` (three branches) for as many
steps, each picture of them read for the first time. Says the time to open, the resident memory that
opening adds, the median time of a step's batches, and the ratio of the last count to the first.
By default a latent is that of 512 x 512 pixels, and a prompt (8, 768) is shorter than CLIP's 77
tokens: even so 100,000 pictures take 15 GB of disk; `--latent 4 16 16 --prompt 2 64` takes 1 GB.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from nsync_pipeline.contrast.config import ANCHOR, NEGATIVE, POSITIVE
from nsync_pipeline.families.family import NoiseSchedule, PromptEmbeds
from nsync_pipeline.training.batches import batch_maker
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.encoded_set import (
    EncodedSet,
    Example,
    StoredPicture,
    encode_examples,
)
from nsync_pipeline.training.triplets import triplet_order

BRANCHES = (POSITIVE, NEGATIVE, ANCHOR)
BATCH = 8
SIDE = 512


class MadeUpFamily:
    """Encodes at once, to noise."""

    revision = "made up"
    device = torch.device("cpu")
    dtype = torch.float32
    vae_tiling = False
    resolution = SIDE

    def __init__(self, latent: Sequence[int], prompt: Sequence[int]) -> None:
        signal = torch.linspace(0.999, 0.05, 1000, dtype=torch.float64)
        noise = (1 - signal.square()).sqrt()
        self.noise_schedule = NoiseSchedule("epsilon", signal, noise, torch.arange(1000))
        self._latent = torch.randn(1, *latent)
        self._prompt = PromptEmbeds(torch.randn(1, *prompt))

    def encode_pictures(self, pixels: Tensor) -> Tensor:
        return self._latent

    def encode_prompts(self, prompts: Sequence[str]) -> PromptEmbeds:
        return self._prompt


def main() -> None:
    arguments = parsed()
    if arguments.measure is not None:
        measured = measure(arguments, arguments.measure, arguments.cache)
        print(json.dumps(measured))
        return
    print(
        f"batches of {BATCH} triplets, {len(BRANCHES)} branches, latents {arguments.latent}, "
        f"median of {arguments.steps} steps, torch {torch.__version__}"
    )
    print(f"{'pictures':>9} {'on disk':>10} {'open':>9} {'memory':>10} {'a step':>10}")
    found = []
    for count in arguments.pictures:
        with tempfile.TemporaryDirectory(prefix="data_loading_") as folder:
            encoded(arguments, count, Path(folder))
            size = sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors"))
            command = [sys.executable, "-m", "benchmarks.data_loading", *sys.argv[1:]]
            command += ["--measure", str(count), "--cache", folder]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found.append(json.loads(answer))
        last = found[-1]
        print(
            f"{count:>9} {size / 2**20:>7.0f} MB {last['open']:>7.2f} s {last['memory']:>7.0f} MB "
            f"{1000 * last['step']:>7.2f} ms",
            flush=True,
        )
    ratio = found[-1]["step"] / found[0]["step"]
    print(f"a step at {arguments.pictures[-1]} over one at {arguments.pictures[0]}: {ratio:.2f}")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pictures", type=int, nargs="+", default=[100, 100_000], metavar="N")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--latent", type=int, nargs=3, default=[4, 64, 64], metavar=("C", "H", "W"))
    parser.add_argument("--prompt", type=int, nargs=2, default=[8, 768], metavar=("L", "D"))
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def examples_of(count: int) -> Iterator[Example]:
    for i in range(count):
        name = f"{i:064x}"
        picture = StoredPicture(Path(f"{name}.png"), name, SIDE, SIDE)
        negative = StoredPicture(Path(f"{name}_0.png"), f"{name}_0", SIDE, SIDE)
        yield Example(name[-16:], picture, f"picture {i} in the style of sks", (negative,))


def encoded(arguments: argparse.Namespace, count: int, cache: Path) -> tuple[Any, EncodedSet]:
    """The encodings of ``count`` pictures, from ``cache`` where they are there."""
    family: Any = MadeUpFamily(arguments.latent, arguments.prompt)
    pixels = torch.zeros(3, 1, 1)
    examples = list(examples_of(count))
    return family, encode_examples(
        family, examples, lambda path, size: pixels, lambda done, total: None, cache=cache
    )


def measure(arguments: argparse.Namespace, count: int, cache: Path) -> dict[str, float]:
    """Seconds to open, MB that opening adds, and the median seconds of a step's batches."""
    before = resident()
    start = time.perf_counter()
    family, examples = encoded(arguments, count, cache)
    opened = time.perf_counter() - start
    memory = resident() - before
    settings = TrainingConfig(update_rule="orthogonal_anchor", batch_size=BATCH)
    order = triplet_order(examples, settings, seed=0)
    maker = batch_maker(examples, family, settings, 0, live_prompts=False)
    order.triplets(0)  # the epoch's order, once in count / BATCH steps
    seconds = []
    for step in range(arguments.steps):
        start = time.perf_counter()
        triplets = order.triplets(step)
        for branch in BRANCHES:
            maker.batch(branch, step, triplets)
        seconds.append(time.perf_counter() - start)
    return {"open": opened, "memory": memory, "step": statistics.median(seconds)}


def resident() -> float:
    """The memory this process holds, in MB."""
    return float(psutil.Process().memory_info().rss) / 2**20


if __name__ == "__main__":
    if shutil.disk_usage(tempfile.gettempdir()).free < 2**34:
        print("warning: less than 16 GB are free in the temporary folder", file=sys.stderr)
    main()
