import base64
import io

from PIL import Image

from nsync_pipeline.pictures.embedded import Picture, embedded


def content(picture: Picture) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(picture.source.split(",", 1)[1])))


def test_a_small_picture_keeps_every_pixel() -> None:
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    picture = embedded(image, "noise", 192)
    assert picture.pixelated
    assert picture.source.startswith("data:image/png;base64,")
    assert content(picture).convert("RGB").tobytes() == image.tobytes()


def test_a_large_picture_is_sized_for_what_is_shown() -> None:
    picture = embedded(Image.new("RGB", (1600, 800)), "wide", 192)
    assert not picture.pixelated
    assert (picture.width, picture.height) == content(picture).size == (384, 192)


def test_a_middling_picture_keeps_its_size() -> None:
    picture = embedded(Image.new("RGB", (200, 300)), "small", 192)
    assert content(picture).size == (200, 300)


def test_embedding_leaves_the_picture_as_it_was() -> None:
    image = Image.new("RGB", (1600, 800))
    embedded(image, "wide", 192)
    assert image.size == (1600, 800)
