"""How fast negatives are drawn, against one prompt at a time by the plain pipeline.

    python -m benchmarks.negatives [--model sketchbook] [--prompts 128] [--block 32] [--threads 2]

Ours: what the negative_set stage does (`negative_set.sampler`'s defaults: batches, DPM-Solver++ 2M,
20 steps, guidance 5), saving included. Theirs, as NSYNC's authors' script does: the diffusers
pipeline, a prompt at a time, PNDM, 50 steps, guidance 7.5, saving included. Both on the same model
in one run, in turns of a block of prompts, so that the machine's moods meet both alike; a block
smaller than our batches is filled up, and so counts against us.

Says pictures a second of each, and how far the two sets are apart: CMMD (unbiased, pairs of one
prompt left out) and the Frechet distance, on the embedded CLIP; the same with both at guidance 7.5;
and, beside them, the distance of two seeds of one method. The Frechet distance depends on the
number of pictures: compare it within one run only.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline, PNDMScheduler
from PIL import Image

from nsync_pipeline.drawing.config import SamplerConfig
from nsync_pipeline.drawing.picture_store import PictureStore, draw_into_store
from nsync_pipeline.drawing.prompts import styled_prompt
from nsync_pipeline.drawing.sampling import PictureRequest
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.metrics.distances import (
    CMMD_SIGMA,
    Floats,
    frechet_distance,
    mmd_unbiased,
    prompt_kernels,
    rbf,
)
from nsync_pipeline.metrics.features import EMBEDDED, load_extractor
from nsync_pipeline.negative_set.config import NegativeSetConfig
from nsync_pipeline.seeding import stream_seed
from nsync_pipeline.sketchbook import PIPELINE_FOLDER
from nsync_pipeline.sketchbook.world import draw_style_set

THEIR_STEPS, THEIR_GUIDANCE = 50, 7.5
STYLE = "painting"


def main() -> None:
    """Draw all sets in turns, and print what came out."""
    arguments = _arguments()
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    family = load_family(BaseModelConfig(name=arguments.model, device=arguments.device))
    sampler = NegativeSetConfig().sampler
    drawn = draw_style_set("woodblock", arguments.prompts, seed=0)
    prompts = [styled_prompt(picture.caption, STYLE) for picture in drawn]
    print(
        f"{family.name}, {family.resolution} px, {family.device}, {arguments.threads} threads, "
        f"torch {torch.__version__}, {platform.machine()}"
    )
    with tempfile.TemporaryDirectory() as name:
        sets, seconds = _draw_all(family, prompts, sampler, Path(name), arguments.block)
        speeds = {method: len(prompts) / spent for method, spent in seconds.items()}
        features = {one: _features(files) for one, files in sets.items()}
    print(f"{len(prompts)} prompts, in blocks of {arguments.block}\n")
    ours = (
        f"batches of {sampler.batch_size}, {sampler.scheduler}, {sampler.steps} steps, "
        f"guidance {sampler.guidance_scale:g}"
    )
    theirs = f"one at a time, PNDM, {THEIR_STEPS} steps, guidance {THEIR_GUIDANCE:g}"
    print(f"ours    {speeds['ours']:8.3f} pictures/s  ({ours})")
    print(f"theirs  {speeds['theirs']:8.3f} pictures/s  ({theirs})")
    print(f"ratio   {speeds['ours'] / speeds['theirs']:8.2f}\n")
    distances = {}
    print(f"{'distance of':44}{'CMMD':>10}{'Frechet':>10}")
    for label, first, second in (
        ("ours and theirs", "ours", "theirs"),
        ("ours at their guidance, and theirs", "ours, their guidance", "theirs"),
        ("two seeds of ours", "ours", "ours, other seeds"),
        ("two seeds of theirs", "theirs", "theirs, other seeds"),
    ):
        cmmd = _cmmd(features[first], features[second])
        frechet = frechet_distance(features[first], features[second])
        distances[label] = {"cmmd": cmmd, "frechet": frechet}
        print(f"{label:44}{cmmd:10.4f}{frechet:10.4f}")
    if arguments.json:
        record = {"pictures_per_second": speeds, "distances": distances, "prompts": len(prompts)}
        arguments.json.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="sketchbook", help="or a folder of a diffusers pipeline")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda", "mps"])
    parser.add_argument("--prompts", type=int, default=128, help="a multiple of the block")
    parser.add_argument(
        "--block", type=int, default=32, help="prompts between turns; a multiple of our batches"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def _draw_all(
    family: Family, prompts: Sequence[str], sampler: SamplerConfig, folder: Path, block: int
) -> tuple[dict[str, list[Path]], dict[str, float]]:
    """The files of each set, and the seconds that the two methods spent on their first sets."""
    pipeline = _pipeline(family)
    same_guidance = sampler.model_copy(update={"guidance_scale": THEIR_GUIDANCE})
    sets: dict[str, list[Path]] = {}
    seconds = {"ours": 0.0, "theirs": 0.0}
    _ours(family, prompts[:1], 9, sampler, folder / "warm_up")
    _theirs(pipeline, family, prompts[:1], 9, folder / "warm_up_theirs", steps=2)
    for start in range(0, len(prompts), block):
        part = prompts[start : start + block]
        here = folder / str(start)
        began = time.perf_counter()
        drawn = {"ours": _ours(family, part, 0, sampler, here / "ours")}
        seconds["ours"] += time.perf_counter() - began
        began = time.perf_counter()
        drawn["theirs"] = _theirs(pipeline, family, part, 0, here / "theirs")
        seconds["theirs"] += time.perf_counter() - began
        drawn["ours, other seeds"] = _ours(family, part, 1, sampler, here / "ours_1")
        drawn["ours, their guidance"] = _ours(family, part, 1, same_guidance, here / "ours_g")
        drawn["theirs, other seeds"] = _theirs(pipeline, family, part, 1, here / "theirs_1")
        for name, files in drawn.items():
            sets.setdefault(name, []).extend(files)
        print(f"{start + len(part)} of {len(prompts)} prompts", flush=True)
    return sets, seconds


def _ours(
    family: Family, prompts: Sequence[str], seed: int, sampler: SamplerConfig, folder: Path
) -> list[Path]:
    requests = [
        PictureRequest(str(number), prompt, stream_seed(seed, "benchmark", prompt, number))
        for number, prompt in enumerate(prompts)
    ]
    store = PictureStore(folder)
    files = draw_into_store(family, requests, sampler, store, lambda done, total: None)
    return [files[request.id] for request in requests]


def _theirs(
    pipeline: Any,
    family: Family,
    prompts: Sequence[str],
    seed: int,
    folder: Path,
    steps: int = THEIR_STEPS,
) -> list[Path]:
    folder.mkdir(parents=True)
    files = []
    for number, prompt in enumerate(prompts):
        generator = torch.Generator().manual_seed(stream_seed(seed, "theirs", prompt, number))
        image = pipeline(
            prompt,
            num_inference_steps=steps,
            guidance_scale=THEIR_GUIDANCE,
            generator=generator,
            height=family.resolution,
            width=family.resolution,
        ).images[0]
        files.append(folder / f"{number}.png")
        image.save(files[-1])
    return files


def _pipeline(family: Family) -> Any:
    """The plain pipeline on its own copy of the weights, with Stable Diffusion 1's scheduler."""
    source = PIPELINE_FOLDER if family.embedded else family.name
    pipeline = DiffusionPipeline.from_pretrained(
        source, safety_checker=None, use_safetensors=True
    ).to(family.device, family.dtype)
    settings = {
        name: value
        for name, value in pipeline.scheduler.config.items()
        if name in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule",
                    "trained_betas", "prediction_type")
    }  # fmt: skip
    pipeline.scheduler = PNDMScheduler.from_config(settings, skip_prk_steps=True, steps_offset=1)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _features(files: Sequence[Path]) -> Floats:
    clip = load_extractor(EMBEDDED, None, Path(), "cpu")
    images = []
    for file in files:
        with Image.open(file) as image:
            images.append(image.convert("RGB"))
    return clip.image_features(images, 64)


def _cmmd(first: Floats, second: Floats) -> float:
    """Row i of both sets is of prompt i."""
    rows = np.arange(len(first))
    kernels = prompt_kernels(first, rows, second, rows, rbf(CMMD_SIGMA))
    return float(mmd_unbiased(kernels, np.ones((1, len(rows))))[0])


if __name__ == "__main__":
    main()
