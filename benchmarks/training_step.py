"""How fast a training step is, and how much memory it takes: this project's, and a plain one.

    python -m benchmarks.training_step [--model sketchbook|shaped_like_sd] [--batch 1 2 4 8]

Three comparisons in one run, of rule `orthogonal_anchor` (three branches) at B triplets a step,
float32, on the same model, pictures and random draws; all ways by turns in every round after one
that does not count, medians with the spread of their middle half (`timing.py`; a ratio whose spread
is over 1.3 is not told). On one thread of a CPU it is the process's own time that counts: what
others use of the machine is left out. With more threads it is the clock's.

- LoRA: this project's training loop (encodings kept, one fused pass) against a straightforward loop
  (`straightforward_loop.py`: VAE and text encoder in every step, a pass a branch).
- Textual inversion: the same; there the straightforward loop has the whole token table under AdamW.
- LoRA by this project alone: the fused step, passes in turn, and plain LoRA (rule `none`, one
  branch) at the same B, and at 3 B: as many samples as the fused step's.

What is timed of this project is `train`, batches, diagnostics and history included. The losses and
the refined gradient of one LoRA step by both loops are compared first. Then the peak of memory,
each way in a process of its own: above what it had before its first step (on a GPU, of what torch
has allocated; elsewhere, of resident memory).

`shaped_like_sd` has random weights in the proportions of Stable Diffusion (a VAE with KL, twelve
layers of text encoder, a token table of 49,408): no weights are needed for speed.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.straightforward_loop import BRANCHES, StraightforwardLoop
from benchmarks.timing import Timing, machine, ratio
from nsync_pipeline.adaptation.config import LoraSettings, TextualInversionSettings
from nsync_pipeline.adaptation.trainables import add_trainables
from nsync_pipeline.drawing.prompts import styled_prompt
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.pictures.pixels import load_pixels
from nsync_pipeline.sketchbook.world import draw_style_set
from nsync_pipeline.training.checkpoint import CheckpointFolder
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.encoded_set import EncodedSet, Example, StoredPicture, encode_examples
from nsync_pipeline.training.history import StepRecord
from nsync_pipeline.training.loop import train
from nsync_pipeline.training.triplets import TripletOrder, triplet_order

STEPS = 4
"""Of `train` a round; the first is not counted: it has what is done once a training."""


def clock() -> float:
    """Seconds: of this process where it has one thread of a CPU, else of the clock."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time() if alone else time.perf_counter()


WAYS = ("straight_lora", "lora", "straight_ti", "ti", "plain", "in_turn", "plain_3b")
MEMORY_WAYS = ("plain", "lora", "in_turn", "straight_lora")


@dataclass(frozen=True)
class Data:
    """Pictures of the drawn world and their negatives."""

    captions: tuple[str, ...]
    pictures: tuple[StoredPicture, ...]
    negatives: tuple[StoredPicture, ...]
    folder: Path

    def examples(self, style: str) -> list[Example]:
        """With prompts that call the style so."""
        return [
            Example(f"{index}", picture, styled_prompt(caption, style), (negative,))
            for index, (caption, picture, negative) in enumerate(
                zip(self.captions, self.pictures, self.negatives, strict=True)
            )
        ]

    def pixels(self, family: Family) -> tuple[list[Tensor], list[Tensor]]:
        """Of the pictures, and of their negatives."""
        size = (family.resolution, family.resolution)
        return (
            [load_pixels(picture.path, size) for picture in self.pictures],
            [load_pixels(picture.path, size) for picture in self.negatives],
        )


@dataclass(frozen=True)
class Way:
    """One way to train."""

    times: Callable[[], list[float]]  # takes some steps: seconds of each
    trained: int  # numbers


def main() -> None:
    arguments = parsed()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base = arguments.base or saved_base(arguments.model, folder)
        data = drawn(2 * max(arguments.batch), folder)
        if arguments.memory_of:
            print(json.dumps(memory_of(arguments.memory_of, base, data, arguments.batch[0])))
            return
        family = load_family(BaseModelConfig(name=base))
        parameters = sum(weight.numel() for weight in family.denoiser.parameters())
        print(
            f"{arguments.model}: denoiser of {parameters / 1e6:.1f} M parameters on "
            f"{family.device}, latents {family.latent_shape}; {machine(torch.get_num_threads())}, "
            f"torch {torch.__version__}, medians of {arguments.rounds} rounds"
        )
        print(agreement(base, data))
        print_times(arguments, base, data)
        print_memory(arguments, base)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", choices=("sketchbook", "shaped_like_sd"), default="sketchbook")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 4, 8], metavar="B")
    parser.add_argument("--rounds", type=int, default=5, help=f"of {STEPS} steps each way")
    parser.add_argument("--memory-of", choices=MEMORY_WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    return parser.parse_args()


def saved_base(model: str, folder: Path) -> str:
    """What to load: the embedded base, or a folder with one of random weights."""
    if model == "sketchbook":
        return model
    tokenizer = load_family(BaseModelConfig(name="sketchbook")).tokenizers[0]
    torch.manual_seed(0)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=12,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=2,
        block_out_channels=(64, 128, 192),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 64, 128, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=128,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / model)
    return str(folder / model)


