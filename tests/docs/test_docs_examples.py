"""The settings in docs/examples: whole, valid, and fit for the family they are for."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    Krea2Transformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    ZImageTransformer2DModel,
)
from PIL import Image
from ruamel.yaml import YAML

from benchmarks.true_size import KLEIN, SD3, SD15, XL
from nsync_pipeline.add_style import NewStyle, add_style
from nsync_pipeline.doctor.base_shapes import BaseShapes, Component
from nsync_pipeline.doctor.memory import _needs_most
from nsync_pipeline.drawing.schedulers import build_scheduler
from nsync_pipeline.families.config import FamilyName
from nsync_pipeline.families.loading import FAMILIES, load_family
from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.graph.dvc import check_dvc_file, sync_dvc_file
from nsync_pipeline.params import parse_params, read_params
from nsync_pipeline.training import stage as training
from nsync_pipeline.training.config import TrainingSettings
from nsync_pipeline.workspace import LORA_FILE, Workspace
from tests.support.contexts import stage_context
from tests.support.tiny_flow_models import PIPELINES, save_tiny_flow_model, save_tiny_flux_1
from tests.support.tiny_models import (
    save_tiny_stable_diffusion,
    save_tiny_stable_diffusion_3,
    save_tiny_stable_diffusion_xl,
)
from tests.support.tiny_style import STYLE, write_tiny_style

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.yaml"))
COMMIT = re.compile(r"[0-9a-f]{40}")
TINY: dict[str, Callable[[Path], Path]] = {
    "stable_diffusion_1_5": save_tiny_stable_diffusion,
    "stable_diffusion_2_1": lambda folder: save_tiny_stable_diffusion(folder, "v_prediction"),
    "stable_diffusion_xl": save_tiny_stable_diffusion_xl,
    "stable_diffusion_3": save_tiny_stable_diffusion_3,
    "flux_1": save_tiny_flux_1,
    **{name: partial(save_tiny_flow_model, family=name) for name in PIPELINES},
}

each_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)


def content_of(example: Path) -> Any:
    return YAML(typ="safe", pure=True).load(example.read_text(encoding="utf-8"))


def test_there_is_one_for_each_model_that_the_page_lists() -> None:
    page = (ROOT / "docs" / "examples" / "README.md").read_text(encoding="utf-8")
    assert {example.stem for example in EXAMPLES} == set(TINY)
    assert set(re.findall(r"\]\((\w+\.yaml)\)", page)) == {example.name for example in EXAMPLES}


@each_example
def test_it_is_valid_and_every_model_is_pinned(example: Path) -> None:
    params = read_params(example)
    captioner = params.captioning.model
    assert captioner is not None
    pinned = [
        captioner.revision,
        params.evaluation.extractor_revision,
        params.training.watch.extractor_revision,
    ]
    if example.stem in PIPELINES:  # of these no public project pins a commit
        assert params.base_model.revision is None
    else:
        pinned.append(params.base_model.revision)
    assert all(revision and COMMIT.fullmatch(revision) for revision in pinned)


@each_example
def test_it_stands_in_for_the_shipped_settings(example: Path, tmp_path: Path) -> None:
    """Every key that DVC tracks is there."""
    shutil.copy(example, tmp_path / "params.yaml")
    workspace = Workspace(tmp_path)

    said = sync_dvc_file(workspace)

    assert not [line for line in said if line.startswith("params.yaml")]
    check_dvc_file(Graph.read(workspace))
    assert (tmp_path / "params.yaml").read_bytes() == example.read_bytes()


def test_pictures_come_in_as_the_page_says(tmp_path: Path) -> None:
    """Into the entry that is there, without a caption, because there is a captioner."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        Image.effect_noise((800, 800), 30 + 20 * number).convert("RGB").save(
            pictures / f"{number}.png"
        )
    workspace = Workspace(tmp_path / "workspace")
    workspace.root.mkdir()
    shutil.copy(EXAMPLES[0], workspace.params_file)
    added = add_style(workspace, NewStyle("monet", str(pictures)), lambda *told: None)

    assert added.copied == 3
    assert added.described_by == "OpenGVLab/InternVL3-1B-hf"
    assert workspace.params_file.read_bytes() == EXAMPLES[0].read_bytes()


