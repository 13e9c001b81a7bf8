"""Captions on the desk: written, looked at, changed everywhere, brought in and taken out."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from nsync_pipeline.captions.config import STYLE_WORDS
from nsync_pipeline.captions.style_words import scrub
from nsync_pipeline.params import read_params
from nsync_pipeline.studio.caption_desk import (
    CaptionCard,
    chips,
    outlook,
    replaced,
    with_tag,
    without_tag,
)
from nsync_pipeline.workspace import Workspace

JSON = {"Accept": "application/json"}


def desk(studio: TestClient) -> dict[str, dict[str, Any]]:
    """The cards that the page is given, by name."""
    page = studio.get("/styles/hills/captions").text
    text = page.partition('id="content">')[2].partition("</script>")[0]
    return {card["name"]: card for card in json.loads(text)["cards"]}


def write(studio: TestClient, name: str, caption: str, was: str | None = None) -> Any:
    card = desk(studio)[name]
    change = {"id": card["id"], "was": card["raw"] if was is None else was, "caption": caption}
    return studio.post(
        "/styles/hills/captions", json={"changes": json.dumps([change])}, headers=JSON
    )


def test_the_page_knows_every_picture_of_the_set(studio: TestClient) -> None:
    found = desk(studio)
    assert list(found) == ["a.png", "b.jpg", "d.png", "sub/c.png"]
    assert found["d.png"]["raw"] == ""
    assert found["a.png"]["came_from"] == "txt"
    assert found["a.png"]["outlook"]["final"] == "a red boat, water"


def test_what_is_written_is_in_the_workspaces_file(
    studio: TestClient, workspace: Workspace
) -> None:
    answer = write(studio, "d.png", "  a mill\n on a hill ")
    assert answer.json()["cards"][0]["raw"] == "a mill on a hill"
    (line,) = workspace.captions_by_hand("hills").read_text().splitlines()
    assert json.loads(line) == {
        "id": desk(studio)["d.png"]["id"], "file": "d.png", "caption": "a mill on a hill",
    }  # fmt: skip
    assert not (workspace.source("hills") / "d.txt").exists()


def test_a_caption_that_is_emptied_is_as_it_came(studio: TestClient, workspace: Workspace) -> None:
    write(studio, "b.jpg", "a valley")
    assert desk(studio)["b.jpg"]["raw"] == "a valley"
    write(studio, "b.jpg", "")
    assert desk(studio)["b.jpg"]["raw"] == "a hill, water"
    write(studio, "b.jpg", "a valley")
    write(studio, "b.jpg", "a hill, water")
    assert workspace.captions_by_hand("hills").read_text() == ""


def test_two_pages_do_not_overwrite_each_other(studio: TestClient) -> None:
    assert write(studio, "d.png", "a mill", was="").status_code == 200
    late = write(studio, "d.png", "a tower", was="")
    assert (late.status_code, late.json()["current"]) == (409, "a mill")
    assert desk(studio)["d.png"]["raw"] == "a mill"
    assert write(studio, "d.png", "a tower", was="a mill").status_code == 200


def test_several_changes_are_made_together_or_not_at_all(
    studio: TestClient, workspace: Workspace
) -> None:
    cards = desk(studio)
    changes = [
        {"id": cards[name]["id"], "was": was, "caption": "new"}
        for name, was in (("a.png", cards["a.png"]["raw"]), ("b.jpg", "not what is there"))
    ]
    answer = studio.post(
        "/styles/hills/captions", json={"changes": json.dumps(changes)}, headers=JSON
    )
    assert answer.status_code == 409
    assert not workspace.captions_by_hand("hills").exists()


@pytest.mark.parametrize("sent", ["", "[]x", '[{"id": 1}]', '{"a": 1}', "3"])
def test_what_cannot_be_read_is_said(studio: TestClient, sent: str) -> None:
    answer = studio.post("/styles/hills/captions", json={"changes": sent}, headers=JSON)
    assert (answer.status_code, "cannot be read" in answer.json()["error"]) == (400, True)


def test_a_caption_cannot_end_the_script_it_is_in(studio: TestClient) -> None:
    write(studio, "d.png", "</script><script>alert(1)</script>")
    page = studio.get("/styles/hills/captions").text
    assert "<script>alert" not in page
    assert desk(studio)["d.png"]["raw"] == "</script><script>alert(1)</script>"


def test_a_damaged_file_is_named_with_its_line(studio: TestClient, workspace: Workspace) -> None:
    path = workspace.captions_by_hand("hills")
    path.parent.mkdir(exist_ok=True)
    path.write_text("a boat\n")
    page = studio.get("/styles/hills/captions")
    assert page.status_code == 400
    assert "hills.jsonl, line 1: not JSON" in page.text


def test_replacing_everywhere_can_be_undone(studio: TestClient) -> None:
    before = {name: card["raw"] for name, card in desk(studio).items()}
    asked = {"do": "replace", "find": "WATER", "by": "a lake", "whole_words": "true"}
    url = "/styles/hills/captions/change"
    assert studio.post(url, json={**asked, "try": "true"}, headers=JSON).json() == {"count": 2}
    answer = studio.post(url, json=asked, headers=JSON).json()
    assert desk(studio)["b.jpg"]["raw"] == "a hill, a lake"
    undo = {"changes": json.dumps(answer["undo"])}
    assert studio.post("/styles/hills/captions", json=undo, headers=JSON).status_code == 200
    assert {name: card["raw"] for name, card in desk(studio).items()} == before


def test_own_words_of_style_are_struck_out(studio: TestClient, workspace: Workspace) -> None:
    studio.post("/styles/hills/captions/words", data={"style_words": "cow, by Ann"})
    assert read_params(workspace.params_file).style("hills").style_words == ("cow", "by Ann")
    asked = {"caption": "a cow on a hill by Ann"}
    said = studio.post("/styles/hills/captions/outlook", json=asked, headers=JSON).json()
    assert said["final"] == "on a hill"
    assert [p for p in said["pieces"] if p["fate"] == "style"] != []


def test_sidecars_come_out_and_go_in(studio: TestClient, tmp_path: Path) -> None:
    write(studio, "d.png", "a mill")
    before = {name: card["raw"] for name, card in desk(studio).items()}
    files = zipfile.ZipFile(io.BytesIO(studio.get("/styles/hills/captions/export").content))
    assert sorted(files.namelist()) == ["a.txt", "b.txt", "d.txt", "sub/c.txt"]
    files.extractall(tmp_path / "out")
    for name in before:
        write(studio, name, "something else")
    (tmp_path / "out" / "z.txt").write_text("nobody's")
    (tmp_path / "private.txt").write_text("a secret")
    (tmp_path / "out" / "e.txt").symlink_to(tmp_path / "private.txt")  # it leads out
    form = {"folder": str(tmp_path / "out")}
    page = studio.post("/styles/hills/captions/import", data=form)
    assert "4 captions brought in. No picture here for: z." in page.text
    assert {name: card["raw"] for name, card in desk(studio).items()} == before


def test_metadata_goes_in_too_and_its_mistakes_are_named(
    studio: TestClient, tmp_path: Path
) -> None:
    folder = tmp_path / "meta"
    folder.mkdir()
    (folder / "metadata.csv").write_text("file_name,text\nd.png,a mill\nc.png,two cows\n")
    studio.post("/styles/hills/captions/import", data={"folder": str(folder)})
    assert (desk(studio)["d.png"]["raw"], desk(studio)["sub/c.png"]["raw"]) == (
        "a mill",
        "two cows",
    )
    (folder / "metadata.jsonl").write_text("no json\n")
    page = studio.post("/styles/hills/captions/import", data={"folder": str(folder)})
    assert "metadata.jsonl line 1 is not JSON" in page.text


def cards(*captions: str) -> list[CaptionCard]:
    return [
        CaptionCard(str(n), f"{n}.png", "train", 9, 9, caption, "txt", "", "")
        for n, caption in enumerate(captions)
    ]


def test_chips_are_tags_first_else_words() -> None:
    tagged = cards("1girl, red hat, smile", "1girl, smile", "a boat on a lake", "a boat")
    assert chips(tagged) == [("1girl", 2, True), ("boat", 2, False), ("smile", 2, True)]


def test_a_tag_goes_and_comes_in_all_captions() -> None:
    tagged = cards("1girl, Red Hat, smile", "red hat", "a red hat on a girl", "")
    assert [c.caption for c in without_tag(tagged, "red hat")] == ["1girl, smile"]
    assert [c.caption for c in with_tag(tagged, "night")] == [
        "1girl, Red Hat, smile, night", "red hat, night", "a red hat on a girl, night",
    ]  # fmt: skip
    assert with_tag(cards("a, night"), "Night") == []


def test_replacing_takes_whole_words_or_any() -> None:
    some = cards("a cat and a caterpillar", "Cats (cat)")
    assert [c.caption for c in replaced(some, "cat", r"\dog", True)] == [
        r"a \dog and a caterpillar", r"Cats (\dog)",
    ]  # fmt: skip
    assert replaced(some, "cat", "dog", False)[0].caption == "a dog and a dogerpillar"


WORDS = st.lists(
    st.sampled_from(
        ("a", "an", "the", "boat", "oil painting", "of", "in", "on", "print", ",", "owl", "by",
         "in the style of", "Monet", "drawing", "hill,", "and", "canvas.", "sky")
    ),
    max_size=12,
)  # fmt: skip


@given(WORDS, st.integers(0, 14))
def test_an_outlook_is_what_the_stage_makes_and_shows_every_word(
    words: list[str], most: int
) -> None:
    text = " ".join(" ".join(words).split())
    found = outlook(text, STYLE_WORDS, (), None, 0)
    assert found.final == scrub(text, STYLE_WORDS).caption
    assert " ".join(piece.text for piece in found.pieces) == text
    cut = outlook(text, STYLE_WORDS, (), lambda caption: len(caption.split()), most)
    assert " ".join(piece.text for piece in cut.pieces) == text
    assert len(cut.final.split()) <= most


def test_an_outlook_says_what_goes_and_why() -> None:
    found = outlook(
        "an oil painting of a red boat on water", STYLE_WORDS, (), lambda text: len(text.split()), 3
    )
    assert [(p.text, p.fate) for p in found.pieces] == [
        ("an oil painting of", "style"), ("a red boat", "kept"), ("on water", "cut"),
    ]  # fmt: skip
    assert found.final == "a red boat"
    assert outlook("an oil painting", STYLE_WORDS, (), None, 0).nothing_left


def test_a_word_whose_comma_goes_is_kept() -> None:
    found = outlook("an owl, a print, by Ann", STYLE_WORDS, ("by Ann",), None, 0)
    assert [(p.text, p.fate) for p in found.pieces] == [
        ("an owl,", "kept"),
        ("a print, by Ann", "style"),
    ]
