"""FID's Inception-v3, with random weights in the layout of its checkpoint."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from nsync_pipeline.errors import EvaluationError
from nsync_pipeline.metrics.extractor import Extractor
from nsync_pipeline.metrics.inception import (
    InceptionPixels,
    InceptionV3,
    load_inception,
)

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """Weights that keep the size of what goes through."""
    generator = torch.Generator().manual_seed(0)
    model = InceptionV3()
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 4:
            tensor.normal_(std=math.sqrt(2 / tensor[0].numel()), generator=generator)
        elif name.endswith(("running_var", "bn.weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(std=0.1, generator=generator)
    return {key: t for key, t in model.state_dict().items() if t.is_floating_point()}


@pytest.fixture(scope="module")
def file(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    save_file(state, path)
    return path


@pytest.fixture(scope="module")
def extractor(file: Path) -> Extractor:
    return loaded(file)


def loaded(place: Path) -> Extractor:
    return load_inception(str(place), None, Path(), "cpu")


def images(count: int, side: int = 64) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)) for _ in range(count)]


def by_hand(state: State, pixels: Tensor) -> Tensor:
    """The network written out, by its checkpoint's names: (B, 2048)."""

    def conv(x: Tensor, name: str, stride: int = 1, pad: int | tuple[int, int] = 0) -> Tensor:
        y = F.conv2d(x, state[f"{name}.conv.weight"], stride=stride, padding=pad)
        norm = {
            key: state[f"{name}.bn.{key}"].view(-1, 1, 1)
            for key in ("weight", "bias", "running_mean", "running_var")
        }
        scaled = (y - norm["running_mean"]) / torch.sqrt(norm["running_var"] + 0.001)
        return torch.relu(scaled * norm["weight"] + norm["bias"])

    def mean(x: Tensor) -> Tensor:
        """Of the pixels that there are: the sum of nine over how many of them are no padding."""
        ones = torch.ones_like(x)
        return F.avg_pool2d(x, 3, 1, 1) / F.avg_pool2d(ones, 3, 1, 1)

    x = conv(pixels, "Conv2d_1a_3x3", 2)
    x = conv(conv(x, "Conv2d_2a_3x3"), "Conv2d_2b_3x3", pad=1)
    x = conv(F.max_pool2d(x, 3, 2), "Conv2d_3b_1x1")
    x = F.max_pool2d(conv(x, "Conv2d_4a_3x3"), 3, 2)
    assert x.shape[1:] == (192, 35, 35)
    for m in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        five = conv(conv(x, f"{m}.branch5x5_1"), f"{m}.branch5x5_2", pad=2)
        three = conv(conv(x, f"{m}.branch3x3dbl_1"), f"{m}.branch3x3dbl_2", pad=1)
        three = conv(three, f"{m}.branch3x3dbl_3", pad=1)
        pool = conv(mean(x), f"{m}.branch_pool")
        x = torch.cat([conv(x, f"{m}.branch1x1"), five, three, pool], dim=1)
    assert x.shape[1:] == (288, 35, 35)
    m = "Mixed_6a"
    three = conv(conv(x, f"{m}.branch3x3dbl_1"), f"{m}.branch3x3dbl_2", pad=1)
    three = conv(three, f"{m}.branch3x3dbl_3", 2)
    x = torch.cat([conv(x, f"{m}.branch3x3", 2), three, F.max_pool2d(x, 3, 2)], dim=1)
    assert x.shape[1:] == (768, 17, 17)
    for m in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        seven = conv(conv(x, f"{m}.branch7x7_1"), f"{m}.branch7x7_2", pad=(0, 3))
        seven = conv(seven, f"{m}.branch7x7_3", pad=(3, 0))
        twice = conv(conv(x, f"{m}.branch7x7dbl_1"), f"{m}.branch7x7dbl_2", pad=(3, 0))
        twice = conv(twice, f"{m}.branch7x7dbl_3", pad=(0, 3))
        twice = conv(twice, f"{m}.branch7x7dbl_4", pad=(3, 0))
        twice = conv(twice, f"{m}.branch7x7dbl_5", pad=(0, 3))
        pool = conv(mean(x), f"{m}.branch_pool")
        x = torch.cat([conv(x, f"{m}.branch1x1"), seven, twice, pool], dim=1)
    m = "Mixed_7a"
    three = conv(conv(x, f"{m}.branch3x3_1"), f"{m}.branch3x3_2", 2)
    seven = conv(conv(x, f"{m}.branch7x7x3_1"), f"{m}.branch7x7x3_2", pad=(0, 3))
    seven = conv(conv(seven, f"{m}.branch7x7x3_3", pad=(3, 0)), f"{m}.branch7x7x3_4", 2)
    x = torch.cat([three, seven, F.max_pool2d(x, 3, 2)], dim=1)
    assert x.shape[1:] == (1280, 8, 8)
    for m, pooled in (("Mixed_7b", mean), ("Mixed_7c", lambda y: F.max_pool2d(y, 3, 1, 1))):
        three = conv(x, f"{m}.branch3x3_1")
        twice = conv(conv(x, f"{m}.branch3x3dbl_1"), f"{m}.branch3x3dbl_2", pad=1)
        parts = [conv(x, f"{m}.branch1x1")]
        parts += [conv(three, f"{m}.branch3x3_2a", pad=(0, 1))]
        parts += [conv(three, f"{m}.branch3x3_2b", pad=(1, 0))]
        parts += [conv(twice, f"{m}.branch3x3dbl_3a", pad=(0, 1))]
        parts += [conv(twice, f"{m}.branch3x3dbl_3b", pad=(1, 0))]
        x = torch.cat([*parts, conv(pooled(x), f"{m}.branch_pool")], dim=1)
    return x.flatten(2).mean(dim=2)


