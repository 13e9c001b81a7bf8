"""From a source's pictures to a set."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from nsync_pipeline.errors import PictureError
from nsync_pipeline.style_set.config import StyleSetConfig
from nsync_pipeline.style_set.ingestion import (
    Asked,
    Candidate,
    Ingestion,
    Offer,
    figures,
    ingest,
    refuse_bad_files,
    refuse_too_few,
    splits,
)
from nsync_pipeline.style_set.looking import pixel_sha256
from nsync_pipeline.workspace import Workspace
from tests.support.picture_files import textured


@pytest.fixture
def monet(tmp_path: Path) -> Asked:
    return Asked(Workspace(tmp_path), "monet", "sources/monet")


def offered(*candidates: Candidate) -> Offer:
    return Offer(iter(candidates), len(candidates))


def candidate(name: str, image: Image.Image, caption: str | None = "a boat") -> Candidate:
    return Candidate(name, caption, None if caption is None else "txt", lambda: image)


def bad(name: str, reason: str = "is empty (0 bytes)") -> Candidate:
    def read() -> Image.Image:
        raise PictureError(reason)

    return Candidate(name, "a boat", "txt", read)


def taken(offer: Offer, config: StyleSetConfig | None = None) -> tuple[Ingestion, list[str]]:
    """The ingestion, and the ids of what was stored."""
    stored: list[str] = []

    def store(picture_id: str, candidate: Candidate) -> None:
        stored.append(picture_id)

    return ingest(offer, config or StyleSetConfig(), store, lambda *told: None), stored


def resized(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def test_the_id_is_the_start_of_the_hash_of_size_and_pixels() -> None:
    image = Image.frombytes("RGB", (2, 1), bytes([1, 2, 3, 4, 5, 6]))
    digest = hashlib.sha256(b"2x1\0" + bytes([1, 2, 3, 4, 5, 6])).hexdigest()
    assert pixel_sha256(image) == digest
    ingestion, stored = taken(offered(candidate("a", image)))
    assert stored == [digest[:16]]
    assert ingestion.pictures[0].id == digest[:16]


def test_the_same_bytes_in_another_shape_are_another_picture() -> None:
    pixels = bytes(range(12))
    wide, tall = (Image.frombytes("RGB", size, pixels) for size in ((4, 1), (1, 4)))
    assert pixel_sha256(wide) != pixel_sha256(tall)


def test_an_exact_duplicate_is_kept_once_and_reported() -> None:
    one, two = textured(1), textured(2)
    ingestion, stored = taken(
        offered(candidate("a.png", one), candidate("b.bmp", one), candidate("c.png", two))
    )
    assert [p.origin for p in ingestion.pictures] == ["a.png", "c.png"]
    assert [str(d) for d in ingestion.duplicates] == ["b.bmp = a.png"]
    assert len(stored) == 2


def test_a_near_duplicate_is_dropped_in_favour_of_the_first_by_name() -> None:
    one, two = textured(1), textured(2)
    ingestion, _ = taken(
        offered(candidate("a.png", one), candidate("b.png", two), candidate("c.png", resized(one)))
    )
    assert [p.origin for p in ingestion.pictures] == ["a.png", "b.png"]
    assert [str(d) for d in ingestion.near_duplicates] == ["c.png = a.png"]


@pytest.mark.parametrize("copy", [lambda image: image, resized])
def test_the_caption_of_a_left_out_copy_is_not_lost(
    copy: Callable[[Image.Image], Image.Image],
) -> None:
    one = textured(1)
    ingestion, _ = taken(
        offered(candidate("a.png", one, None), candidate("b.png", copy(one), "a red boat"))
    )
    (picture,) = ingestion.pictures
    assert (picture.caption, picture.caption_source) == ("a red boat", "txt")


def test_kept_near_duplicates_go_together_where_the_first_of_them_goes() -> None:
    """Over many sets: a picture and its copy are never on both sides."""
    config = StyleSetConfig(near_duplicates="keep", test_fraction=0.5)
    sides = set()
    for seed in range(12):
        one = textured(seed)
        others = [candidate(f"z{n}.png", textured(100 + n)) for n in range(4)]
        ingestion, _ = taken(
            offered(candidate("a.png", one), candidate("b.png", resized(one)), *others), config
        )
        split = splits(ingestion, config)
        first, copy = ingestion.pictures[:2]
        assert len(ingestion.pictures) == 6
        assert first.group == copy.group
        assert split[first.id] == split[copy.id]
        sides.add(split[first.id])
    assert sides == {"train", "test"}


def test_a_source_may_say_the_split_and_no_look_is_on_both_sides() -> None:
    """A near-duplicate across the splits is left out even where near-duplicates are kept."""
    config = StyleSetConfig(near_duplicates="keep")
    one, two = textured(1), textured(2)
    ingestion, _ = taken(
        offered(
            replace(candidate("a", one), split="train"),
            replace(candidate("b", resized(one)), split="train"),
            replace(candidate("c", resized(one)), split="test"),
            replace(candidate("d", two), split="test"),
        ),
        config,
    )
    assert [p.origin for p in ingestion.pictures] == ["a", "b", "d"]
    assert list(splits(ingestion, config).values()) == ["train", "train", "test"]


def test_a_picture_between_two_groups_joins_them() -> None:
    """Cropped by 0, 2 and 4 % a side: the middle one looks like both, those not like each other."""
    whole = textured(3, 400, 400)
    cropped = [whole.resize((400, 400), box=(m, m, 400 - m, 400 - m)) for m in (0.0, 14.0, 28.0)]
    config = StyleSetConfig(near_duplicates="keep")
    ends = [candidate("a", cropped[0]), candidate("b", cropped[2])]
    apart, _ = taken(offered(*ends), config)
    assert [p.group for p in apart.pictures] == [0, 1]
    joined, _ = taken(offered(*ends, candidate("c", cropped[1])), config)
    assert [p.group for p in joined.pictures] == [0, 0, 0]


def test_all_bad_files_are_in_one_message(monet: Asked) -> None:
    good = [candidate("y.png", textured(1)), candidate("z.png", textured(2))]
    files = [bad(f"{n:02}.png", f"is bad in its way {n}") for n in range(23)]
    ingestion, _ = taken(offered(*files, *good))
    with pytest.raises(PictureError) as caught:
        refuse_bad_files(ingestion, StyleSetConfig(), monet)
    lines = str(caught.value).splitlines()
    assert lines[0] == "sources/monet: 23 of the files cannot be used:"
    assert lines[1:21] == [f"  - {n:02}.png is bad in its way {n}" for n in range(20)]
    assert lines[21] == "  - and 3 more (all: .nsync/lists/monet-bad_files.txt)"
    listing = monet.workspace.listing("monet", "bad_files").read_text().splitlines()
    assert listing == [f"{n:02}.png is bad in its way {n}" for n in range(23)]
    assert "style_set.on_bad_picture" in lines[22]


def test_bad_files_are_left_out_and_named_where_that_is_asked_for(monet: Asked) -> None:
    config = StyleSetConfig(on_bad_picture="skip")
    ingestion, _ = taken(
        offered(bad("a.png"), candidate("b.png", textured(1)), candidate("c.png", textured(2)))
    )
    refuse_bad_files(ingestion, config, monet)
    refuse_too_few(ingestion, monet)
    said = figures(ingestion, monet)
    assert (said["pictures"], said["bad_files"]) == (2, 1)
    assert said["bad_files_are"] == "a.png is empty (0 bytes)"


def test_leaving_files_out_is_not_advised_where_nothing_would_be_left(monet: Asked) -> None:
    ingestion, _ = taken(offered(bad("a.png"), candidate("b.png", textured(1))))
    with pytest.raises(PictureError) as caught:
        refuse_bad_files(ingestion, StyleSetConfig(), monet)
    assert "skip" not in str(caught.value)


def test_one_picture_cannot_be_split(monet: Asked) -> None:
    one = textured(1)
    ingestion, _ = taken(offered(candidate("a.png", one), candidate("b.png", resized(one))))
    with pytest.raises(PictureError) as caught:
        refuse_too_few(ingestion, monet)
    assert str(caught.value) == (
        "sources/monet: a style set needs at least two pictures, one to train on and one to test "
        "with, and there is only one (left out: 1 near duplicates). Add pictures."
    )


def test_pictures_that_all_look_the_same_cannot_be_split(monet: Asked) -> None:
    one = textured(1)
    config = StyleSetConfig(near_duplicates="keep")
    ingestion, _ = taken(offered(candidate("a", one), candidate("b", resized(one))), config)
    with pytest.raises(PictureError, match="that differ from one another"):
        refuse_too_few(ingestion, monet)


def test_uncaptioned_pictures_are_left_out_unopened_where_that_is_asked_for() -> None:
    def never() -> Image.Image:
        raise AssertionError("opened")

    ingestion, _ = taken(
        offered(Candidate("a", None, None, never), candidate("b", textured(1))),
        StyleSetConfig(uncaptioned="skip"),
    )
    assert ingestion.uncaptioned == ("a",)
    assert [p.origin for p in ingestion.pictures] == ["b"]
