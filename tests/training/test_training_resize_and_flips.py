"""`training.resize` and `training.random_flip`: what of a picture is taught, and on which side."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from nsync_pipeline.adaptation.lora import remove_lora
from nsync_pipeline.adaptation.trainables import add_trainables
from nsync_pipeline.contrast.config import ANCHOR, NEGATIVE, POSITIVE, Branch
from nsync_pipeline.families.family import Family
from nsync_pipeline.params import Params
from nsync_pipeline.pictures.pixels import geometry_of, load_pixels
from nsync_pipeline.seeding import torch_stream
from nsync_pipeline.training import stage as training
from nsync_pipeline.training.batches import BatchMaker, batch_maker
from nsync_pipeline.training.checkpoint import CheckpointFolder
from nsync_pipeline.training.config import TrainingConfig, TrainingSettings
from nsync_pipeline.training.encoded_set import (
    EncodedSet,
    Example,
    StoredPicture,
    encode_examples,
)
from nsync_pipeline.training.history import StepRecord
from nsync_pipeline.training.loop import TrainingOutcome, train
from nsync_pipeline.training.triplets import Triplet, triplet_order
from nsync_pipeline.workspace import LORA_FILE, Workspace
from tests.support.contexts import stage_context
from tests.support.drawing_workspace import drawing_params
from tests.support.tiny_style import STYLE, write_tiny_style
from tests.support.tiny_training import (
    LORA,
    encoded_examples,
    examples,
    family,
    largest_difference,
    noise_pictures,
)

__all__ = ["examples", "family"]  # fixtures

SECOND = Branch("negative", 1)
BRANCHES = (POSITIVE, NEGATIVE, SECOND, ANCHOR)


@pytest.fixture(scope="module")
def both(family: Family) -> EncodedSet:
    """The pictures of ``examples``, with their mirror images."""
    return encoded_examples(family, mirrored=True)


def settings(**changes: Any) -> TrainingConfig:
    own: dict[str, Any] = {"update_rule": "orthogonal_anchor", "contrast": {"negatives": 2}}
    own |= {"batch_size": 4, "lora": LORA}
    return TrainingConfig.model_validate(own | changes)


def flipped(maker: BatchMaker, branch: Branch, step: int, of: list[Triplet]) -> list[bool]:
    """Which of a batch's samples are of mirror images; all others are of the pictures."""
    examples = maker.examples
    assert examples.mirrored is not None
    plain = replace(maker, flips=None)
    (found,), (straight,), (other,) = (
        one.batch(branch, step, of)
        for one in (maker, plain, replace(plain, examples=examples.mirrored))
    )
    sides = []
    for row, noisy in enumerate(found.noisy_latents):
        as_it_is, mirrored = straight.noisy_latents[row], other.noisy_latents[row]
        assert not torch.equal(as_it_is, mirrored)
        sides.append(torch.equal(noisy, mirrored))
        assert sides[-1] or torch.equal(noisy, as_it_is)
    return sides


def drawn(family: Family, both: EncodedSet, of: TrainingConfig, steps: int) -> dict[Branch, Any]:
    maker = batch_maker(both, family, of, 0, live_prompts=True)
    order = triplet_order(both, of, 0)
    return {
        branch: np.array(
            [flipped(maker, branch, step, order.triplets(step)) for step in range(steps)]
        ).ravel()
        for branch in BRANCHES
    }


def test_each_branch_is_mirrored_by_itself_half_of_the_time(
    family: Family, both: EncodedSet
) -> None:
    """Of 400 samples, 160 to 240 are, and as many of two branches agree: four deviations."""
    sides = drawn(family, both, settings(random_flip="each"), 100)
    for number, one in enumerate(BRANCHES):
        assert 0.4 < sides[one].mean() < 0.6
        for other in BRANCHES[:number]:
            assert 0.4 < (sides[one] == sides[other]).mean() < 0.6


def test_together_the_branches_of_a_triplet_are_mirrored_alike(
    family: Family, both: EncodedSet
) -> None:
    sides = drawn(family, both, settings(random_flip="together"), 40)
    assert 0.3 < sides[POSITIVE].mean() < 0.7
    assert all((sides[branch] == sides[POSITIVE]).all() for branch in BRANCHES)


