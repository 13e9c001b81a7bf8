import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPModel

from nsync_pipeline.errors import EvaluationError
from nsync_pipeline.metrics.extractor import ClipExtractor, Preprocessing, read_preprocessing
from nsync_pipeline.metrics.features import load_clip, load_extractor
from tests.support.tiny_clip import DEVIATION, MEAN, TINY_SIDE, save_tiny_clip


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def extractor(clip_folder: Path) -> ClipExtractor:
    return load_clip(str(clip_folder), None, Path(), "cpu")


@pytest.fixture
def copied(clip_folder: Path, tmp_path: Path) -> Path:
    """A CLIP folder a test may spoil."""
    return Path(shutil.copytree(clip_folder, tmp_path / "clip"))


def images(count: int, side: int = TINY_SIDE) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)) for _ in range(count)]


def test_features_are_unit_rows_in_double_precision(extractor: ClipExtractor) -> None:
    rows = extractor.image_features(images(3), 2)
    assert rows.shape == (3, 8)
    assert rows.dtype == np.float64
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0)


def test_features_are_those_of_transformers_own_clip(
    extractor: ClipExtractor, clip_folder: Path
) -> None:
    model = CLIPModel.from_pretrained(clip_folder).eval()
    tokens = AutoTokenizer.from_pretrained(clip_folder)(
        ["a red house", "moon"], padding=True, return_tensors="pt"
    )
    pixels = torch.stack([extractor.preprocessing.pixels(image) for image in images(2)])
    with torch.no_grad():
        output = model(**tokens, pixel_values=pixels)
    np.testing.assert_allclose(
        extractor.image_features(images(2), 8), output.image_embeds.numpy(), atol=1e-5
    )
    np.testing.assert_allclose(
        extractor.text_features(["a red house", "moon"], 8), output.text_embeds.numpy(), atol=1e-5
    )


def test_batch_size_and_order_do_not_matter(extractor: ClipExtractor) -> None:
    pictures, texts = images(5), ["a house", "a red boat under the moon", "sky", "x", "snow"]
    one = extractor.image_features(pictures, 1), extractor.text_features(texts, 1)
    for size in (2, 5):
        np.testing.assert_allclose(extractor.image_features(pictures, size), one[0], atol=1e-6)
        np.testing.assert_allclose(extractor.text_features(texts, size), one[1], atol=1e-6)
    back = extractor.image_features(pictures[::-1], 2)[::-1]
    np.testing.assert_allclose(back, one[0], atol=1e-6)


def test_same_call_gives_the_same_bits(extractor: ClipExtractor) -> None:
    first, second = (extractor.image_features(images(4), 4) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_a_picture_of_the_models_size_is_only_scaled() -> None:
    image = Image.new("RGB", (2, 2), (255, 0, 51))
    pixels = Preprocessing(2, 2, (0.5, 0.4, 0.3), (0.25, 0.25, 0.5)).pixels(image)
    assert pixels.shape == (3, 2, 2)
    # (1 - 0.5) / 0.25, (0 - 0.4) / 0.25, (0.2 - 0.3) / 0.5
    np.testing.assert_allclose(pixels[:, 0, 0], [2.0, -1.6, -0.2], atol=1e-6)


def test_a_picture_may_be_resized_beyond_what_is_cut_out() -> None:
    """4 x 4 pixels whose inner square is white: resized to 4 and cut to 2, only that is seen."""
    framed = Image.new("RGB", (4, 4))
    framed.paste((255, 255, 255), (1, 1, 3, 3))
    pixels = Preprocessing(2, 4, (0.0,) * 3, (1.0,) * 3).pixels(framed)
    np.testing.assert_allclose(pixels, 1.0)


def test_a_wide_picture_is_cut_at_both_sides() -> None:
    """Thirds of red, green and blue, each square: what is left is the green one."""
    wide = Image.new("RGB", (12, 4))
    for third, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255)]):
        wide.paste(colour, (4 * third, 0, 4 * third + 4, 4))
    pixels = Preprocessing(4, 4, (0.0,) * 3, (1.0,) * 3).pixels(wide)
    np.testing.assert_allclose(pixels[1], 1.0)
    np.testing.assert_allclose(pixels[[0, 2]], 0.0)


