"""A training step of each family against a plain one, by its diffusers pipeline's parts alone."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import ADAPTER
from nsync_pipeline.adaptation.lora_file import read_lora_file
from nsync_pipeline.adaptation.other_forms import form_for_others
from nsync_pipeline.adaptation.safetensors_file import write_safetensors
from nsync_pipeline.adaptation.trainables import add_trainables, remove_trained, save_trained
from nsync_pipeline.adaptation.trained_weights import TrainedWeights
from nsync_pipeline.contrast.branch_copies import BranchCopies
from nsync_pipeline.contrast.branch_gradients import MicroBatch, gradients_fused, gradients_in_turn
from nsync_pipeline.contrast.config import ANCHOR, NEGATIVE, POSITIVE, Branch
from nsync_pipeline.diffusion.draws import draw
from nsync_pipeline.drawing.config import SamplerConfig
from nsync_pipeline.drawing.sampling import PictureRequest, draw_pictures
from nsync_pipeline.families.family import Family, architecture_of
from nsync_pipeline.pictures.pixels import load_pixels
from nsync_pipeline.training.batches import batch_maker, branch_losses
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.encoded_set import EncodedSet, Example, StoredPicture, encode_examples
from nsync_pipeline.training.loop import checkpointed_activations
from nsync_pipeline.training.triplets import Triplet
from nsync_pipeline.workspace import LORA_FILE
from tests.support.plain_steps import KINDS, Kind
from tests.support.tiny_style import tiny_family

BRANCHES = (POSITIVE, NEGATIVE, ANCHOR)
SEED, STEP = 3, 7
PROMPTS = ("a red house in the style of sks", "a boat on water in the style of sks", "the sun")
SIZES = ((32, 32), (48, 40), (64, 32))  # width and height: squares are cut out of the last two
TRIPLETS = tuple(
    Triplet(
        position=position,
        positive=positive,
        negatives=(0,),
        negatives_of=positive,
        anchor=anchor,
        prompt_form=form,  # type: ignore[arg-type]
    )
    for position, (positive, anchor, form) in enumerate([(0, 1, "whole"), (2, 0, "empty")])
)


@dataclass(frozen=True)
class Setting:
    """A family with a LoRA away from zero, its pipeline with the same one, and pictures."""

    kind: Kind
    family: Family
    trained: TrainedWeights
    pipeline: Any
    examples: EncodedSet
    pictures: tuple[Path, ...]  # positives, then negatives
    folder: Path  # of the LoRA's file


@pytest.fixture(scope="module", params=list(KINDS))
def setting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    kind = KINDS[request.param]
    tmp = tmp_path_factory.mktemp("step")
    folder = kind.save(tmp / "base")
    family = tiny_family(folder)
    rng = np.random.default_rng(0)
    pictures = []
    for number in range(6):
        width, height = SIZES[number % 3]
        pictures.append(tmp / f"{number}.png")
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(pictures[-1])
    stored = [
        StoredPicture(path, f"sha{number}", *SIZES[number % 3])
        for number, path in enumerate(pictures)
    ]
    examples = encode_examples(
        family,
        [
            Example(f"p{number}", stored[number], PROMPTS[number], (stored[3 + number],))
            for number in range(3)
        ],
        load_pixels,
        lambda done, total: None,
    )
    generator = torch.Generator().manual_seed(1)
    trained = add_trainables(family, LoraSettings(rank=2, alpha=6.0), None, generator)
    with torch.no_grad():
        for weight in trained.weights:
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.2)
    save_trained(family, trained, tmp, {"placeholder": "sks"})
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.load_lora_weights(tmp, weight_name=LORA_FILE)
    return Setting(kind, family, trained, pipeline, examples, tuple(pictures), tmp)


@contextmanager
def passes_of(family: Family) -> Iterator[list[int]]:
    """Through the last attention: one, and one more where it is computed again."""
    queries = [m for name, m in family.denoiser.named_modules() if name.endswith("to_q")]
    passes: list[int] = []
    hook = queries[-1].register_forward_hook(lambda *_: passes.append(1))
    try:
        yield passes
    finally:
        hook.remove()


def lora_of(setting: Setting) -> dict[str, torch.nn.Parameter]:
    """The pipeline's own LoRA weights by the names that ours have."""
    prefix = setting.family.denoiser_prefix
    denoiser = getattr(setting.pipeline, prefix)
    return {
        f"{prefix}.{name.replace('.default_0', '')}": weight.requires_grad_()
        for name, weight in denoiser.named_parameters()
        if ".lora_" in name
    }


