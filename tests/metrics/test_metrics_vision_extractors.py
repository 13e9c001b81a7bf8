"""CSD and DINOv2, on tiny models in the layouts of their checkpoints."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil, Dinov2Config, Dinov2Model

from nsync_pipeline.errors import EvaluationError
from nsync_pipeline.metrics.extractor import ClipExtractor, Preprocessing
from nsync_pipeline.metrics.features import (
    OPENAI_DEVIATION,
    OPENAI_MEAN,
    load_clip,
    load_extractor,
)
from tests.support.tiny_clip import DEVIATION, MEAN, TINY_SIDE, save_tiny_clip

WIDTH, PATCH, LAYERS, HIDDEN, STYLES = 128, 4, 2, 32, 6
"""Two heads of 64, as OpenAI's transformers have them."""


def csd_state(seed: int = 0) -> dict[str, Tensor]:
    """A CSD checkpoint with OpenAI's names."""
    generator = torch.Generator().manual_seed(seed)

    def weight(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.2

    state = {
        "backbone.class_embedding": weight(WIDTH),
        "backbone.positional_embedding": weight((TINY_SIDE // PATCH) ** 2 + 1, WIDTH),
        "backbone.conv1.weight": weight(WIDTH, 3, PATCH, PATCH),
        "last_layer_style": weight(WIDTH, STYLES),
        "last_layer_content": weight(WIDTH, STYLES),
    }
    for norm in ("ln_pre", "ln_post"):
        state |= {
            f"backbone.{norm}.weight": 1 + weight(WIDTH),
            f"backbone.{norm}.bias": weight(WIDTH),
        }
    for layer in range(LAYERS):
        place = f"backbone.transformer.resblocks.{layer}"
        state |= {
            f"{place}.attn.in_proj_weight": weight(3 * WIDTH, WIDTH),
            f"{place}.attn.in_proj_bias": weight(3 * WIDTH),
            f"{place}.attn.out_proj.weight": weight(WIDTH, WIDTH),
            f"{place}.attn.out_proj.bias": weight(WIDTH),
            f"{place}.mlp.c_fc.weight": weight(HIDDEN, WIDTH),
            f"{place}.mlp.c_fc.bias": weight(HIDDEN),
            f"{place}.mlp.c_proj.weight": weight(WIDTH, HIDDEN),
            f"{place}.mlp.c_proj.bias": weight(WIDTH),
        }
        for norm in ("ln_1", "ln_2"):
            state |= {
                f"{place}.{norm}.weight": 1 + weight(WIDTH),
                f"{place}.{norm}.bias": weight(WIDTH),
            }
    return state


def by_hand(state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """OpenAI's vision transformer written out, and the style projection: (B, STYLES)."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"])

    patches = F.conv2d(pixels, state["backbone.conv1.weight"], stride=PATCH).flatten(2).mT
    first = state["backbone.class_embedding"].expand(len(pixels), 1, WIDTH)
    x = torch.cat([first, patches], dim=1) + state["backbone.positional_embedding"]
    x = norm(x, "backbone.ln_pre")
    for layer in range(LAYERS):
        place = f"backbone.transformer.resblocks.{layer}"
        inner = norm(x, f"{place}.ln_1")
        qkv = inner @ state[f"{place}.attn.in_proj_weight"].mT + state[f"{place}.attn.in_proj_bias"]
        q, k, v = (part.unflatten(2, (2, 64)).transpose(1, 2) for part in qkv.chunk(3, dim=2))
        attended = (q @ k.mT / math.sqrt(64)).softmax(dim=-1) @ v
        joined = attended.transpose(1, 2).flatten(2)
        x = x + F.linear(
            joined, state[f"{place}.attn.out_proj.weight"], state[f"{place}.attn.out_proj.bias"]
        )
        inner = norm(x, f"{place}.ln_2")
        hidden = F.linear(inner, state[f"{place}.mlp.c_fc.weight"], state[f"{place}.mlp.c_fc.bias"])
        hidden = hidden * torch.sigmoid(1.702 * hidden)  # QuickGELU
        x = x + F.linear(
            hidden, state[f"{place}.mlp.c_proj.weight"], state[f"{place}.mlp.c_proj.bias"]
        )
    return norm(x[:, 0], "backbone.ln_post") @ state["last_layer_style"]


def saved(folder: Path, state: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors")
    return folder


def images(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    shape = (TINY_SIDE, TINY_SIDE, 3)
    return [Image.fromarray(rng.integers(0, 256, shape, np.uint8)) for _ in range(count)]


def test_csd_is_openais_transformer_and_the_style_projection(tmp_path: Path) -> None:
    state = csd_state()
    extractor = load_extractor(str(saved(tmp_path, state)), None, Path(), "cpu")
    assert not isinstance(extractor, ClipExtractor)
    assert isinstance(extractor.preprocessing, Preprocessing)
    assert extractor.preprocessing.side == TINY_SIDE
    pixels = torch.stack([extractor.preprocessing.pixels(image) for image in images(3)])
    expected = by_hand(state, pixels).numpy()
    np.testing.assert_allclose(extractor.plain_features(images(3), 2), expected, atol=1e-4)
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(extractor.image_features(images(3), 2), unit, atol=1e-5)


def test_csd_weights_saved_from_several_processes_are_the_same(tmp_path: Path) -> None:
    plain = load_extractor(str(saved(tmp_path / "a", csd_state())), None, Path(), "cpu")
    wrapped = {f"module.{key}": tensor for key, tensor in csd_state().items()}
    other = load_extractor(str(saved(tmp_path / "c", wrapped)), None, Path(), "cpu")
    np.testing.assert_array_equal(
        plain.plain_features(images(2), 2), other.plain_features(images(2), 2)
    )


@pytest.mark.parametrize("fault", ["missing", "extra"])
def test_a_csd_weight_out_of_place_is_refused(tmp_path: Path, fault: str) -> None:
    state = csd_state()
    if fault == "missing":
        del state["backbone.transformer.resblocks.1.mlp.c_fc.bias"]
    else:
        state["backbone.proj"] = torch.zeros(2, 2)
    with pytest.raises(EvaluationError, match=r"mlp\.fc1\.bias|backbone\.proj"):
        load_extractor(str(saved(tmp_path, state)), None, Path(), "cpu")


def test_weights_that_do_not_say_what_they_are_are_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="CSD"):
        load_extractor(str(saved(tmp_path, {"x": torch.zeros(1)})), None, Path(), "cpu")


def test_dinov2_is_transformers_own_pooled_output(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=TINY_SIDE,
        patch_size=4,
    )
    model = Dinov2Model(config).eval()
    model.save_pretrained(tmp_path)
    preprocessing = {
        "crop_size": {"height": TINY_SIDE, "width": TINY_SIDE},
        "size": {"shortest_edge": 20}, "image_mean": MEAN, "image_std": DEVIATION,
    }  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    extractor = load_extractor(str(tmp_path), None, Path(), "cpu")
    assert not isinstance(extractor, ClipExtractor)
    assert isinstance(extractor.preprocessing, Preprocessing)
    assert (extractor.preprocessing.side, extractor.preprocessing.resize) == (TINY_SIDE, 20)
    pixels = torch.stack([extractor.preprocessing.pixels(image) for image in images(3)])
    with torch.no_grad():
        expected = model(pixel_values=pixels).last_hidden_state[:, 0]
    np.testing.assert_allclose(extractor.plain_features(images(3), 2), expected, atol=1e-5)


def test_features_do_not_depend_on_what_else_there_is(tmp_path: Path) -> None:
    """The last batch is filled up: alone or among others, a picture's features are the same."""
    extractor = load_extractor(str(saved(tmp_path, csd_state())), None, Path(), "cpu")
    together, alone = extractor.plain_features(images(5), 4), extractor.plain_features(images(1), 4)
    np.testing.assert_array_equal(together[:1], alone)


def test_captions_need_a_clip(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="pictures only"):
        load_clip(str(saved(tmp_path, csd_state())), None, Path(), "cpu")
    assert load_clip(str(save_tiny_clip(tmp_path / "clip")), None, Path(), "cpu")


ODD_SIZES = [(640, 427), (427, 640), (333, 500), (501, 499), (37, 91), (224, 224), (225, 224)]


@pytest.mark.parametrize("size", ODD_SIZES)
@pytest.mark.parametrize(("side", "resize"), [(224, 224), (224, 256), (16, 19)])
def test_pictures_are_cut_as_transformers_cuts_them(
    size: tuple[int, int], side: int, resize: int
) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
    theirs = CLIPImageProcessorPil(
        size={"shortest_edge": resize}, crop_size={"height": side, "width": side}
    )
    expected = theirs(image, return_tensors="pt")["pixel_values"][0]
    ours = Preprocessing(side, resize, tuple(OPENAI_MEAN), tuple(OPENAI_DEVIATION)).pixels(image)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "left"),
    # 224 * 640 / 427 = 335.7, cut down to 335; (335 - 224) / 2 = 55.5, to even 56; then 107.5, 108.
    [((640, 427), 56), ((427, 427), 0), ((878, 448), 108)],
)
def test_csd_cuts_as_torchvision_does(size: tuple[int, int], left: int) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
    width = 224 * size[0] // size[1]
    square = image.resize((width, 224), Image.Resampling.BICUBIC).crop((left, 0, left + 224, 224))
    plain = (0.0,) * 3, (1.0,) * 3
    ours = Preprocessing(224, 224, *plain, halves_to_even=True).pixels(image)
    expected = torch.from_numpy(np.asarray(square, np.float32) / 255).permute(2, 0, 1)
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def test_csd_is_given_what_its_own_code_gives(tmp_path: Path) -> None:
    extractor = load_extractor(str(saved(tmp_path, csd_state())), None, Path(), "cpu")
    assert isinstance(extractor.preprocessing, Preprocessing)
    assert extractor.preprocessing.halves_to_even
