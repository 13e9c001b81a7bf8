"""What goes into a step, and the losses of its branches against a plain computation."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from nsync_pipeline.contrast.config import ANCHOR, NEGATIVE, POSITIVE, Branch
from nsync_pipeline.diffusion.config import ObjectiveConfig
from nsync_pipeline.errors import TrainingError
from nsync_pipeline.families.family import Family, PromptEmbeds
from nsync_pipeline.pictures.pixels import picture_sizes
from nsync_pipeline.training.batches import (
    BatchMaker,
    NoisyBatch,
    apply_objective,
    branch_losses,
)
from nsync_pipeline.training.encoded_set import (
    EncodedSet,
    Example,
    StoredPicture,
    StylePrompts,
    encode_examples,
)
from nsync_pipeline.training.held_out import HeldOutLoss
from nsync_pipeline.training.triplets import Triplet
from tests.support.tiny_models import save_tiny_stable_diffusion_3, save_tiny_stable_diffusion_xl
from tests.support.tiny_style import CAPTIONS_IN_TURN, tiny_family

PHRASES = StylePrompts("in the style of sks", "not in the style of sks")
SHAPES = ((48, 24), (32, 32), (64, 40))
"""Width and height of the pictures in turn: wide, square, wide; 32 px buckets of 8 px steps."""


@pytest.fixture(scope="module")
def family(tiny_base: Path) -> Family:
    return tiny_family(tiny_base)


def noise_pictures(path: Path, size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(int(path.stem))
    return torch.rand(3, *size, generator=generator) * 2 - 1


def stored(name: int, shape: tuple[int, int] = (32, 32)) -> StoredPicture:
    return StoredPicture(Path(f"{name}"), f"hash of {name}", *shape)


def examples_of(shapes: Sequence[tuple[int, int]] = ((32, 32),)) -> list[Example]:
    return [
        Example(
            f"p{i}",
            stored(i, shapes[i % len(shapes)]),
            CAPTIONS_IN_TURN[i % 3],
            tuple(stored(10 * k + i) for k in (1, 2, 3)),
            f"not {CAPTIONS_IN_TURN[i % 3]}",
        )
        for i in range(6)
    ]


def encoded(family: Family, examples: Sequence[Example], **changes: Any) -> EncodedSet:
    load = changes.pop("load_pixels", noise_pictures)
    tell = changes.pop("on_picture", lambda done, total: None)
    return encode_examples(family, examples, load, tell, style_prompts=PHRASES, **changes)


@pytest.fixture(scope="module")
def square(family: Family) -> EncodedSet:
    return encoded(family, examples_of())


@pytest.fixture(scope="module")
def mixed(family: Family) -> EncodedSet:
    return encoded(family, examples_of(SHAPES), size_of=picture_sizes(family, buckets=True).of)


def triplet(position: int, positive: int, **changes: Any) -> Triplet:
    fields: dict[str, Any] = {
        "position": position,
        "positive": positive,
        "negatives": (2, 0),
        "negatives_of": positive,
        "anchor": (positive + 3) % 6,
        "prompt_form": "whole",
    }
    return Triplet(**(fields | changes))


def texts_of(of: BatchMaker, branch: Branch, *triplets: Triplet) -> list[str]:
    (batch,) = of.batch(branch, 0, triplets)
    assert isinstance(batch.prompts, tuple)
    return list(batch.prompts)


def test_every_branch_is_asked_by_the_prompt_of_its_picture(
    family: Family, square: EncodedSet
) -> None:
    """A negative by its own form, of the picture that it was drawn for; a dropped one alike."""
    maker = BatchMaker(square, family.noise_schedule, 0, False, live_prompts=True)
    triplets = [
        triplet(0, 0, negatives_of=4),
        triplet(1, 1, prompt_form="style_only"),
        triplet(2, 2, prompt_form="empty"),
    ]
    first, _, third = CAPTIONS_IN_TURN
    assert texts_of(maker, POSITIVE, *triplets) == [first, PHRASES.positive, ""]
    assert texts_of(maker, ANCHOR, *triplets[:1]) == [first]  # of picture 3
    assert texts_of(maker, ANCHOR, triplet(0, 0, anchor=5)) == [third]
    for branch in (NEGATIVE, Branch("negative", 1)):
        own = f"not {CAPTIONS_IN_TURN[1]}"  # of picture 4
        assert texts_of(maker, branch, *triplets) == [own, PHRASES.negative, ""]


def test_every_prompt_form_is_encoded_beforehand(family: Family, square: EncodedSet) -> None:
    maker = BatchMaker(square, family.noise_schedule, 0, False)
    live = BatchMaker(square, family.noise_schedule, 0, False, live_prompts=True)
    for form in ("whole", "style_only", "empty"):
        for branch in (POSITIVE, NEGATIVE, ANCHOR):
            of = triplet(0, 1, prompt_form=form)
            (batch,) = maker.batch(branch, 0, [of])
            assert isinstance(batch.prompts, PromptEmbeds)
            expected = family.encode_prompts(texts_of(live, branch, of)).tokens
            torch.testing.assert_close(batch.prompts.tokens, expected)


def test_each_negative_branch_has_its_own_picture_and_noise(
    family: Family, square: EncodedSet
) -> None:
    """Picture 1's negatives are 11, 21 and 31; the triplet takes the last, then the first."""
    maker = BatchMaker(square, family.noise_schedule, 0, shared_noise=True)
    (positive,) = maker.batch(POSITIVE, 0, [triplet(0, 1)])
    signal, noise = family.noise_schedule.signal, family.noise_schedule.noise
    for branch, name in ((NEGATIVE, 31), (Branch("negative", 1), 11)):
        (batch,) = maker.batch(branch, 0, [triplet(0, 1)])
        entry = int(batch.timesteps)
        assert torch.equal(batch.target, positive.target)  # epsilon: the noise, shared
        clean = (batch.noisy_latents - noise[entry].float() * batch.target) / signal[entry].float()
        pixels = noise_pictures(Path(f"{name}"), (32, 32))[None]
        torch.testing.assert_close(clean, family.encode_pictures(pixels), rtol=1e-3, atol=1e-3)
    apart = BatchMaker(square, family.noise_schedule, 0, shared_noise=False)
    targets = [
        apart.batch(b, 0, [triplet(0, 1)])[0].target for b in (NEGATIVE, Branch("negative", 1))
    ]
    assert not torch.equal(*targets)