CLIP_L, CLIP_G, T5, CLIP_H, QWEN3 = 123e6, 695e6, 4762e6, 340e6, 4022e6
LATER_VAE, QWEN_VAE = 84e6, 127e6
SD21: dict[str, Any] = {
    "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}  # fmt: skip
FLUX_1 = {"guidance_embeds": True}
SIZES: dict[str, tuple[FamilyName, Any, dict[str, Any], tuple[float, ...], float]] = {
    "stable_diffusion_1_5": ("stable_diffusion", UNet2DConditionModel, SD15, (CLIP_L,), LATER_VAE),
    "stable_diffusion_2_1": ("stable_diffusion", UNet2DConditionModel, SD21, (CLIP_H,), LATER_VAE),
    "stable_diffusion_xl": (
        "stable_diffusion_xl", UNet2DConditionModel, XL, (CLIP_L, CLIP_G), LATER_VAE
    ),
    "stable_diffusion_3": (
        "stable_diffusion_3", SD3Transformer2DModel, SD3, (CLIP_L, CLIP_G, T5), LATER_VAE
    ),
    "z_image": ("z_image", ZImageTransformer2DModel, {}, (QWEN3,), LATER_VAE),
    "flux_1": ("flux_1", FluxTransformer2DModel, FLUX_1, (CLIP_L, T5), LATER_VAE),
    "flux_2_klein": ("flux_2_klein", Flux2Transformer2DModel, KLEIN, (QWEN3,), LATER_VAE),
    "qwen_image": ("qwen_image", QwenImageTransformer2DModel, {}, (8292e6,), QWEN_VAE),
    "krea_2": ("krea_2", Krea2Transformer2DModel, {}, (4438e6,), QWEN_VAE),
}  # fmt: skip
"""Of each example the denoiser at its true size, and how many weights its encoders and VAE have."""


@each_example
def test_the_memory_that_the_page_tells_is_the_doctors_estimate(example: Path) -> None:
    family, kind, settings, encoders, vae = SIZES[example.stem]
    with torch.device("meta"):
        denoiser = kind(**settings)
    shapes = {name: tuple(weight.shape) for name, weight in denoiser.named_parameters()}
    others = {"text_encoder" + (f"_{i + 1}" if i else ""): n for i, n in enumerate(encoders)}
    sizes = {"denoiser": shapes} | {
        name: {"weight": (int(count),)} for name, count in (others | {"vae": vae}).items()
    }
    components = tuple(Component(name, of) for name, of in sizes.items())
    latent = 16 if family == "flux_2_klein" else 8
    params = read_params(example)
    side = {"stable_diffusion_1_5": 512, "stable_diffusion_2_1": 768}.get(example.stem, 1024)
    base = BaseShapes(family, components, side, latent, FAMILIES[family])
    _, estimated, asked = _needs_most(params, base, 2, params.base_model.quantization)
    assert estimated.branches == 2
    at_once = round(estimated.peak(asked) / 2**30)
    in_turn = round(estimated.peak(replace(asked, in_one_pass=False)) / 2**30)
    told = f"{in_turn} GiB"
    if at_once != in_turn:
        told += f" a branch at a time, {at_once} in one pass"
    page = (ROOT / "docs" / "examples" / "README.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| [{example.name}]"))
    assert row.split("|")[-2].strip() == told


AUTHORS = ROOT / "docs" / "examples" / "nsync_authors" / "params.yaml"


def test_the_authors_setup_is_what_is_said_of_it(tmp_path: Path) -> None:
    params = read_params(AUTHORS)
    for name in params.variants:
        own = params.variant(name)
        assert (own.lora, own.textual_inversion and own.textual_inversion.vectors) == (None, 1)
        assert (own.learning_rate, own.schedule, own.warmup_steps) == (1e-3, "constant", 0)
        assert (own.steps, own.batch_size, own.embedding_weight_decay) == (8000, 2, 0.01)
        assert (own.resize, own.random_flip) == ("stretch", "each")
    assert params.negative_set.resolution == 256
    assert not params.base_model.aspect_buckets
    rules = {name: params.variant(name).update_rule for name in params.variants}
    assert (rules["plain"], rules["nsync"]) == ("none", "orthogonal")
    assert {rule for name, rule in rules.items() if "released" in name} == {"released"}
    test_it_stands_in_for_the_shipped_settings(AUTHORS, tmp_path)


@each_example
def test_its_family_trains_and_draws_with_it(example: Path, tmp_path: Path) -> None:
    """On a tiny model of the family, two steps of the last variant, and without the watch."""
    content = content_of(example)
    base = TINY[example.stem](tmp_path / "base")
    content["base_model"] |= {"name": str(base), "revision": None, "device": "cpu"}
    content["base_model"] |= {"resolution": 32, "quantization": None}
    content["styles"] = {STYLE: content["styles"]["monet"]}
    content["training"] |= {"steps": 2, "watch": {"every": 0}}
    params = parse_params(content)
    workspace = Workspace(tmp_path / "workspace")
    family = load_family(params.base_model)
    write_tiny_style(workspace, family.revision)
    for sampler in (params.negative_set.sampler, params.generation.sampler):
        assert build_scheduler(family, sampler).timesteps is not None

    training.run(stage_context(TrainingSettings, workspace, params, STYLE, "nsync_every_4"))
    assert (workspace.model(STYLE, "nsync_every_4", 0) / LORA_FILE).is_file()
