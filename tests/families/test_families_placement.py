"""Devices, number types, offloading, slices and tiles, and the compiler."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional as F

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import ADAPTER
from nsync_pipeline.adaptation.trainables import add_trainables
from nsync_pipeline.contrast.branch_copies import BranchCopies
from nsync_pipeline.contrast.branch_gradients import MicroBatch, gradients_fused, gradients_in_turn
from nsync_pipeline.contrast.config import NEGATIVE, POSITIVE
from nsync_pipeline.drawing.config import SamplerConfig
from nsync_pipeline.drawing.picture_store import picture_key
from nsync_pipeline.drawing.sampling import PictureRequest
from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families import placement as compiled
from nsync_pipeline.families.autoencoders import Autoencoder
from nsync_pipeline.families.config import BaseModelConfig, MemoryConfig
from nsync_pipeline.families.loading import find_base, load_family
from nsync_pipeline.families.pipeline_folder import find_pipeline
from nsync_pipeline.families.placement import Placement, choose_dtype
from tests.support.tiny_models import (
    save_tiny_stable_diffusion,
    save_tiny_stable_diffusion_3,
    save_tiny_stable_diffusion_xl,
)

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {
        "sd": save_tiny_stable_diffusion(folder / "sd"),
        "xl": save_tiny_stable_diffusion_xl(folder / "xl"),
        "sd3": save_tiny_stable_diffusion_3(folder / "sd3"),
    }


def loaded(base: Path, **changes: object) -> Any:
    return load_family(BaseModelConfig(name=str(base), device="cpu", **changes))  # type: ignore[arg-type]


def predicted(family: Any) -> Tensor:
    latents = torch.randn(2, *family.latent_shape, generator=torch.Generator().manual_seed(1))
    timesteps = family.noise_schedule.timesteps[[10, 900]]
    embeds = family.encode_prompts(["a tree", "a red house"])
    with torch.no_grad():
        output: Tensor = family.predict(latents, timesteps, embeds)
    return output


@pytest.mark.parametrize("base", ["sd", "xl", "sd3"])
def test_float64_is_float64_from_end_to_end(base: str, bases: dict[str, Path]) -> None:
    """And near what float32 says; float64 is only for the CPU."""
    family, single = loaded(bases[base], dtype="float64"), loaded(bases[base])
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for wide, narrow in (
        (family.encode_pictures(pixels), single.encode_pictures(pixels)),
        (family.encode_prompts(["a"]).tokens, single.encode_prompts(["a"]).tokens),
        (predicted(family), predicted(single)),
    ):
        assert (wide.dtype, narrow.dtype) == (torch.float64, torch.float32)
        torch.testing.assert_close(wide.float(), narrow, rtol=1e-3, atol=1e-4)
    with pytest.raises(BaseModelError, match="float64 is for the CPU, and the model goes to cuda"):
        choose_dtype("float64", torch.device("cuda"))


@pytest.mark.parametrize("base", ["sd", "xl", "sd3"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_the_denoisers_alone(
    base: str, dtype: str, bases: dict[str, Path]
) -> None:
    """And T5's, which is too large for more. What comes out is float32, and about the same."""
    family = loaded(bases[base], dtype=dtype)
    assert next(family.denoiser.parameters()).dtype == getattr(torch, dtype) == family.dtype
    halves = [next(e.parameters()).dtype == family.dtype for e in family.text_encoders]
    assert halves == {"sd": [False], "xl": [False] * 2, "sd3": [False, False, True]}[base]
    assert next(family.vae.parameters()).dtype == torch.float32
    rough, fine = predicted(family), predicted(loaded(bases[base]))
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, fine, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("base", ["sd", "xl", "sd3"])
def test_offloaded_models_are_moved_for_each_use_and_away_again(
    base: str, bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one device here: the moves are counted."""
    moves: list[tuple[str, str]] = []
    own = nn.Module.to

    def counted(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        moves.append((type(self).__name__, str(args[0])))
        return own(self, "cpu")

    family_class, folder = find_base(BaseModelConfig(name=str(bases[base])))
    family: Any = family_class(folder, None, Placement(CPU, torch.float32, offload=True))
    monkeypatch.setattr(nn.Module, "to", counted)
    object.__setattr__(family._placement, "device", torch.device("cpu", 0))
    family.encode_prompts(["a tree"])
    encoders = [type(encoder).__name__ for encoder in family.text_encoders]
    assert moves == [(name, place) for name in encoders for place in ("cpu:0", "cpu")]
    moves.clear()
    latents = family.encode_pictures(torch.zeros(1, 3, 32, 32))
    family.decode_latents(latents)
    assert moves == [("AutoencoderKL", "cpu:0"), ("AutoencoderKL", "cpu")] * 2
    moves.clear()
    predicted_at = family.noise_schedule.timesteps[:1]
    family.predict(latents, predicted_at, family.encode_prompts(["a tree"]))
    assert all(name in encoders for name, _ in moves)  # the denoiser stays where it is


def test_a_trained_model_is_not_moved_away() -> None:
    model = nn.Linear(2, 2)
    with Placement(META, torch.float32, offload=True).in_use(model):
        assert model.weight.is_meta
    assert model.weight.is_meta  # its gradients and its optimizer's state are there
    frozen = nn.Linear(2, 2).requires_grad_(False)
    with Placement(META, torch.float32).in_use(frozen):
        assert frozen.weight.device == CPU  # nothing is offloaded: nothing moves


def test_the_vae_slices_large_pictures_unless_it_is_told(bases: dict[str, Path]) -> None:
    assert not loaded(bases["sd"]).vae.use_slicing
    assert loaded(bases["sd"], resolution=512).vae.use_slicing
    small = loaded(bases["sd"], memory=MemoryConfig(vae_slicing=True))
    assert small.vae.use_slicing
    assert not small.vae.use_tiling
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    whole = loaded(bases["sd"])
    latents = whole.encode_pictures(pixels)
    torch.testing.assert_close(small.encode_pictures(pixels), latents)
    torch.testing.assert_close(small.decode_latents(latents), whole.decode_latents(latents))
    assert not loaded(
        bases["sd"], resolution=512, memory=MemoryConfig(vae_slicing=False)
    ).vae.use_slicing


def test_the_vae_takes_tiles_where_it_is_told(bases: dict[str, Path]) -> None:
    """Of the size it was trained at; a picture of four tiles is about the same as a whole one."""
    tiled = loaded(bases["sd"], memory=MemoryConfig(vae_tiling=True))
    assert isinstance(tiled.vae, AutoencoderKL)
    assert tiled.vae.use_tiling
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    whole = loaded(bases["sd"]).decode_latents(latents)
    parts = tiled.decode_latents(latents)
    assert parts.shape == whole.shape
    assert not torch.equal(parts, whole)
    assert float((parts - whole).abs().mean()) < 0.1


def test_latents_of_their_own_normalisation_are_refused(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bases["sd"], tmp_path / "copy"))
    settings = copy / "vae" / "config.json"
    config = json.loads(settings.read_text()) | {"latents_mean": [0.0] * 4}
    settings.write_text(json.dumps(config))
    folder = find_pipeline(BaseModelConfig(name=str(copy)))
    with pytest.raises(BaseModelError, match="normalised a channel"):
        Autoencoder(folder, Placement(CPU, torch.float32))


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.second(F.silu(self.first(x)))
        return found


def test_copies_a_branch_go_through_the_inductor() -> None:
    """The same gradients as uncompiled, in a second step with other weights, too."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = TwoLayers().requires_grad_(False)
    config = LoraConfig(r=2, target_modules=["first", "second"], init_lora_weights=False)
    inject_adapter_in_model(config, model, ADAPTER)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    numbers: list[Tensor] = list(weights)
    inputs = torch.randn(6, 8)

    def losses(branches: Any) -> Tensor:
        found: Tensor = model(inputs).square().mean(dim=1)
        return found.view(len(branches), -1).mean(dim=1)

    branches, parts = (POSITIVE, NEGATIVE), [MicroBatch(losses, 1.0)]
    plain = BranchCopies([model], weights, ADAPTER)
    expected = [gradients_fused(plain, branches, parts)]
    with torch.no_grad():
        torch._foreach_mul_(numbers, 1.5)
    expected.append(gradients_fused(plain, branches, parts))
    with torch.no_grad():
        torch._foreach_div_(numbers, 1.5)
    model.compile(backend="inductor")
    copies = BranchCopies([model], weights, ADAPTER)
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    for step in expected:
        found = gradients_fused(copies, branches, parts)
        for branch in branches:
            torch.testing.assert_close(found.gradients[branch], step.gradients[branch])
        with torch.no_grad():
            torch._foreach_mul_(numbers, 1.5)
    assert graphs["unique_graphs"] == before + 1


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """torch's compiler without its slow last step; how many graphs it has traced."""
    torch._dynamo.reset()
    graphs: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    monkeypatch.setattr(compiled, "BACKEND", backend)
    return graphs


def test_a_compiled_denoiser_trains_compiled_in_turn_and_fused(
    bases: dict[str, Path], traced: list[int]
) -> None:
    """With a LoRA put on after it was compiled; a step later, nothing is compiled again."""
    family, plain = loaded(bases["sd"], compile=True), loaded(bases["sd"])
    torch.testing.assert_close(predicted(family), predicted(plain))
    names = [name for name, _ in family.denoiser.named_parameters()]
    assert names == [name for name, _ in plain.denoiser.named_parameters()]
    compiled_plain = len(traced)
    assert compiled_plain > 0
    trained = add_trainables(family, LoraSettings(rank=2), None, torch.Generator().manual_seed(1))
    embeds = family.encode_prompts(["a tree"])

    def losses(branches: Any) -> Tensor:
        latents = torch.linspace(-1, 1, 4 * 8 * 8).view(1, 4, 8, 8).repeat(len(branches), 1, 1, 1)
        rows = embeds.rows(torch.zeros(len(branches), dtype=torch.int64))
        output = family.predict(latents, torch.full((len(branches),), 500), rows)
        return output.square().flatten(1).mean(dim=1)

    parts = [MicroBatch(losses, share=1.0)]
    branches = (POSITIVE, NEGATIVE)
    in_turn = gradients_in_turn(trained.weights, branches, parts)
    graphs = len(traced)
    assert graphs > compiled_plain
    copies = BranchCopies([family.denoiser], trained.weights, ADAPTER)
    fused = gradients_fused(copies, branches, parts)
    of_both = len(traced)
    assert of_both > graphs
    with torch.no_grad():
        for weight in trained.weights:
            weight.mul_(1.5)
    moved = gradients_fused(copies, branches, parts)
    with torch.no_grad():
        for weight in trained.weights:
            weight.div_(1.5)
    two = zip(moved.gradients[POSITIVE], fused.gradients[POSITIVE], strict=True)
    assert not all(torch.equal(a, b) for a, b in two)
    gradients_in_turn(trained.weights, branches, parts)
    assert len(traced) == of_both
    for branch in branches:
        for ours, theirs in zip(fused.gradients[branch], in_turn.gradients[branch], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_what_cannot_be_compiled_runs_as_it_is(
    bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch._dynamo.reset()

    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("there is no compiler here")

    monkeypatch.setattr(compiled, "BACKEND", broken)
    expected = predicted(loaded(bases["sd"]))
    with caplog.at_level(logging.WARNING, "nsync_pipeline"):
        torch.testing.assert_close(predicted(loaded(bases["sd"], compile=True)), expected)
    assert "runs as it is: there is no compiler here" in caplog.text


def test_what_is_drawn_in_tiles_is_not_taken_for_what_is_not(bases: dict[str, Path]) -> None:
    request = PictureRequest("a", "a tree", 1)
    keys = {
        picture_key(
            loaded(bases["sd"], memory=MemoryConfig(vae_tiling=tiling)),
            request, SamplerConfig(), None,
        )
        for tiling in (False, True)
    }  # fmt: skip
    assert len(keys) == 2