@torch.inference_mode()
def test_features_are_those_of_the_network_written_out(extractor: Extractor, state: State) -> None:
    """Pictures of noise, of one colour and of two: what is at the borders matters, too."""
    half = Image.new("RGB", (64, 64), "white")
    half.paste((200, 30, 60), (0, 0, 20, 64))
    pictures = [*images(1), Image.new("RGB", (64, 64), (20, 130, 250)), half]
    pixels = torch.stack([extractor.preprocessing.pixels(picture) for picture in pictures])
    expected = by_hand(state, pixels).numpy()
    rows = extractor.plain_features(pictures, 3)
    assert rows.shape == (3, 2048)
    assert rows.dtype == np.float64
    assert expected.std() > 0.1
    np.testing.assert_allclose(rows, expected, rtol=1e-3, atol=1e-3)
    unit = extractor.image_features(pictures[:1], 1)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1.0)


def test_it_has_the_weights_of_inception_v3() -> None:
    """Torchvision counts 27,161,264. Its auxiliary classifier, which this lacks, has 3,326,696:

    98,304 + 256 and 2,457,600 + 1,536 in two convolutions with norms, and 768 x 1000 + 1000. The
    eight classes more are 8 x 2049.
    """
    count = sum(weight.numel() for weight in InceptionV3().parameters())
    assert count == 27_161_264 - 3_326_696 + 8 * 2049


def test_a_features_row_does_not_depend_on_what_else_there_is(
    extractor: Extractor,
) -> None:
    together, alone = extractor.plain_features(images(3), 2), extractor.plain_features(images(1), 2)
    np.testing.assert_array_equal(together[:1], alone)


def weights_of(found: Extractor) -> list[Tensor]:
    (model,) = [value for value in vars(found).values() if isinstance(value, nn.Module)]
    return list(model.parameters()) + [b for b in model.buffers() if b.is_floating_point()]


def pickled(state: State, path: Path) -> None:
    torch.save(state, path)