def test_a_draw_is_of_the_sample_and_the_step_alone(family: Family, both: EncodedSet) -> None:
    """In any micro-batch or process's share, in any order, and under another seed another."""
    of = settings(random_flip="each", batch_size=8)
    maker, triplets = batch_maker(both, family, of, 0, True), triplet_order(both, of, 0).triplets(5)
    whole = flipped(maker, NEGATIVE, 5, triplets)
    assert set(whole) == {False, True}
    assert flipped(maker, NEGATIVE, 5, triplets[3:]) == whole[3:]
    assert flipped(maker, NEGATIVE, 5, triplets[::-1]) == whole[::-1]
    others = [flipped(replace(maker, seed=seed), NEGATIVE, 5, triplets) for seed in (1, 2)]
    assert whole not in (*others, flipped(maker, NEGATIVE, 6, triplets))


def test_without_flips_batches_are_the_same_to_the_bit(
    family: Family, examples: EncodedSet, both: EncodedSet
) -> None:
    triplets = triplet_order(examples, settings(), 0).triplets(3)
    for branch in BRANCHES:
        (one,), (other,) = (
            batch_maker(of, family, settings(), 0, False).batch(branch, 3, triplets)
            for of in (examples, both)
        )
        assert one.noisy_latents.equal(other.noisy_latents)
        assert examples.mirrored is None


def test_both_branches_of_class_preservation_are_of_one_side(
    family: Family, both: EncodedSet
) -> None:
    of = settings(update_rule="class_preservation", contrast={}, random_flip="each")
    maker, triplets = batch_maker(both, family, of, 0, True), triplet_order(both, of, 0).triplets(0)
    (one,), (other,) = (maker.batch(branch, 0, triplets) for branch in (POSITIVE, NEGATIVE))
    assert one.noisy_latents.equal(other.noisy_latents)


def test_a_mirror_images_latent_is_the_autoencoders(family: Family, both: EncodedSet) -> None:
    """Not the picture's latent, mirrored. Negatives that are learned as pictures have it, too."""
    assert both.mirrored is not None
    picture = noise_pictures(Path("2"), (family.resolution, family.resolution))
    expected = family.encode_pictures(picture.flip(-1)[None])[0]
    assert both.mirrored.latents[2].equal(expected)
    assert not torch.allclose(expected, both.latents[2].flip(-1), atol=1e-3)
    negatives = both.of_negatives()
    assert negatives.mirrored is not None
    negative = noise_pictures(Path("22"), (family.resolution, family.resolution))  # of picture 2
    expected = family.encode_pictures(negative.flip(-1)[None])[0]
    assert negatives.mirrored.latents[5].equal(expected)
    assert both.mirrored.negative_latents[5].equal(expected)


