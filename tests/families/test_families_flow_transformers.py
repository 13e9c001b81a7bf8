"""The families that read prompts by a language model, beside their diffusers pipelines."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

from nsync_pipeline.adaptation.config import LoraSettings, TextualInversionSettings
from nsync_pipeline.adaptation.lora import ADAPTER
from nsync_pipeline.adaptation.trainables import add_trainables
from nsync_pipeline.contrast.branch_copies import BranchCopies, NotFusableError
from nsync_pipeline.drawing.config import SamplerConfig
from nsync_pipeline.drawing.schedulers import build_scheduler
from nsync_pipeline.errors import BaseModelError, TrainingError
from nsync_pipeline.families.checkpoint_file import kind_of_checkpoint
from nsync_pipeline.families.config import BaseModelConfig, MemoryConfig
from nsync_pipeline.families.family import PromptEmbeds
from nsync_pipeline.families.loading import find_base, load_family
from nsync_pipeline.families.noise_schedules import SizedSchedule
from nsync_pipeline.families.prompt_counting import tokenizer_of
from tests.support.original_layout import save_original_denoiser
from tests.support.plain_steps import KINDS
from tests.support.tiny_flow_models import PIPELINES, save_tiny_flow_model
from tests.support.tiny_style import tiny_family

PROMPTS = ("a red house", "", "a boat on blue water")


@pytest.fixture(scope="module", params=list(PIPELINES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return KINDS[name].save(tmp_path_factory.mktemp(name))


@pytest.fixture(scope="module")
def family(folder: Path) -> Any:
    return tiny_family(folder)


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    return DiffusionPipeline.from_pretrained(folder)


def config_of(name: Path, **changes: Any) -> BaseModelConfig:
    return BaseModelConfig(name=str(name), device="cpu", resolution=32, **changes)


def test_prompts_are_told_as_long_as_they_are(family: Any, pipeline: Any, name: str) -> None:
    """As the pipeline encodes them, each alone; FLUX.2's are all filled up."""
    with torch.no_grad():
        if name == "z_image":
            theirs = pipeline.encode_prompt(list(PROMPTS), "cpu", False)[0]
        elif name == "flux_2_klein":
            theirs = list(pipeline.encode_prompt(list(PROMPTS), "cpu")[0])
        else:
            asked = [prompt or " " for prompt in PROMPTS] if name == "qwen_image" else PROMPTS
            said, mask = pipeline.encode_prompt(list(asked), torch.device("cpu"))
            theirs = [row[there.bool()] for row, there in zip(said, mask, strict=True)]
    embeds = family.encode_prompts(PROMPTS)
    for ours, expected in zip(embeds.each(), theirs, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert (embeds.lengths is None) == (name == "flux_2_klein")


def test_a_prompt_comes_out_alike_whatever_stands_beside_it(family: Any) -> None:
    """Filled up in a batch, each predicts what it does alone."""
    embeds = family.encode_prompts(PROMPTS)
    latents = torch.randn(3, *family.latent_shape, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([700.0, 300.0, 20.0])
    with torch.no_grad():
        together = family.predict(latents, times, embeds)
        for row in range(3):
            one = embeds.rows(torch.tensor([row]))
            alone = family.predict(latents[row : row + 1], times[row : row + 1], one)
            torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-4)


def test_the_schedule_is_shifted_by_the_size(family: Any) -> None:
    """As diffusers shifts the even path; the larger, the more towards noise."""
    schedule = family.noise_schedule
    assert isinstance(schedule, SizedSchedule)
    small, large = schedule.of_size(8, 8), schedule.of_size(64, 32)
    assert torch.equal(small.noise, schedule.noise)
    assert bool((large.noise[:-1] > small.noise[:-1]).all())
    assert float(large.noise[-1]) == 1.0
    torch.testing.assert_close(large.timesteps.double(), large.noise * 1000)
    drawn = [
        build_scheduler(family, SamplerConfig(scheduler="euler", steps=4), size).sigmas
        for size in ((8, 8), (64, 32))
    ]
    assert bool((drawn[1][1:-2] > drawn[0][1:-2]).all())


def test_dpm_takes_the_same_way(family: Any) -> None:
    """In small steps both samplers stand where the schedule says."""
    for scheduler in ("dpm", "euler"):
        taken = build_scheduler(family, SamplerConfig(scheduler=scheduler, steps=8), (16, 8))
        shift = family.noise_schedule.shift_of(16 * 8, 8)
        half = float(taken.sigmas[4])
        if not family.scheduler.config.shift_terminal or scheduler == "dpm":
            assert half == pytest.approx(shift * 0.5 / (1 + (shift - 1) * 0.5), abs=2e-3)


def test_tokens_are_counted_without_the_weights(folder: Path, family: Any) -> None:
    """A byte a token."""
    counter = tokenizer_of(config_of(folder))
    assert counter.prompt_tokens("a red house") == family.prompt_tokens("a red house") == 11
    assert counter.max_prompt_tokens == family.max_prompt_tokens
    longest = "a" * family.max_prompt_tokens
    cut = [family.encode_prompts([longest + more]).tokens for more in ("", "b")]
    assert cut[0].shape == cut[1].shape


def test_the_language_model_is_loaded_when_needed_and_let_go(folder: Path) -> None:
    family: Any = load_family(config_of(folder, memory=MemoryConfig(release_text_encoders=True)))
    kept: Any = load_family(config_of(folder))
    assert family.language_model._model is None
    first = family.encode_prompts(["a"])
    assert family.language_model._model is None
    assert torch.equal(first.tokens, kept.encode_prompts(["a"]).tokens)
    assert kept.language_model._model is not None


def test_nothing_of_a_language_model_is_adapted(family: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(TrainingError, match="no CLIP"):
        add_trainables(family, LoraSettings(text_encoder=True), None, generator)
    with pytest.raises(TrainingError, match="no CLIP"):
        add_trainables(family, None, TextualInversionSettings(), generator)


def test_a_layer_that_mixes_samples_is_not_fused(tmp_path: Path) -> None:
    """Z-Image's prompts go through it in a row: a third of the rows need not be a third of them."""
    family = tiny_family(KINDS["z_image"].save(tmp_path / "z_image"))
    settings = LoraSettings(rank=2, targets=("cap_embedder.1",))
    trained = add_trainables(family, settings, None, torch.Generator().manual_seed(0))
    with pytest.raises(NotFusableError, match="all samples' tokens in a row"):
        BranchCopies([family.denoiser], trained.weights, ADAPTER)


def test_a_denoiser_alone_in_a_file_is_the_folders(
    name: str, folder: Path, family: Any, tmp_path: Path
) -> None:
    """To the last bit; all else comes from the settings' folder."""
    file = save_original_denoiser(folder, tmp_path / "mine.safetensors")
    assert kind_of_checkpoint(file, False).family == name
    found: Any = load_family(config_of(file, config=str(folder)))
    expected = family.denoiser.state_dict()
    assert found.denoiser.state_dict().keys() == expected.keys()
    for key, weight in found.denoiser.state_dict().items():
        assert torch.equal(weight, expected[key]), key
    assert found.revision != family.revision
    assert torch.equal(found.encode_prompts(["a"]).tokens, family.encode_prompts(["a"]).tokens)


def test_a_distilled_model_is_refused(name: str, folder: Path, tmp_path: Path) -> None:
    for word in ("turbo", "Lightning"):
        link = tmp_path / f"model-{word}-v1"
        link.symlink_to(folder)
        with pytest.raises(BaseModelError, match=r"is distilled .*Train on .* such as \S+/\S+\."):
            load_family(config_of(link))
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"is_distilled": True}))
    with pytest.raises(BaseModelError, match=r"its model_index\.json says so"):
        load_family(config_of(copy))


