"""What a training takes is told from headers and settings, before anything is loaded."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from nsync_pipeline.doctor import State
from nsync_pipeline.doctor.base_shapes import read_base, read_shapes
from nsync_pipeline.doctor.findings import base_model_finding
from nsync_pipeline.doctor.memory import (
    MemoryEstimate,
    Way,
    kept_bytes,
    lora_weights,
    memory_finding,
    ways_to_fit,
)
from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.latent_diffusion import UNET_LORA_TARGETS
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.params import Params, parse_params
from tests.support.original_layout import save_original_denoiser
from tests.support.tiny_flow_models import PIPELINES, save_tiny_flow_model
from tests.support.tiny_models import save_tiny_stable_diffusion_3, save_tiny_stable_diffusion_xl
from tests.support.tiny_style import tiny_family

GIB, MIB = 2**30, 2**20
SD15_UNET = {
    "sample_size": 64, "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
    "cross_attention_dim": 768, "attention_head_dim": 8,
}  # fmt: skip
SD15_COUNTS = {"unet": 859_520_964, "text_encoder": 123_060_480, "vae": 83_653_863}
"""Parameters of Stable Diffusion 1.5."""
SD15_KEPT = {2: 1215 * MIB, 4: 1834 * MIB}
"""What PyTorch saves for one sample at 512 pixels, by bytes a number: see ``activations``."""


def write_header(path: Path, model: nn.Module) -> None:
    """A safetensors file of which only the header is there."""
    entries = {
        name: {"dtype": "F32", "shape": list(weight.shape), "data_offsets": [0, 0]}
        for name, weight in model.state_dict().items()
    }
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The headers and settings of a Stable Diffusion 1.5 of true size; a megabyte of files."""
    folder = tmp_path_factory.mktemp("sd15")
    with torch.device("meta"):
        models: dict[str, Any] = {
            "unet": UNet2DConditionModel(**SD15_UNET),
            "text_encoder": CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=49408, hidden_size=768, intermediate_size=3072,
                    num_hidden_layers=12, num_attention_heads=12,
                )
            ),
            "vae": AutoencoderKL(
                block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
            ),
        }  # fmt: skip
    names = {"text_encoder": "model.safetensors"}
    for component, model in models.items():
        (folder / component).mkdir()
        settings = SD15_UNET if component == "unet" else {}
        settings = {"block_out_channels": [128, 256, 512, 512]} if component == "vae" else settings
        (folder / component / "config.json").write_text(json.dumps(settings))
        file = names.get(component, "diffusion_pytorch_model.safetensors")
        write_header(folder / component / file, model)
    index = {"_class_name": "StableDiffusionPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def params(
    base: Path | str, training: Any = None, rules: Iterable[str] = ("none",), **model: Any
) -> Params:
    return parse_params(
        {
            "base_model": {"name": str(base), "device": "cpu", **model},
            "styles": {"ink": {"source": "folder"}},
            "training": training or {},
            "variants": {rule: {"update_rule": rule} for rule in rules},
        }
    )


def test_the_true_sizes_of_stable_diffusion_1_5_are_read_from_headers(sd15: Path) -> None:
    base = read_base(BaseModelConfig(name=str(sd15)))

    assert base is not None
    counts = {component.name: component.parameters for component in base.components}
    assert counts == {
        "denoiser": SD15_COUNTS["unet"],
        "text_encoder": SD15_COUNTS["text_encoder"],
        "vae": SD15_COUNTS["vae"],
    }
    assert (base.resolution, base.pixels_per_latent) == (512, 8)


@pytest.mark.parametrize("number_bytes", [2, 4])
def test_the_rule_of_thumb_errs_on_the_safe_side_by_a_fifth_at_most(
    sd15: Path, number_bytes: int
) -> None:
    shapes = read_shapes(sd15 / "unet" / "diffusion_pytorch_model.safetensors")
    kept = kept_bytes(shapes, 64, UNET_LORA_TARGETS, number_bytes)

    assert SD15_KEPT[number_bytes] <= kept <= 1.2 * SD15_KEPT[number_bytes]


def test_four_times_the_pixels_keep_about_four_times_as_much(sd15: Path) -> None:
    shapes = read_shapes(sd15 / "unet" / "diffusion_pytorch_model.safetensors")
    small, large = (kept_bytes(shapes, side, UNET_LORA_TARGETS, 4) for side in (32, 64))

    assert 3.8 < large / small <= 4.0