def test_a_mirrored_file_is_encoded_to_the_same(family: Family, tmp_path: Path) -> None:
    """A picture of the size; where it is in its file is told of the mirror image, too."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 45, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    ImageOps.mirror(Image.fromarray(noise)).crop((1, 0, 45, 32)).save(tmp_path / "b.png")
    of = [
        Example(name, StoredPicture(tmp_path / f"{name}.png", name, width, 32), "a boat")
        for name, width in (("a", 45), ("b", 44))
    ]
    found = encode_examples(family, of, load_pixels, lambda *told: None, mirrored=True)
    assert found.mirrored is not None
    assert found.mirrored.latents[0].equal(found.latents[1])
    assert found.geometry.tolist() == [[32, 45, 0, 6, 32, 32], [32, 44, 0, 6, 32, 32]]
    assert found.mirrored.geometry.tolist() == [[32, 45, 0, 7, 32, 32], [32, 44, 0, 6, 32, 32]]


@pytest.mark.parametrize("shape", [(60, 20), (20, 60), (32, 32)])
def test_stretched_the_whole_picture_is_seen(
    family: Family, tmp_path: Path, shape: tuple[int, int]
) -> None:
    """Its four corners are; of an oblong picture's centre square they are not."""
    width, height = shape
    array = np.full((height, width, 3), 128, np.uint8)
    array[: height // 4, : width // 4] = array[-(height // 4) :, -(width // 4) :] = 255
    array[: height // 4, -(width // 4) :] = array[-(height // 4) :, : width // 4] = 0
    Image.fromarray(array).save(tmp_path / "a.png")
    stretched = load_pixels(tmp_path / "a.png", (32, 32), stretch=True)
    corners = stretched[0, [0, 0, -1, -1], [0, -1, 0, -1]]
    torch.testing.assert_close(corners, torch.tensor([1.0, -1.0, -1.0, 1.0]))
    cut = load_pixels(tmp_path / "a.png", (32, 32))
    assert torch.equal(cut, stretched) is (width == height)
    assert geometry_of(width, height, (32, 32), stretch=True) == (height, width, 0, 0, 32, 32)

    of = [Example("a", StoredPicture(tmp_path / "a.png", "a", width, height), "a boat")]
    found = encode_examples(family, of, load_pixels, lambda *told: None, stretch=True)
    assert found.latents[0].equal(family.encode_pictures(stretched[None])[0])
    assert found.geometry.tolist() == [[height, width, 0, 0, 32, 32]]


def test_each_way_is_kept_by_itself_and_encoded_once(family: Family, tmp_path: Path) -> None:
    loaded: list[str] = []

    def load(path: Path, size: tuple[int, int], stretch: bool = False) -> Tensor:
        loaded.append(path.name)
        return noise_pictures(path, size) * (0.5 if stretch else 1.0)

    of = [Example("p", StoredPicture(Path("1"), "hash of 1", 32, 32), "a boat")]

    def encoded(stretch: bool = False, mirrored: bool = False) -> EncodedSet:
        return encode_examples(
            family, of, load, lambda *told: None,
            cache=tmp_path, stretch=stretch, mirrored=mirrored,
        )  # fmt: skip

    plain, mirrored = encoded(), encoded(mirrored=True)
    stretched = encoded(stretch=True, mirrored=True)
    assert loaded == ["1"] * 3
    assert mirrored.latents[0].equal(plain.latents[0])
    assert not stretched.latents[0].equal(plain.latents[0])
    assert encoded().latents[0].equal(plain.latents[0])
    assert encoded(stretch=True, mirrored=True).latents[0].equal(stretched.latents[0])
    assert len(loaded) == 3


def run(
    family: Family,
    examples: EncodedSet,
    folder: Path,
    of: TrainingConfig,
    on_step: Callable[[StepRecord], None] = lambda record: None,
) -> tuple[TrainingOutcome, list[Tensor]]:
    remove_lora(family)
    lora = add_trainables(family, LORA, None, torch_stream(0, "lora"))
    outcome = train(family, lora, examples, of, 0, CheckpointFolder(folder, {}), on_step=on_step)
    return outcome, [weight.detach().clone() for weight in lora.weights]


def test_with_flips_it_is_the_same_training_however_it_is_taken(
    family: Family, both: EncodedSet, tmp_path: Path
) -> None:
    """Interrupted between two checkpoints, to the bit; in parts and in turn, but for rounding."""
    changes: dict[str, Any] = {"random_flip": "each", "steps": 5, "checkpoint_every": 2}
    of = settings(**changes, branches="fused")
    unbroken, a = run(family, both, tmp_path / "a", of)

    def stop(record: StepRecord) -> None:
        if record.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(family, both, tmp_path / "b", of, stop)
    resumed, b = run(family, both, tmp_path / "b", of)
    assert largest_difference(a, b) == 0.0
    assert resumed == unbroken
    in_parts = settings(**changes, branches="in_turn").model_copy(
        update={"batch_size": 1, "accumulation": 4}
    )
    parts, _ = run(family, both, tmp_path / "c", in_parts)
    straight, _ = run(family, both, tmp_path / "d", settings(steps=5))
    losses = [[record.loss_positive for record in one.history] for one in (unbroken, parts)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert straight.history[0].loss_positive != losses[0][0]


def params(base: Path, **changes: object) -> Params:
    return drawing_params(
        base,
        training={"steps": 1, "batch_size": 2, "lora": LORA.model_dump()} | changes,
        variants={"nsync": {"update_rule": "orthogonal"}},
    )


def test_the_stage_does_as_its_settings_say_and_test_pictures_are_not_mirrored(
    tiny_base: Path, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path)
    write_tiny_style(workspace, family.revision)
    asked: list[tuple[int, bool, bool]] = []

    def told(*given: Any, **ways: Any) -> EncodedSet:
        found = encode_examples(*given, **ways)
        asked.append((len(found.ids), ways["stretch"], found.mirrored is not None))
        return found

    monkeypatch.setattr(training, "encode_examples", told)
    identities, weights = [], []
    for changes in ({}, {"resize": "stretch", "random_flip": "each"}):
        context = stage_context(
            TrainingSettings, workspace, params(tiny_base, **changes), STYLE, "nsync"
        )
        identities.append(context.settings.identity()["training"])
        training.run(context)
        weights.append((context.folder / LORA_FILE).read_bytes())
    assert asked == [(5, False, False), (2, False, False), (5, True, True), (2, True, False)]
    assert weights[0] != weights[1]
    added = {"resize": "stretch", "random_flip": "each"}
    assert identities[1] == identities[0] | added
    assert not added.keys() & identities[0].keys()
