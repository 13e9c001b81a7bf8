"""The two sources."""

from pathlib import Path

import pytest
from picture_files import save

from nsync_pipeline.errors import CaptionError, ParamsError
from nsync_pipeline.image_sets.config import StyleSetConfig
from nsync_pipeline.image_sets.source_folder import read_source
from nsync_pipeline.image_sets.sources import folder_offer, sketchbook_offer


def test_drawn_pictures_do_not_depend_on_how_many_are_drawn() -> None:
    few, more = (sketchbook_offer("woodblock", count, seed=3) for count in (2, 4))
    drawn = [(c.name, c.caption, c.read().tobytes()) for c in few.candidates]
    assert drawn == [(c.name, c.caption, c.read().tobytes()) for c in more.candidates][:2]
    assert [name for name, _, _ in drawn] == ["woodblock_00000", "woodblock_00001"]


def test_another_seed_draws_others() -> None:
    one, other = (next(sketchbook_offer("woodblock", 1, seed).candidates) for seed in (0, 1))
    assert one.read().tobytes() != other.read().tobytes()


def test_a_style_the_sketchbook_knows_cannot_be_learnt() -> None:
    with pytest.raises(ParamsError, match=r"pretrained on it; its held-out styles are .*woodblock"):
        sketchbook_offer("oil", 2, 0)
    with pytest.raises(ParamsError, match="its held-out styles are"):
        sketchbook_offer("cubist", 2, 0)


def test_captions_that_cannot_be_told_stop_even_where_bad_pictures_are_left_out(
    tmp_path: Path,
) -> None:
    save(tmp_path / "a.png", 1)
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    config = StyleSetConfig(on_bad_picture="skip")
    with pytest.raises(CaptionError, match=r"a\.txt is not UTF-8"):
        folder_offer(read_source(tmp_path), config, "sources/monet")