def test_the_authors_names_of_the_blocks_are_levels_too() -> None:
    """Blocks 1 to 3 of the input are the first level, 4 to 6 the second; at 8 latents a side the
    second has 4 x 4 positions. Each layer has 2 + 3 channels; 1.1 * 5 numbers a position."""
    shapes = {
        "input_blocks.1.0.in_layers.2.weight": (3, 2, 3, 3),
        "input_blocks.5.0.in_layers.2.weight": (3, 2, 3, 3),
        "output_blocks.0.0.in_layers.2.weight": (3, 2, 3, 3),  # the deepest: second level
        "output_blocks.3.0.in_layers.2.weight": (3, 2, 3, 3),
    }
    assert kept_bytes(shapes, 8, (), 4) == round(1.1 * 5 * (64 + 16 + 16 + 64) * 4)


def test_lora_has_so_many_weights() -> None:
    """A linear layer of 3 to 5: 2 * (3 + 5) = 16; a 3 x 3 convolution of 4 to 6 channels:
    2 * (4 * 9 + 6) = 84."""
    shapes = {
        "a.to_q.weight": (5, 3), "a.to_q.bias": (5,), "b.conv1.weight": (6, 4, 3, 3),
        "b.other.weight": (7, 7), "not_to_q.weight": (9, 9),
    }  # fmt: skip
    assert lora_weights(shapes, ("to_q", "conv1"), rank=2) == 16 + 84


@pytest.mark.parametrize("family", ["stable_diffusion_xl", "stable_diffusion_3"])
def test_the_sizes_of_every_family_are_those_of_the_loaded_model(
    tmp_path: Path, family: str
) -> None:
    save = {
        "stable_diffusion_xl": save_tiny_stable_diffusion_xl,
        "stable_diffusion_3": save_tiny_stable_diffusion_3,
    }[family]
    config = BaseModelConfig(name=str(save(tmp_path / "base")), device="cpu")
    base, loaded = read_base(config), load_family(config)

    assert base is not None
    assert base.family == family
    read = {component.name: component.parameters for component in base.components}
    assert read["denoiser"] == sum(t.numel() for t in loaded.denoiser.state_dict().values())
    assert sum(name.startswith("text_encoder") for name in read) == len(loaded.text_encoders)
    assert base.resolution == loaded.resolution


def test_the_verdict_goes_from_one_pass_to_nothing_as_memory_shrinks(sd15: Path) -> None:
    """Weights: 4 * (860 + 123 + 84) M = 4.0 GiB, and 1 reserved; a sample keeps 1.83 GiB, twelve in
    one pass 22 GiB, four 7.3 GiB; with checkpointing a fifth of that."""
    settings = params(sd15, {"batch_size": 4}, ["none", "orthogonal_anchor"])
    told = {size: memory_finding(settings, size * GIB) for size in (32, 16, 8, 2)}

    assert told[32].state is State.OK
    assert told[32].found.endswith("fits in one pass")
    assert "1,066 M weights take 4.0 GiB" in told[32].found
    assert "training orthogonal_anchor at 512 px, batch size 4, 3 branches" in told[32].found
    assert "fits one branch at a time" in told[16].found
    assert "auto goes over to it by itself" in told[16].advice
    assert "training.gradient_checkpointing: true" in told[8].advice
    assert "does not fit, however frugal" in told[2].found
    assert {told[size].state for size in (16, 8, 2)} == {State.WARN}


def test_a_single_branch_is_not_told_to_take_turns(sd15: Path) -> None:
    finding = memory_finding(params(sd15, {"batch_size": 4}), 8 * GIB)

    assert "gradient_checkpointing" in finding.advice
    assert "in_turn" not in finding.advice


def test_half_the_bytes_a_number_take_half_the_memory_of_the_denoiser(sd15: Path) -> None:
    whole, half = (
        memory_finding(params(sd15, dtype=dtype), 100 * GIB).found
        for dtype in ("float32", "bfloat16")
    )
    assert "take 4.0 GiB" in whole
    assert "take 2.4 GiB" in half  # 1.6 less


