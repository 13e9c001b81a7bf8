"""The store of drawn pictures: nothing is drawn twice, nothing broken is taken."""

import io
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from nsync_pipeline.drawing.config import SamplerConfig
from nsync_pipeline.drawing.picture_store import (
    PictureStore,
    draw_into_store,
    picture_key,
    png_bytes,
)
from nsync_pipeline.drawing.sampling import PictureRequest
from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.pictures.pixels import open_picture

SAMPLER = SamplerConfig(steps=2, guidance_scale=4.0, batch_size=2)
REQUESTS = [PictureRequest(f"p{n}", "a tree", n) for n in range(5)]


@pytest.fixture
def family(tiny_base: Path) -> Family:
    return load_family(BaseModelConfig(name=str(tiny_base), device="cpu"))


def draw(
    family: Family, requests: list[PictureRequest], folder: Path
) -> tuple[dict[str, bytes], list[int]]:
    """The files' bytes, and how many pictures were there at each report."""
    reports: list[int] = []
    files = draw_into_store(
        family, requests, SAMPLER, PictureStore(folder), lambda done, _: reports.append(done)
    )
    return {name: file.read_bytes() for name, file in files.items()}, reports


def test_same_pixels_are_the_same_bytes() -> None:
    pixels = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    assert png_bytes(pixels) == png_bytes(pixels.copy())
    with Image.open(io.BytesIO(png_bytes(pixels))) as image:
        assert np.array_equal(np.asarray(image), pixels)
        assert image.info == {}


def test_a_batch_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    whole, broken = (np.zeros((4, 4, channels), np.uint8) for channels in (3, 7))
    with pytest.raises((TypeError, ValueError)):
        PictureStore(tmp_path).put({"a": whole, "b": broken})
    assert list(tmp_path.iterdir()) == []


@settings(deadline=None, max_examples=200, database=None, derandomize=True)
@given(st.integers(0, 10**6), st.binary(max_size=9), st.booleans())
@example(16, (60_000).to_bytes(4, "big") * 2, True)  # more pixels than Pillow opens
def test_a_picture_with_any_bytes_is_whole_or_drawn_again(
    tmp_path_factory: pytest.TempPathFactory, place: int, put: bytes, signed: bool
) -> None:
    """Bytes in the place of others; ``signed``: the header's check sum is made to fit."""
    content = bytearray(png_bytes(np.zeros((4, 4, 3), np.uint8), {"nsync": "{}"}))
    start = place % len(content)
    content[start : start + len(put)] = put
    if signed:
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    folder = tmp_path_factory.getbasetemp() / "any" / "abc"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "p.png").write_bytes(content)
    for key, file in PictureStore(folder.parent).pictures().items():
        assert key == "p"
        with suppress(MissingArtifactError):
            open_picture(file)


def test_second_run_draws_nothing(family: Family, tmp_path: Path) -> None:
    first, reports = draw(family, REQUESTS, tmp_path)
    assert reports == [0, 2, 4, 5]
    again, reports = draw(family, REQUESTS, tmp_path)
    assert again == first
    assert reports == [5]


def test_an_added_picture_is_the_only_one_drawn(family: Family, tmp_path: Path) -> None:
    before, _ = draw(family, REQUESTS, tmp_path / "grown")
    added = [PictureRequest("a_new_one", "a fish", 77), *REQUESTS]
    grown, reports = draw(family, added, tmp_path / "grown")
    assert reports == [5, 6]
    assert {name: grown[name] for name in before} == before
    fresh, _ = draw(family, added, tmp_path / "fresh")
    assert grown == fresh


def test_only_one_set_is_kept(family: Family, tmp_path: Path) -> None:
    draw(family, REQUESTS, tmp_path)
    draw(family, REQUESTS[3:], tmp_path)
    assert len(list(tmp_path.rglob("*.png"))) == 2
    _, reports = draw(family, REQUESTS, tmp_path)
    assert reports == [2, 4, 5]


def test_a_truncated_picture_is_drawn_again(family: Family, tmp_path: Path) -> None:
    first, _ = draw(family, REQUESTS, tmp_path)
    for name, file in [("cut", 200), ("empty", 0)]:
        victim = max(tmp_path.rglob("*.png"))
        victim.write_bytes(victim.read_bytes()[:file])
        again, reports = draw(family, REQUESTS, tmp_path)
        assert reports == [4, 5], name
        assert again == first


def test_a_half_written_batch_is_not_taken(family: Family, tmp_path: Path) -> None:
    """As kill -9 while a batch is saved leaves it: one of its pictures is there, one is not."""
    first, _ = draw(family, REQUESTS, tmp_path)
    batch = next(folder for folder in tmp_path.iterdir() if len(list(folder.iterdir())) == 2)
    batch.rename(tmp_path / ".0a.partial")
    next((tmp_path / ".0a.partial").iterdir()).unlink()
    again, reports = draw(family, REQUESTS, tmp_path)
    assert reports[0] == 3
    assert again == first
    assert not (tmp_path / ".0a.partial").exists()


def test_a_batch_that_cannot_be_stored_says_so(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stored in another thread; what was stored before is kept."""
    put = PictureStore.put

    def full_after_one(store: PictureStore, batch: Mapping[str, NDArray[np.uint8]]) -> None:
        if store.pictures():
            raise OSError(28, "No space left on device")
        put(store, batch)

    with monkeypatch.context() as patched:
        patched.setattr(PictureStore, "put", full_after_one)
        with pytest.raises(OSError, match="No space left"):
            draw(family, REQUESTS, tmp_path)
    _, reports = draw(family, REQUESTS, tmp_path)
    assert reports == [2, 4, 5]


def test_everything_that_decides_a_picture_is_in_its_key(family: Family) -> None:
    request = PictureRequest("p", "a tree", 1)
    keys = [
        picture_key(family, request, SAMPLER, None),
        picture_key(family, PictureRequest("p", "a fish", 1), SAMPLER, None),
        picture_key(family, PictureRequest("p", "a tree", 2), SAMPLER, None),
        picture_key(family, PictureRequest("p", "a tree", 1, (32, 48)), SAMPLER, None),
        picture_key(family, PictureRequest("p", "a tree", 1, (48, 32)), SAMPLER, None),
        picture_key(family, request, SAMPLER, "ab" * 32),
        picture_key(family, request, SAMPLER.model_copy(update={"steps": 3}), None),
        picture_key(family, request, SAMPLER.model_copy(update={"scheduler": "ddim"}), None),
        picture_key(family, request, SAMPLER.model_copy(update={"guidance_scale": 2.0}), None),
    ]
    square = PictureRequest("p", "a tree", 1, (32, 32))
    assert picture_key(family, square, SAMPLER, None) == keys[0]
    family.resolution = 64
    keys.append(picture_key(family, request, SAMPLER, None))
    family.revision = "sha256:0"
    keys.append(picture_key(family, request, SAMPLER, None))
    assert len(set(keys)) == len(keys)
    assert picture_key(family, PictureRequest("q", "a tree", 1), SAMPLER, None) == keys[-1]