def drawn(count: int, folder: Path) -> Data:
    """So many woodblock prints, each with the same scene in oil as its negative."""
    folder.mkdir(exist_ok=True)
    captions: list[str] = []
    stored: dict[str, list[StoredPicture]] = {"woodblock": [], "oil": []}
    for style, pictures in stored.items():
        captions.clear()
        for picture in draw_style_set(style, count, seed=0):
            path = folder / f"{style}_{picture.index}.png"
            picture.image.save(path)
            digest = sha256(path.read_bytes()).hexdigest()
            pictures.append(StoredPicture(path, digest, *picture.image.size))
            captions.append(picture.caption)
    return Data(tuple(captions), tuple(stored["woodblock"]), tuple(stored["oil"]), folder)


def settings(batch: int, **changes: Any) -> TrainingConfig:
    """Of a training whose one checkpoint is at its end."""
    always = {
        "update_rule": "orthogonal_anchor",
        "steps": STEPS,
        "batch_size": batch,
        "learning_rate": 1e-4,
        "checkpoint_every": STEPS,
        "branches": "fused",
    }
    return TrainingConfig.model_validate(always | changes)


def lora_started(family: Family) -> Any:
    """A LoRA away from its start, where the gradients of A are zero."""
    trained = add_trainables(family, LoraSettings(), None, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in trained.weights:
            weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    return trained


def ours(
    family: Family, trained: Any, examples: EncodedSet, config: TrainingConfig, scratch: Path
) -> tuple[list[float], list[StepRecord]]:
    """Train for ``STEPS`` steps: seconds of each but the first, and the records."""
    ends: list[float] = []
    records: list[StepRecord] = []

    def on_step(record: StepRecord) -> None:
        ends.append(clock())  # its norms have been read: a GPU has finished by then
        records.append(record)

    checkpoints = CheckpointFolder(scratch, {})
    train(family, trained, examples, config, 0, checkpoints, on_step=on_step)
    shutil.rmtree(scratch)
    return [after - before for before, after in pairwise(ends)], records


def straightforward(loop: StraightforwardLoop, order: TripletOrder) -> list[float]:
    """Seconds of each of ``STEPS`` steps but the first."""
    seconds = []
    for number in range(STEPS):
        start = clock()
        loop.step(number, order.triplets(number))
        seconds.append(clock() - start)
    return seconds[1:]


def way(name: str, base: str, data: Data, batch: int) -> Way:
    """The way called ``name``, on a model of its own."""
    family = load_family(BaseModelConfig(name=base))
    # With textual inversion here, the style's name is a token of its own.
    given = data.examples("<sks>" if name == "ti" else "sks")
    examples = encode_examples(family, given, load_pixels, lambda done, total: None)
    order = triplet_order(examples, settings(batch), seed=0)
    prompts = [example.prompt for example in given]
    scratch = data.folder / f"checkpoints_{name}_{batch}"
    if name == "straight_ti":
        table = family.text_encoders[0].get_input_embeddings().weight.requires_grad_()
        loop = StraightforwardLoop(family, [table], *data.pixels(family), prompts, 0, True)
        return Way(lambda: straightforward(loop, order), table.numel())
    if name == "ti":
        inversion = TextualInversionSettings(initializer="painting")
        trained = add_trainables(
            family, None, inversion, torch.Generator().manual_seed(0), placeholder="sks"
        )
        config = settings(batch, lora=None, textual_inversion=inversion)
        return Way(lambda: ours(family, trained, examples, config, scratch)[0], trained.count)
    trained = lora_started(family)
    if name == "straight_lora":
        weights = trained.weights
        loop = StraightforwardLoop(family, weights, *data.pixels(family), prompts, 0, False)
        return Way(lambda: straightforward(loop, order), trained.count)
    changes: dict[str, dict[str, Any]] = {
        "lora": {},
        "in_turn": {"branches": "in_turn"},
        "plain": {"update_rule": "none"},
        "plain_3b": {"update_rule": "none", "batch_size": 3 * batch},
    }
    config = settings(batch, **changes[name])
    return Way(lambda: ours(family, trained, examples, config, scratch)[0], trained.count)


def agreement(base: str, data: Data) -> str:
    """How far the straightforward loop and this project's are apart in one and the same step."""
    family = load_family(BaseModelConfig(name=base))
    given = data.examples("sks")
    examples = encode_examples(family, given, load_pixels, lambda done, total: None)
    trained = lora_started(family)
    prompts = [example.prompt for example in given]
    loop = StraightforwardLoop(family, trained.weights, *data.pixels(family), prompts, 0, False)
    config = settings(batch=2)
    before = [weight.detach().clone() for weight in trained.weights]
    taken = loop.step(0, triplet_order(examples, config, seed=0).triplets(0))
    with torch.no_grad():
        torch._foreach_copy_(trained.weights, before)
    _, records = ours(family, trained, examples, config, data.folder / "checkpoints")
    figures = asdict(records[0])
    apart = [abs(figures[f"loss_{b}"] / taken.losses[b] - 1) for b in BRANCHES]
    norm = abs(figures["norm_refined"] / taken.norm - 1)
    return f"the same LoRA step by both: losses apart by {max(apart):.0e}, |g'| by {norm:.0e}"


def print_times(arguments: argparse.Namespace, base: str, data: Data) -> None:
    head = (
        "B", "straightforward LoRA", "LoRA", "times", "straightforward TI", "TI", "times",
        "plain LoRA", "in turn", "fused/plain", "fused/in turn", "fused/plain of 3 B",
    )  # fmt: skip
    print("\nsteps a second, and ratios of times, each with its spread")
    print("| " + " | ".join(head) + " |\n|" + " ---: |" * len(head), flush=True)
    for batch in arguments.batch:
        ways = {name: way(name, base, data, batch) for name in WAYS}
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        for number in range(1 + arguments.rounds):  # the first warms up
            for name, one in ways.items():
                times = statistics.median(one.times())
                seconds[name] += [times] if number else []
        s = {name: Timing(tuple(times)) for name, times in seconds.items()}
        rates = {name: f"{1 / of.median:.2f} ({of.spread:.2f})" for name, of in s.items()}
        cells = [
            f"{batch}",
            rates["straight_lora"],
            rates["lora"],
            ratio(s["straight_lora"], s["lora"]),
            rates["straight_ti"],
            rates["ti"],
            ratio(s["straight_ti"], s["ti"]),
            rates["plain"],
            rates["in_turn"],
            ratio(s["lora"], s["plain"]),
            ratio(s["lora"], s["in_turn"]),
            ratio(s["lora"], s["plain_3b"]),
        ]
        print("| " + " | ".join(cells) + " |", flush=True)
    trained = ", ".join(f"{name} {one.trained:,}" for name, one in ways.items())
    print(f"trained numbers: {trained}")


def memory_of(name: str, base: str, data: Data, batch: int) -> dict[str, float]:
    """The peak of memory of this process, in MiB: above what it was before the first step."""
    one = way(name, base, data, batch)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        one.times()
        return {"mib": (torch.cuda.max_memory_allocated() - before) / 2**20}
    with contextlib.suppress(OSError):  # on Linux, the peak until now is forgotten
        Path("/proc/self/clear_refs").write_text("5")
    before = peak_resident()
    one.times()
    return {"mib": (peak_resident() - before) / 2**20}


def peak_resident() -> int:
    """Bytes. On Linux not `ru_maxrss`, which a process has from the one that started it."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def print_memory(arguments: argparse.Namespace, base: str) -> None:
    print("\npeak memory of a step in MiB, above that of the loaded model")
    head = ("B", "plain LoRA", "fused", "in turn", "straightforward", "fused/plain")
    print("| " + " | ".join(head) + " |\n|" + " ---: |" * len(head), flush=True)
    for batch in arguments.batch:
        mib = {}
        for name in MEMORY_WAYS:
            command = [sys.executable, "-m", "benchmarks.training_step", "--memory-of", name]
            command += ["--base", base, "--batch", str(batch)]
            # So that what is freed is given back, and not counted as there before.
            mapped = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
            found = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=mapped)
            mib[name] = json.loads(found.stdout.splitlines()[-1])["mib"]
        cells = [f"{batch}", *(f"{mib[name]:.0f}" for name in MEMORY_WAYS)]
        print(
            "| " + " | ".join([*cells, f"{mib['lora'] / max(mib['plain'], 1):.2f}"]) + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()