def plain_loss(setting: Setting, branch: Branch) -> Tensor:
    """The mean loss over the triplets, one sample at a time, by the pipeline's parts alone."""
    losses = []
    for triplet in TRIPLETS:
        picture = triplet.anchor if branch == ANCHOR else triplet.positive
        told = "" if triplet.prompt_form == "empty" else PROMPTS[picture]
        number = picture + 3 if branch == NEGATIVE else picture
        width, height = SIZES[picture]
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        with Image.open(setting.pictures[number]) as image:
            square = image.crop((left, top, left + side, top + side))
            square = square.resize((32, 32), Image.Resampling.LANCZOS)
        scale = 32 / side
        geometry = (height, width, round(top * scale), round(left * scale), 32, 32)
        pixels = torch.from_numpy(np.asarray(square, np.float32)).permute(2, 0, 1)[None]
        latents = setting.kind.latents(setting.pipeline, pixels / 127.5 - 1.0)
        draws = draw(SEED, str(branch), STEP, [triplet.position], latents.shape[1:], 1000)
        losses.append(
            setting.kind.plain(
                setting.pipeline, latents, draws.noise, draws.entries, told, geometry
            )
        )
    return torch.stack(losses).mean()


@pytest.mark.parametrize("mode", ["in_turn", "fused", "fused, activations again"])
def test_losses_and_gradients_are_the_plain_ones(setting: Setting, mode: str) -> None:
    """Where activations are computed again on the way back, the branches' copies are in use."""
    family, trained = setting.family, setting.trained
    settings = TrainingConfig(update_rule="orthogonal_anchor", batch_size=2)
    maker = batch_maker(setting.examples, family, settings, SEED, live_prompts=False)
    losses = branch_losses(family, {b: maker.batch(b, STEP, TRIPLETS) for b in BRANCHES})
    parts = [MicroBatch(losses, share=1.0)]
    if mode == "in_turn":
        found = gradients_in_turn(trained.weights, BRANCHES, parts)
    else:
        copies = BranchCopies([family.denoiser], trained.weights, ADAPTER)
        with checkpointed_activations(family, "again" in mode), passes_of(family) as passes:
            found = gradients_fused(copies, BRANCHES, parts)
        assert len(passes) == (2 if "again" in mode else 1)

    theirs = lora_of(setting)
    assert set(theirs) == set(trained.names)
    for branch in BRANCHES:
        loss = plain_loss(setting, branch)
        own = [theirs[name] for name in trained.names]
        # What the last block makes of the prompt may reach nothing.
        gradients = torch.autograd.grad(loss, own, materialize_grads=True)
        assert found.losses[branch] == pytest.approx(float(loss.detach()), rel=1e-4)
        largest = max(float(gradient.abs().max()) for gradient in gradients)
        assert largest > 1e-4
        for name, ours, plain in zip(
            trained.names, found.gradients[branch], gradients, strict=True
        ):
            torch.testing.assert_close(
                ours, plain, rtol=1e-3, atol=1e-3 * largest, msg=f"{branch}: {name}"
            )


def test_every_layer_that_is_adapted_by_default_is_there(setting: Setting) -> None:
    """Of blocks that are named by their numbers the first: how many there are differs."""
    adapted = {name.partition(".lora_")[0] for name in setting.trained.names}
    for target in setting.family.lora_targets:
        if re.search(r"\.[1-9]\d*\.", target):
            continue
        assert any(name.endswith(f".{target}") for name in adapted), target


def test_its_lora_draws_the_same_pictures_in_diffusers(setting: Setting) -> None:
    """By ``load_lora_weights`` of the family's pipeline, from its file and from that for other
    programs; and not the base's pictures."""
    family, pipeline = setting.family, setting.pipeline
    sampler = SamplerConfig(scheduler="model", steps=4, guidance_scale=3.0, batch_size=2)
    requests = [PictureRequest("a", "a red house", 1), PictureRequest("b", "a fish", 2)]

    def ours() -> np.ndarray:
        (batch,) = draw_pictures(family, requests, sampler)
        return np.stack([picture.pixels for picture in batch]).astype(int)

    def theirs() -> np.ndarray:
        images = pipeline(
            prompt=[request.prompt for request in requests],
            generator=[torch.Generator().manual_seed(request.seed) for request in requests],
            num_inference_steps=4,
            height=32,
            width=32,
            **setting.kind.guidance(3.0),
        ).images
        return np.stack([np.asarray(image) for image in images]).astype(int)

    pipeline.set_progress_bar_config(disable=True)
    assert np.abs(ours() - theirs()).max() <= 1
    form = form_for_others(*read_lora_file(setting.folder / LORA_FILE), architecture_of(family))
    assert form is not None
    write_safetensors(setting.folder / "others.safetensors", form, {"format": "pt"})
    pipeline.unload_lora_weights()
    bare = theirs()
    pipeline.load_lora_weights(setting.folder, weight_name="others.safetensors")
    assert np.abs(ours() - theirs()).max() <= 2  # the scale is in a factor: rounded otherwise
    remove_trained(family)
    assert np.abs(ours() - bare).max() <= 1
    assert np.abs(ours() - theirs()).max() > 5