def pickled_as_of_old(state: State, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [pickled, pickled_as_of_old])
def test_a_pth_of_tensors_is_the_same_network(
    write: Callable[[State, Path], None],
    extractor: Extractor,
    state: State,
    tmp_path: Path,
) -> None:
    """In a folder; what the norms counted in training does not matter."""
    write(
        state | {"Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(7)}, tmp_path / "weights.pth"
    )
    found = loaded(tmp_path)
    assert found.name == tmp_path.name
    assert found.sha256 != extractor.sha256
    for own, other in zip(weights_of(found), weights_of(extractor), strict=True):
        assert torch.equal(own, other)


def test_a_pth_with_code_in_it_is_not_run(state: State, tmp_path: Path) -> None:
    torch.save({"fc.bias": state["fc.bias"], "code": Path.cwd}, tmp_path / "weights.pth")
    with pytest.raises(EvaluationError, match="cannot be loaded"):
        loaded(tmp_path / "weights.pth")


def test_a_pth_of_something_else_is_refused(state: State, tmp_path: Path) -> None:
    torch.save({"state_dict": {"fc.bias": state["fc.bias"]}}, tmp_path / "weights.pth")
    with pytest.raises(EvaluationError, match="weights of one network"):
        loaded(tmp_path)


@pytest.mark.parametrize("fault", ["missing", "extra", "shape"])
def test_a_weight_out_of_place_is_refused(state: State, fault: str, tmp_path: Path) -> None:
    spoilt = dict(state)
    if fault == "missing":
        del spoilt["Mixed_6c.branch_pool.bn.running_mean"]
    elif fault == "extra":
        spoilt["AuxLogits.fc.bias"] = torch.zeros(8)
    else:
        spoilt["Mixed_6c.branch_pool.bn.running_mean"] = torch.zeros(8)
    save_file(spoilt, tmp_path / "model.safetensors")
    with pytest.raises(EvaluationError, match=r"Mixed_6c\.branch_pool\.bn|AuxLogits\.fc\.bias"):
        loaded(tmp_path)


def test_the_inception_of_other_libraries_is_refused(tmp_path: Path) -> None:
    """Theirs has 1000 classes; the same names, and other features."""
    save_file({"fc.weight": torch.zeros(1000, 2048)}, tmp_path / "model.safetensors")
    with pytest.raises(EvaluationError, match="1000 classes"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "neither a .safetensors nor a .pth"),
        (["a.safetensors", "b.safetensors"], "a.safetensors and b.safetensors"),
    ],
)
def test_one_file_of_weights_is_taken(files: list[str], message: str, tmp_path: Path) -> None:
    for name in files:
        save_file({"x": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(EvaluationError, match=message):
        loaded(tmp_path)


def test_truncated_weights_are_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(file.read_bytes()[:1000])
    with pytest.raises(EvaluationError, match="cannot be loaded"):
        loaded(tmp_path)


def test_a_hub_id_has_to_be_pinned() -> None:
    with pytest.raises(EvaluationError, match="inception_extractor_revision"):
        load_inception("someone/fid-inception", None, Path("/nowhere"), "cpu")


def test_a_pinned_hub_id_brings_weights_and_nothing_else(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def snapshot_download(name: str, **how: object) -> str:
        asked.update(how, name=name)
        return str(file.parent)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    found = load_inception("someone/fid-inception", "abc", Path("/nowhere"), "cpu")
    assert found.name == "someone/fid-inception"
    assert asked == {
        "name": "someone/fid-inception",
        "revision": "abc",
        "allow_patterns": ["*.safetensors", "*.pth"],
    }


def test_pixels_are_taken_at_the_corners_of_their_areas() -> None:
    """2 pixels to 4: places 0, 0.5, 1 and 1.5, of which the last has no pixel to its right.

    28, 128, 228, 228; less 128 and over 128 that is -0.78125, 0, 0.78125, 0.78125.
    """
    wide = Image.new("RGB", (2, 1))
    wide.putpixel((0, 0), (28, 28, 28))
    wide.putpixel((1, 0), (228, 228, 228))
    pixels = InceptionPixels(side=4).pixels(wide)
    assert pixels.shape == (3, 4, 4)
    np.testing.assert_array_equal(
        pixels, np.broadcast_to([-0.78125, 0.0, 0.78125, 0.78125], (3, 4, 4))
    )


def test_a_smaller_picture_is_not_smoothed() -> None:
    """4 rows to 2: places 0 and 2, whatever is between."""
    tall = Image.new("RGB", (1, 4))
    for row, value in enumerate((64, 255, 192, 255)):
        tall.putpixel((0, row), (value, value, value))
    pixels = InceptionPixels(side=2).pixels(tall)
    np.testing.assert_array_equal(pixels[0], [[-0.5, -0.5], [0.5, 0.5]])


def test_a_picture_of_the_networks_size_is_only_scaled() -> None:
    pixels = InceptionPixels().pixels(Image.new("RGB", (299, 299), (0, 128, 255)))
    for channel, value in zip(pixels, (-1.0, 0.0, 127 / 128), strict=True):
        np.testing.assert_array_equal(channel, np.full((299, 299), value, np.float32))
