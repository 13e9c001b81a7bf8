"""Looking at files: each once, whatever the number of processes, and nothing else."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nsync_pipeline.errors import PictureError
from nsync_pipeline.pictures.decoding import decode_picture
from nsync_pipeline.pictures.pixels import open_picture
from nsync_pipeline.style_set import looking
from nsync_pipeline.style_set.ingestion import Candidate
from nsync_pipeline.style_set.looking import Seen, looked_at, pixel_sha256
from tests.support.picture_files import save, textured


def of_file(path: Path, min_side: int = 16) -> Candidate:
    read = partial(decode_picture, path, min_side, 1.0)
    return Candidate(path.name, None, None, read, path=path)


@pytest.fixture
def candidates(tmp_path: Path) -> list[Candidate]:
    """Five files, the fourth of which is damaged, and a drawn picture among them."""
    paths = [save(tmp_path / f"{seed}.png", seed) for seed in range(5)]
    paths[3].write_bytes(paths[3].read_bytes()[:60])
    found = [of_file(path) for path in paths]
    found.insert(2, Candidate("drawn", None, None, partial(textured, 9)))
    return found


def plain(looks: list[tuple[Candidate, Seen | PictureError]]) -> list[tuple[object, ...]]:
    """What can be compared."""
    return [
        (source.name, str(seen))
        if isinstance(seen, PictureError)
        else (
            source.name,
            seen.pixels,
            (seen.width, seen.height, seen.look.aspect),
            seen.look.difference_hash.tolist(),
            seen.look.mirrored_hash.tolist(),
            seen.look.pixels.tolist(),
        )
        for source, seen in looks
    ]


def test_several_processes_see_what_one_does(
    candidates: list[Candidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = plain(list(looked_at(candidates, 16, 1.0, None)))
    assert [row[0] for row in alone] == ["0.png", "1.png", "drawn", "2.png", "3.png", "4.png"]
    assert "is damaged or cut off" in str(alone[4][1])
    assert alone[2][1] == pixel_sha256(textured(9))
    monkeypatch.setattr(looking, "MANY", 4)
    monkeypatch.setattr(looking, "AT_ONCE", 2)
    monkeypatch.setattr(looking, "usable_cores", lambda: 2)
    assert plain(list(looked_at(candidates, 16, 1.0, None))) == alone


def test_a_file_that_was_seen_is_not_decoded_again(
    candidates: list[Candidate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its content, not by its name; what is refused or added is looked at."""
    kept = tmp_path / "kept" / "seen.jsonl"
    first = plain(list(looked_at(candidates, 16, 1.0, kept)))
    looks: list[str] = []
    plain_look = looking._look

    def look(read: looking.Read) -> Seen | PictureError:
        assert isinstance(read, partial)
        looks.append(str(read.args[0]))
        return plain_look(read)

    monkeypatch.setattr(looking, "_look", look)
    assert plain(list(looked_at(candidates, 16, 1.0, kept))) == first
    assert looks == ["9", str(tmp_path / "3.png")]  # the drawn one, and the damaged one

    looks.clear()
    (tmp_path / "0.png").rename(tmp_path / "renamed.png")
    save(tmp_path / "new.png", 7)
    save(tmp_path / "2.png", 8)
    names = ("renamed.png", "1.png", "2.png", "4.png", "new.png")
    found = list(looked_at([of_file(tmp_path / name) for name in names], 16, 1.0, kept))
    assert looks == [str(tmp_path / "2.png"), str(tmp_path / "new.png")]
    assert [seen.pixels for _, seen in found if isinstance(seen, Seen)] == [
        pixel_sha256(textured(seed)) for seed in (0, 1, 8, 4, 7)
    ]


def test_what_was_seen_is_held_to_the_limits_of_now(tmp_path: Path) -> None:
    kept, path = tmp_path / "seen.jsonl", save(tmp_path / "a.png", 1)
    list(looked_at([of_file(path)], 16, 1.0, kept))
    ((_, seen),) = looked_at([of_file(path, min_side=90)], 90, 1.0, kept)
    assert isinstance(seen, PictureError)
    assert "style_set.min_side asks for at least 90" in str(seen)


def test_where_what_was_seen_is_cut_off_it_is_looked_at_again(
    candidates: list[Candidate], tmp_path: Path
) -> None:
    kept = tmp_path / "seen.jsonl"
    first = plain(list(looked_at(candidates, 16, 1.0, kept)))
    kept.write_bytes(kept.read_bytes()[:-40])
    for _ in range(2):
        assert plain(list(looked_at(candidates, 16, 1.0, kept))) == first


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_stored_file_is_read_as_it_was_seen(tmp_path: Path, orientation: int) -> None:
    """Turned as its EXIF says: the file itself is stored."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "camera.jpg"
    textured(1).save(path, exif=exif, quality=90)
    ((_, seen),) = looked_at([of_file(path)], 16, 1.0, None)
    assert isinstance(seen, Seen)
    assert pixel_sha256(open_picture(path)) == seen.pixels
    assert (seen.width, seen.height) == ((96, 80) if orientation == 3 else (80, 96))
    with Image.open(path) as raw:
        assert not np.array_equal(np.asarray(raw), np.asarray(open_picture(path)))


def test_a_file_beyond_all_bounds_is_not_read_to_know_it_again(tmp_path: Path) -> None:
    """Of 2 TiB that are nothing but a size; hashing them would take an hour."""
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(2**41)
    ((_, seen),) = looked_at([of_file(tmp_path / "a.png")], 16, 1.0, tmp_path / "seen.jsonl")
    assert "more than a file of its kind holds" in str(seen)