@pytest.mark.parametrize("size", [(17, 40), (40, 17), (333, 1000), (5, 7)])
def test_any_size_becomes_the_models_square(size: tuple[int, int]) -> None:
    pixels = Preprocessing(TINY_SIDE, TINY_SIDE, MEAN, DEVIATION).pixels(Image.new("L", size, 128))
    assert pixels.shape == (3, TINY_SIDE, TINY_SIDE)
    assert torch.isfinite(pixels).all()
    # A grey picture stays grey up to its edges: no black border was cut in.
    np.testing.assert_allclose(pixels[0], (128 / 255 - 0.5) / 0.25, atol=1e-5)


def test_texts_longer_than_the_window_are_told(extractor: ClipExtractor) -> None:
    long = "a house " * 30
    assert extractor.too_long(["a house", long]) == [long]
    assert np.isfinite(extractor.text_features([long], 1)).all()


def test_identity_is_that_of_the_weights(extractor: ClipExtractor, tmp_path: Path) -> None:
    other = load_extractor(str(save_tiny_clip(tmp_path / "other", seed=1)), None, Path(), "cpu")
    again = load_extractor(str(save_tiny_clip(tmp_path / "again", seed=0)), None, Path(), "cpu")
    assert len(extractor.sha256) == 64
    assert extractor.sha256 == again.sha256 != other.sha256


def test_the_embedded_clip_loads_and_matches_pictures_with_captions() -> None:
    from nsync_pipeline.sketchbook.world import draw_style_set

    extractor = load_clip("sketchbook", None, Path(), "cpu")
    drawn = list(draw_style_set("photo", 12, seed=5))
    pictures = extractor.image_features([picture.image for picture in drawn], 12)
    captions = extractor.text_features([picture.caption for picture in drawn], 12)
    cosines = pictures @ captions.T
    assert np.diag(cosines).mean() > cosines[~np.eye(12, dtype=bool)].mean()


def test_a_missing_weight_is_refused(copied: Path) -> None:
    state = load_file(copied / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EvaluationError, match=r"visual_projection\.weight"):
        load_extractor(str(copied), None, Path(), "cpu")


def test_an_extra_weight_is_refused(copied: Path) -> None:
    state = load_file(copied / "model.safetensors")
    state["style_projection.weight"] = torch.zeros(2, 2)
    save_file(state, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EvaluationError, match=r"style_projection\.weight"):
        load_extractor(str(copied), None, Path(), "cpu")


def test_a_truncated_weight_file_is_refused(copied: Path) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(EvaluationError, match="cannot be loaded"):
        load_extractor(str(copied), None, Path(), "cpu")


def test_pickled_weights_are_not_loaded(copied: Path) -> None:
    state = load_file(copied / "model.safetensors")
    torch.save(state, copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    with pytest.raises(EvaluationError, match="safetensors"):
        load_extractor(str(copied), None, Path(), "cpu")


def test_another_kind_of_model_is_refused(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "model_type": "siglip"}))
    with pytest.raises(EvaluationError, match="siglip"):
        load_extractor(str(copied), None, Path(), "cpu")


def test_preprocessing_is_found_in_either_file(copied: Path) -> None:
    before = read_preprocessing(copied)
    assert before == Preprocessing(TINY_SIDE, TINY_SIDE, MEAN, DEVIATION)
    content = json.loads((copied / "preprocessor_config.json").read_text())
    (copied / "processor_config.json").write_text(json.dumps({"image_processor": content}))
    (copied / "preprocessor_config.json").unlink()
    assert read_preprocessing(copied) == before


def test_preprocessing_that_is_not_stated_is_refused(copied: Path) -> None:
    (copied / "preprocessor_config.json").write_text(json.dumps({"crop_size": 16}))
    with pytest.raises(EvaluationError, match="image_mean"):
        load_extractor(str(copied), None, Path(), "cpu")


def test_a_hub_id_without_a_revision_is_refused() -> None:
    with pytest.raises(EvaluationError, match="extractor_revision"):
        load_extractor("someone/some-clip", None, Path("/nowhere"), "cpu")
