"""One of several processes of a training in float64, on a tiny base; started by the tests.

Writes ``rank_<i>.pt`` to its folder: the weights, and what was refined of each step.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import add_lora, remove_lora
from nsync_pipeline.determinism import deterministic_algorithms
from nsync_pipeline.errors import UserError
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.seeding import torch_stream
from nsync_pipeline.training import checkpoint_writer
from nsync_pipeline.training.checkpoint import CheckpointFolder
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.encoded_set import Example, StoredPicture, encode_examples
from nsync_pipeline.training.history import StepRecord
from nsync_pipeline.training.loop import train
from nsync_pipeline.training.processes import Processes, joined_processes
from tests.support.tiny_models import TINY_RESOLUTION
from tests.support.tiny_style import CAPTIONS_IN_TURN


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("base", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("settings", type=json.loads)
    parser.add_argument("--dies", type=int, nargs=2, default=(-1, -1), help="rank and step")
    parser.add_argument("--differs", type=int, default=-1, help="rank")
    return parser.parse_args(arguments)


def main() -> None:
    arguments = parsed(sys.argv[1:])
    torch.set_num_threads(1)
    try:
        with deterministic_algorithms(), joined_processes(cpu=True) as processes:
            run(arguments, processes)
    except UserError as error:
        print(f"nsync: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def run(arguments: argparse.Namespace, processes: Processes) -> None:
    rank = processes.rank.index
    family = load_family(BaseModelConfig(name=str(arguments.base), device="cpu", dtype="float64"))
    pictures = [
        Example(f"p{i}", stored(i), CAPTIONS_IN_TURN[i % 3], (stored(10 + i),)) for i in range(7)
    ]
    settings = TrainingConfig.model_validate_json(json.dumps(arguments.settings))
    mirrored = settings.random_flip is not None
    examples = encode_examples(family, pictures, drawn, lambda done, total: None, mirrored=mirrored)
    remove_lora(family)
    lora = add_lora(family, LoraSettings(rank=2, alpha=2.0), torch_stream(0, "lora"))
    for weight in lora.weights:
        weight.data = weight.data.double()
    if arguments.differs == rank:
        lora.weights[0].data += 1e-9

    def on_step(record: StepRecord) -> None:
        if (rank, record.step) == tuple(arguments.dies):
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint_writer.SLOW = 60.0  # none is left out on a busy machine
    checkpoints = CheckpointFolder(arguments.folder / "checkpoints", {})
    outcome = train(
        family, lora, examples, settings, 0, checkpoints, lambda: 0.5, on_step,
        look=lambda done: float(done % 5), processes=processes,
    )  # fmt: skip
    content = {
        "weights": [weight.detach() for weight in lora.weights],
        "shares": [record.share_removed for record in outcome.history],
        "losses": [record.loss_negative for record in outcome.history],
        "held_out": sorted(outcome.held_out),
        "kept": outcome.kept_step,
    }
    torch.save(content, arguments.folder / f"rank_{rank}.pt")


def stored(name: int) -> StoredPicture:
    return StoredPicture(Path(f"{name}"), f"hash of {name}", TINY_RESOLUTION, TINY_RESOLUTION)


def drawn(path: Path, size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(int(path.stem))
    return torch.rand(3, *size, generator=generator) * 2 - 1


if __name__ == "__main__":
    main()
