"""A training in a process whose memory is limited by the kernel; started by a test.

Prints, as JSON, how the branches were taken, and the losses.
"""

import json
import resource
import sys
import tempfile
from pathlib import Path

import torch

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import add_lora
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.seeding import torch_stream
from nsync_pipeline.training.checkpoint import CheckpointFolder
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.encoded_set import Example, encode_examples
from nsync_pipeline.training.loop import train
from tests.support.tiny_style import CAPTIONS_IN_TURN
from tests.support.training_ranks import drawn, stored

SAMPLES = 96


def trained(base: Path, megabytes: int | None) -> dict[str, object]:
    """Train for two steps; ``megabytes`` may be taken for it, where it is not None."""
    family = load_family(BaseModelConfig(name=str(base), device="cpu"))
    pictures = [
        Example(f"p{i}", stored(i), CAPTIONS_IN_TURN[i % 3], (stored(10 + i),)) for i in range(6)
    ]
    examples = encode_examples(family, pictures, drawn, lambda done, total: None)
    lora = add_lora(family, LoraSettings(rank=2, alpha=2.0), torch_stream(0, "lora"))
    settings = TrainingConfig(
        update_rule="orthogonal_anchor", steps=2, batch_size=SAMPLES, learning_rate=0.01
    )
    warm = settings.model_copy(update={"steps": 1, "batch_size": 1})
    with tempfile.TemporaryDirectory() as folder:
        train(family, lora, examples, warm, 0, CheckpointFolder(Path(folder), {"run": 0}))
    if megabytes is not None:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = taken + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with tempfile.TemporaryDirectory() as folder:
        outcome = train(family, lora, examples, settings, 0, CheckpointFolder(Path(folder), {}))
    losses = [record.loss_negative for record in outcome.history]
    return {"branches": outcome.branches, "losses": losses}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(trained(Path(sys.argv[1]), int(sys.argv[2]))))
