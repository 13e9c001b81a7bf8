"""The two sources."""

from pathlib import Path

import pytest

from nsync_pipeline.errors import CaptionError, ParamsError, PictureError
from nsync_pipeline.style_set.config import StyleSetConfig, StyleSource
from nsync_pipeline.style_set.ingestion import Asked, Offer
from nsync_pipeline.style_set.source_folder import read_source
from nsync_pipeline.style_set.sources import folder_offer, sketchbook_offer
from nsync_pipeline.workspace import Workspace
from tests.support.picture_files import save


def offer_of(source: str, pictures: int, seed: int = 0, test_pictures: int | None = None) -> Offer:
    style = StyleSource(
        source=f"sketchbook:{source}", pictures=pictures, test_pictures=test_pictures
    )
    return sketchbook_offer(style, seed)


def test_drawn_pictures_do_not_depend_on_how_many_are_drawn() -> None:
    few, more = (offer_of("woodblock", count, seed=3) for count in (2, 4))
    drawn = [(c.name, c.caption, c.read().tobytes()) for c in few.candidates]
    assert drawn == [(c.name, c.caption, c.read().tobytes()) for c in more.candidates][:2]
    assert [name for name, _, _ in drawn] == ["woodblock_00000", "woodblock_00001"]


def test_another_seed_draws_others() -> None:
    one, other = (next(offer_of("woodblock", 1, seed).candidates) for seed in (0, 1))
    assert one.read().tobytes() != other.read().tobytes()


def test_a_confounded_set_shares_what_its_test_pictures_do_not_have() -> None:
    offer = offer_of("mosaic+night", 3, test_pictures=4)
    drawn = list(offer.candidates)
    assert offer.count == len(drawn) == 7
    assert [c.split for c in drawn] == ["train"] * 3 + ["test"] * 4
    assert ["moon" in (c.caption or "") for c in drawn] == [True] * 3 + [False] * 4


def test_more_test_pictures_leave_the_training_ones_as_they_were() -> None:
    few, more = (offer_of("mosaic", 2, test_pictures=count) for count in (1, 3))
    names = [[c.name for c in offer.candidates] for offer in (few, more)]
    assert names[0] == ["mosaic_train_00000", "mosaic_train_00001", "mosaic_test_00000"]
    assert names[1][:3] == names[0]


def test_a_style_the_sketchbook_knows_cannot_be_learnt() -> None:
    with pytest.raises(ParamsError, match=r"pretrained on it; its held-out styles are .*woodblock"):
        offer_of("oil", 2)
    with pytest.raises(ParamsError, match="its held-out styles are"):
        offer_of("cubist", 2)
    with pytest.raises(ParamsError, match="'fog' is nothing a drawn set can share"):
        offer_of("mosaic+fog", 2, test_pictures=2)


def test_captions_that_cannot_be_told_stop_even_where_bad_pictures_are_left_out(
    tmp_path: Path,
) -> None:
    save(tmp_path / "a.png", 1)
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    config = StyleSetConfig(on_bad_picture="skip")
    with pytest.raises(CaptionError, match=r"a\.txt is not UTF-8"):
        folder_offer(read_source(tmp_path), config, Asked(Workspace(tmp_path), "m", "sources/m"))


def test_excluded_pictures_are_left_out_whatever_is_wrong_with_them(tmp_path: Path) -> None:
    for seed, name in enumerate(("a.png", "b.png", "sub/c.png")):
        save(tmp_path / name, seed)
    (tmp_path / "d.heic").write_bytes(b"")
    asked, config = Asked(Workspace(tmp_path), "m", "sources/m"), StyleSetConfig()
    offer = folder_offer(read_source(tmp_path), config, asked, ("sub/c.png", "d.heic"))
    assert [c.name for c in offer.candidates] == ["a.png", "b.png"]
    assert (offer.count, offer.problems) == (2, ())
    with pytest.raises(PictureError, match=r"m: excluded in params.yaml, and not there: z.png"):
        folder_offer(read_source(tmp_path), config, asked, ("z.png",))


def test_excluded_drawn_pictures_leave_the_others_as_they_are() -> None:
    all_ = {c.name: c.read().tobytes() for c in offer_of("woodblock", 3).candidates}
    source = StyleSource(source="sketchbook:woodblock", pictures=3, excluded=("woodblock_00001",))
    offer = sketchbook_offer(source, 0)
    assert {c.name: c.read().tobytes() for c in offer.candidates} == {
        name: pixels for name, pixels in all_.items() if name != "woodblock_00001"
    }
    assert offer.count == 2