def test_a_branchs_loss_is_what_diffusers_computes(family: Family, square: EncodedSet) -> None:
    """One plain pass a branch, noised by DDPMScheduler, of the same pictures, noise and prompts."""
    maker = BatchMaker(square, family.noise_schedule, 0, shared_noise=False, live_prompts=True)
    triplets = [triplet(0, 0), triplet(1, 4)]
    branches = (POSITIVE, NEGATIVE, Branch("negative", 1), ANCHOR)
    batches = {branch: maker.batch(branch, 7, triplets) for branch in branches}
    with torch.no_grad():
        found = branch_losses(family, batches)(branches)
    scheduler = DDPMScheduler.from_config(family.scheduler.config)
    names = {POSITIVE: (0, 4), NEGATIVE: (30, 34), Branch("negative", 1): (10, 14), ANCHOR: (3, 1)}
    for branch, loss in zip(branches, found, strict=True):
        (batch,) = batches[branch]
        pixels = torch.stack([noise_pictures(Path(f"{n}"), (32, 32)) for n in names[branch]])
        latents = family.encode_pictures(pixels)
        noisy = scheduler.add_noise(latents, batch.target, batch.timesteps)
        prompts = family.encode_prompts(texts_of(maker, branch, *triplets))
        with torch.no_grad():
            predicted = family.predict(noisy, batch.timesteps, prompts)
        expected = torch.nn.functional.mse_loss(predicted, batch.target)
        assert float(loss) == pytest.approx(float(expected), rel=1e-4)