def test_each_step_to_less_memory_takes_less() -> None:
    made_up = MemoryEstimate(
        denoiser=100, text_encoders=(30, 10), vae=20, trained_weights=2, bytes_a_trained_weight=10,
        kept_a_sample=50, kept_a_prompt=1, branches=3, decoding=5,
    )  # fmt: skip
    ways = [
        Way(True, False, False, 4), Way(False, False, False, 4), Way(False, True, False, 4),
        Way(False, True, True, 4), Way(False, True, True, 1),
        Way(False, True, True, 1, quantized=True, waiting_blocks=True),
    ]  # fmt: skip
    peaks = [made_up.peak(way) - GIB for way in ways]
    # 120 resident, 60 others; 12, 4, 4, 4 and 1 samples of 51 (11 with checkpointing). With
    # offloading the others are away; with one sample, the largest text encoder counts. Quantized it
    # is already; of blocks that wait a tenth is there.
    assert peaks == [120 + 60 + 612, 120 + 60 + 204, 120 + 60 + 44, 120 + 44, 120 + 30, 30 + 30]
    for way, peak in zip(ways, peaks, strict=True):
        assert ways_to_fit(made_up, ways[0], peak + GIB) == way
    assert ways_to_fit(made_up, ways[0], peaks[-1] + GIB - 1) is None


def hub_snapshot(cache: Path, base: Path, commit: str) -> Path:
    """``base`` as the hub's client keeps a download of somebody/base."""
    repository = cache / "models--somebody--base"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    return Path(shutil.copytree(base, repository / "snapshots" / commit))


def test_a_downloaded_hub_model_is_read_where_it_is(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = BaseModelConfig(name="somebody/base", revision="b" * 40, device="cpu")
    assert read_base(config) is None
    assert "before somebody/base is on this" in memory_finding(params("somebody/base")).found

    snapshot = hub_snapshot(tmp_path, tiny_base, "b" * 40)
    assert read_base(config) is not None
    found = base_model_finding(config)
    assert (found.state, found.found) == (State.OK, f"somebody/base, revision {'b' * 40}")

    (snapshot / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    partly = base_model_finding(config)
    assert partly.state is State.WARN
    assert "only partly on this machine" in partly.found


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", (9).to_bytes(8, "little") + b"[1, 2, 3]"])
def test_a_file_without_a_header_is_told(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    with pytest.raises(BaseModelError, match="no safetensors header"):
        read_shapes(file)


def test_a_damaged_base_is_no_estimate(tmp_path: Path, tiny_base: Path) -> None:
    broken = Path(shutil.copytree(tiny_base, tmp_path / "broken"))
    (broken / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    finding = memory_finding(params(broken))

    assert finding.state is State.WARN
    assert "cannot be told" in finding.found


@pytest.mark.parametrize("name", list(PIPELINES))
def test_the_doctor_reads_families_with_a_language_model(name: str, tmp_path: Path) -> None:
    """Their parts, their own resolution, what a prompt is kept in, and what would make it fit."""
    folder = save_tiny_flow_model(tmp_path / name, name)
    base = read_base(BaseModelConfig(name=str(folder)))
    assert base is not None
    assert (base.family, base.resolution) == (name, 1024)
    assert {part.name for part in base.components} == {"denoiser", "text_encoder", "vae"}
    assert base.pixels_per_latent == tiny_family(folder).pixels_per_latent
    params = parse_params(
        {
            "base_model": {"name": str(folder), "device": "cpu"},
            "styles": {"ink": {"source": "folder"}},
            "variants": {"lora": {"update_rule": "none"}},
        }
    )
    finding = memory_finding(params, available=100 * GIB)
    assert finding.state is State.OK
    assert "denoiser in float32" in finding.found
    assert "a prompt is kept in up to" in finding.found
    short = memory_finding(params, available=int(1.02 * GIB))
    assert "does not fit" in short.found
    alone = save_original_denoiser(folder, tmp_path / "alone.safetensors")
    found = read_base(BaseModelConfig(name=str(alone), config=str(folder)))
    assert found is not None
    assert {part.name for part in found.components} == {"denoiser", "text_encoder", "vae"}


def test_a_denoiser_in_8_bits_is_proposed_before_blocks_that_wait() -> None:
    """10 GiB of weights, 5 in 8 bits, and a tenth of those where blocks wait."""
    estimated = MemoryEstimate(10 * GIB, (), 0, 0, 0, GIB, 0, 1, 0, in_8_bits=5 * GIB)
    asked = Way(False, True, True, 1)
    assert ways_to_fit(estimated, asked, 8 * GIB) == Way(False, True, True, 1, quantized=True)
    both = Way(False, True, True, 1, quantized=True, waiting_blocks=True)
    assert ways_to_fit(estimated, asked, 2 * GIB) == both