def test_the_distilled_klein_is_told_from_its_base_by_its_name(tmp_path: Path) -> None:
    """Their files are alike. A folder that says of itself that it is none may be called so."""
    folder = save_tiny_flow_model(tmp_path / "FLUX.2-klein-9B", "flux_2_klein")
    assert find_base(config_of(folder))[1].index["is_distilled"] is False
    for name, distilled in (("flux-2-klein-4b", True), ("flux-2-klein-base-4b", False)):
        file = save_original_denoiser(folder, tmp_path / f"{name}.safetensors")
        config = config_of(file, config=str(folder))
        if distilled:
            with pytest.raises(BaseModelError, match=r"which lacks 'base'.*FLUX\.2-klein-base-"):
                find_base(config)
        else:
            assert find_base(config)[1].checkpoint == file


@pytest.mark.parametrize(
    ("width", "settings"),
    [
        (3072, "black-forest-labs/FLUX.2-klein-base-4B"),
        (4096, "black-forest-labs/FLUX.2-klein-base-9B"),
        (6144, None),
    ],
)
def test_the_sizes_of_flux_2_are_told_apart(
    tmp_path: Path, width: int, settings: str | None
) -> None:
    file = tmp_path / "file.safetensors"
    keys = {
        "img_in.weight": torch.zeros(width, 1),
        "single_stream_modulation.lin.weight": torch.zeros(1),
    }
    save_file(keys, file)
    if settings is None:
        with pytest.raises(BaseModelError, match=r"FLUX\.2 dev, which is distilled"):
            kind_of_checkpoint(file, False)
    else:
        assert kind_of_checkpoint(file, False).settings == settings


def test_prompts_of_unlike_length_are_filled_up_and_taken_apart() -> None:
    rows = [torch.full((length, 2), float(length)) for length in (3, 1)]
    embeds = PromptEmbeds.of(rows)
    assert embeds.tokens.shape == (2, 3, 2)
    assert embeds.mask is not None
    assert embeds.mask.tolist() == [[True] * 3, [True, False, False]]
    for found, expected in zip(PromptEmbeds.cat([embeds, embeds]).each(), rows * 2, strict=True):
        assert torch.equal(found, expected)
    alone = embeds.rows(torch.tensor([1]))
    assert alone.lengths is None
    assert torch.equal(alone.tokens[0], rows[1])