def test_live_prompts_are_encoded_in_one_call_with_gradients(
    family: Family, square: EncodedSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = BatchMaker(square, family.noise_schedule, 0, False, live_prompts=True)
    triplets = [triplet(0, 0), triplet(1, 1)]
    branches = (POSITIVE, NEGATIVE)
    losses = branch_losses(family, {b: maker.batch(b, 0, triplets) for b in branches})
    calls: list[Sequence[str]] = []
    weight = next(family.text_encoders[0].parameters())
    embed_prompts = family.embed_prompts

    def counted(prompts: Sequence[str]) -> PromptEmbeds:
        calls.append(prompts)
        return embed_prompts(prompts)

    monkeypatch.setattr(family, "embed_prompts", counted)
    weight.requires_grad_(True)
    try:
        (gradient,) = torch.autograd.grad(losses(branches).sum(), [weight])
    finally:
        weight.requires_grad_(False)
    first, second, _ = CAPTIONS_IN_TURN
    assert calls == [(first, second, f"not {first}", f"not {second}")]
    assert float(gradient.norm()) > 0


def test_min_snr_weighs_each_sample_by_its_timestep(family: Family, square: EncodedSet) -> None:
    """Against each sample's own loss: ``min(SNR, 5) / SNR`` of the timestep it is told."""
    triplets = [triplet(0, 0), triplet(1, 1)]

    def found(objective: ObjectiveConfig) -> tuple[NoisyBatch, Tensor]:
        maker = BatchMaker(square, family.noise_schedule, 0, False, objective)
        one_by_one = [maker.batch(POSITIVE, 0, [t]) for t in triplets]
        with torch.no_grad():
            losses = [branch_losses(family, {POSITIVE: b})((POSITIVE,)) for b in one_by_one]
        return maker.batch(POSITIVE, 0, triplets)[0], torch.cat(losses)

    batch, plain = found(ObjectiveConfig())
    _, weighted = found(ObjectiveConfig(min_snr_gamma=0.5))
    schedule = family.noise_schedule
    snr = (schedule.signal / schedule.noise)[batch.timesteps].square()
    expected = (0.5 / snr).clamp(max=1.0).float()
    assert (expected < 0.9).any()
    torch.testing.assert_close(weighted, plain * expected)


def test_style_friendly_is_for_models_trained_by_flow_matching(
    family: Family, square: EncodedSet, tmp_path: Path
) -> None:
    objective = ObjectiveConfig(timestep_sampling="style_friendly")
    with pytest.raises(TrainingError, match=r"predicts epsilon.*set it to uniform, and timestep_"):
        apply_objective(family, objective)
    flow = tiny_family(save_tiny_stable_diffusion_3(tmp_path))
    apply_objective(flow, objective)
    maker = BatchMaker(square, flow.noise_schedule, 0, False, objective)
    drawn = [maker.batch(POSITIVE, step, [triplet(0, 0)])[0].timesteps for step in range(64)]
    assert 900 < float(torch.cat(drawn).median()) < 985  # 1000 sigmoid(3) is 953


def test_pictures_of_several_shapes_go_group_by_group(family: Family, mixed: EncodedSet) -> None:
    """The mean is over the samples, whatever their group: as of each sample alone."""
    maker = BatchMaker(mixed, family.noise_schedule, 0, shared_noise=False)
    triplets = [triplet(0, 0), triplet(1, 1), triplet(2, 3)]
    branches = (POSITIVE, NEGATIVE, ANCHOR)
    batches = {branch: maker.batch(branch, 0, triplets) for branch in branches}
    assert [len(group.timesteps) for group in batches[ANCHOR]] == [2, 1]
    sizes = [tuple(group.noisy_latents.shape[2:]) for group in batches[NEGATIVE]]
    assert sizes == [(6, 10), (8, 8)]
    with torch.no_grad():
        found = branch_losses(family, batches)(branches)
        for place, branch in enumerate(branches):
            alone = [
                branch_losses(family, {branch: maker.batch(branch, 0, [t])})((branch,))
                for t in triplets
            ]
            torch.testing.assert_close(found[place], torch.cat(alone).mean())


@pytest.mark.parametrize("save", [save_tiny_stable_diffusion_xl, save_tiny_stable_diffusion_3])
def test_other_families_take_several_shapes_prompts_and_geometry(
    tmp_path: Path, save: Callable[[Path], Path]
) -> None:
    """Stacked, cached and live: as each sample alone, by a plain pass with its geometry."""
    family = tiny_family(save(tmp_path))
    sizes = picture_sizes(family, buckets=True)
    examples = encoded(family, examples_of(SHAPES), size_of=sizes.of)
    assert len(set(examples.shapes)) == 2
    triplets = [triplet(0, 0), triplet(1, 1), triplet(2, 3, prompt_form="style_only")]
    branches = (POSITIVE, NEGATIVE, ANCHOR)
    found = []
    for live in (False, True):
        maker = BatchMaker(examples, family.noise_schedule, 0, False, live_prompts=live)
        batches = {branch: maker.batch(branch, 0, triplets) for branch in branches}
        with torch.no_grad():
            found.append(branch_losses(family, batches)(branches))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    for place, branch in enumerate(branches):
        losses = []
        for of in triplets:
            (batch,) = maker.batch(branch, 0, [of])
            prompts = family.encode_prompts(texts_of(maker, branch, of))
            with torch.no_grad():
                predicted = family.predict(
                    batch.noisy_latents, batch.timesteps, prompts, batch.geometry
                )
            losses.append(float((predicted - batch.target).square().mean()))
        assert float(found[0][place]) == pytest.approx(sum(losses) / 3, rel=1e-3)


def test_geometry_is_each_pictures_own(family: Family, mixed: EncodedSet) -> None:
    """48 x 24 to 40 x 24 keeps all 24 rows, 40 columns of 48; its negatives, 32 x 32, are cut too.

    A negative of 32 x 32 cut to 5 : 3 keeps 19 of 32 rows from row 6 on: 6 * 24 / 19 = 7.6, so 8.
    """
    maker = BatchMaker(mixed, family.noise_schedule, 0, shared_noise=False)
    (wide,) = maker.batch(POSITIVE, 0, [triplet(0, 0)])
    assert wide.geometry is not None
    assert wide.geometry.tolist() == [[24, 48, 0, 4, 24, 40]]
    (negative,) = maker.batch(NEGATIVE, 0, [triplet(0, 0)])
    assert negative.geometry is not None
    assert negative.geometry.tolist() == [[32, 32, 8, 0, 24, 40]]


def test_the_same_arguments_give_the_same_batch(family: Family, mixed: EncodedSet) -> None:
    """In any micro-batch, and from another maker: the draws go by the sample's position."""
    triplets = [triplet(0, 0), triplet(1, 1), triplet(2, 3)]
    whole = BatchMaker(mixed, family.noise_schedule, 0, False).batch(NEGATIVE, 5, triplets)
    part = BatchMaker(mixed, family.noise_schedule, 0, False).batch(NEGATIVE, 5, triplets[2:])
    assert torch.equal(part[0].noisy_latents[0], whole[0].noisy_latents[1])
    assert torch.equal(part[0].target[0], whole[0].target[1])


def test_a_second_encoding_encodes_nothing_and_is_the_same(family: Family, tmp_path: Path) -> None:
    loaded: list[Path] = []

    def load(path: Path, size: tuple[int, int]) -> Tensor:
        loaded.append(path)
        return noise_pictures(path, size)

    first = encoded(family, examples_of(), cache=tmp_path, load_pixels=load)
    assert len(loaded) == 6 + 18
    loaded.clear()
    told: list[tuple[int, int]] = []
    again = encoded(
        family, examples_of(), cache=tmp_path, load_pixels=load,
        on_picture=lambda *now: told.append(now),
    )  # fmt: skip
    assert loaded == []
    assert told == [(24, 24)]
    memory = encoded(family, examples_of())
    for other in (again, memory):
        assert other.negative_latents.stacked(range(18)).equal(
            first.negative_latents.stacked(range(18))
        )
        assert other.encoded_prompts.embeds([""]).tokens.equal(
            first.encoded_prompts.embeds([""]).tokens
        )


def test_adding_a_picture_encodes_that_picture(family: Family, tmp_path: Path) -> None:
    loaded: list[str] = []

    def load(path: Path, size: tuple[int, int]) -> Tensor:
        loaded.append(path.name)
        return noise_pictures(path, size)

    before = encoded(family, examples_of(), cache=tmp_path, load_pixels=load)
    loaded.clear()
    more = [Example("new", stored(77), "a red house"), *examples_of()]
    after = encoded(family, more, cache=tmp_path, load_pixels=load)
    assert loaded == ["77"]
    assert after.latents[1].equal(before.latents[0])
    assert after.negative_counts == (0, 3, 3, 3, 3, 3, 3)
    assert after.negative_row(2, 1) == 4
    loaded.clear()
    encoded(
        family, more, cache=tmp_path, load_pixels=load,
        size_of=lambda width, height: (24, 40),
    )  # fmt: skip
    assert len(loaded) == 7 + 18  # at another size all are encoded again


def test_the_held_out_loss_is_plain_and_covers_every_shape(
    family: Family, mixed: EncodedSet
) -> None:
    """The mean over the pictures of each one's squared error, at the middle of its sixth."""
    loss = HeldOutLoss(family, mixed, seed=3)
    live = HeldOutLoss(family, mixed, seed=3, live_prompts=True)
    assert loss() == loss()
    assert live() == pytest.approx(loss(), rel=1e-5)
    expected = []
    for row in range(6):
        entry = torch.tensor([int((row + 0.5) / 6 * 1000)])
        noise = loss._noise(row)[None]
        scheduler = DDPMScheduler.from_config(family.scheduler.config)
        noisy = scheduler.add_noise(mixed.latents[row][None], noise, entry)
        prompts = family.encode_prompts([mixed.prompts[row]])
        with torch.no_grad():
            predicted = family.predict(noisy, entry, prompts)
        expected.append(float((predicted - noise).square().mean()))
    assert loss() == pytest.approx(sum(expected) / 6, rel=1e-4)
