"""Pictures: what is wrong with which, left out and brought back, added by a drop or by name."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from nsync_pipeline.params import read_params
from nsync_pipeline.studio.picture_desk import Standing
from nsync_pipeline.workspace import Workspace
from tests.support.picture_files import save
from tests.support.studio import client_of, desk_of, read_all, said, text_of

BATCH = "0123456789abcdef"
JSON = "application/json"


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def standings(studio: TestClient) -> dict[str, Standing]:
    return {card.name: card.standing for card in read_all(studio).cards}


def test_each_file_is_shown_with_what_is_wrong(studio: TestClient) -> None:
    page = text_of(studio.get("/styles/hills/pictures").text)
    assert "4 in the set" in page
    assert "3 captioned" in page
    assert "3 left out" in page
    assert "the same pixels as a.png" in page
    assert "small.png" in page
    assert "12" in page
    assert "no caption" in page
    found = standings(studio)
    assert found["e.png"] is Standing.LEFT_OUT
    assert {found["small.png"], found["torn.png"]} == {Standing.UNUSABLE}


def test_leaving_out_and_bringing_back_touches_no_file(
    studio: TestClient, workspace: Workspace
) -> None:
    before = files(workspace.source("hills"))
    text = workspace.params_file.read_text()
    for name in ("d.png", "sub/c.png"):
        studio.post("/styles/hills/pictures", data={"name": name, "do": "exclude"})
    assert read_params(workspace.params_file).style("hills").excluded == ("d.png", "sub/c.png")
    assert standings(studio)["d.png"] is Standing.EXCLUDED
    assert "Bring back" in studio.get("/styles/hills/pictures").text
    for name in ("d.png", "sub/c.png"):
        studio.post("/styles/hills/pictures", data={"name": name, "do": "include"})
    assert standings(studio)["d.png"] in (Standing.TRAIN, Standing.TEST)
    assert files(workspace.source("hills")) == before
    after = workspace.params_file.read_text()
    assert after.replace("    excluded: []\n", "") == text


def test_an_unknown_picture_is_not_left_out(studio: TestClient, workspace: Workspace) -> None:
    answer = studio.post(
        "/styles/hills/pictures", data={"name": "x.png", "do": "exclude"},
        headers={"Accept": "application/json"},
    )  # fmt: skip
    assert (answer.status_code, "x.png" in answer.json()["error"]) == (400, True)
    assert read_params(workspace.params_file).style("hills").excluded == ()


def test_thumbnails_are_pictures_and_broken_files_are_not(studio: TestClient) -> None:
    for what in ("thumbnail", "view"):
        for name in ("a.png", "e.png", "sub/c.png", "small.png"):
            answer = studio.get(f"/styles/hills/{what}", params={"name": name})
            assert answer.headers["content-type"].startswith("image/")
        for name in ("torn.png", "nothing.png", "../params.yaml", "/etc/passwd", "a.txt"):
            assert studio.get(f"/styles/hills/{what}", params={"name": name}).status_code == 404


def test_a_link_that_leads_out_of_the_folder_is_not_followed(
    studio: TestClient, workspace: Workspace, tmp_path: Path
) -> None:
    save(tmp_path / "private.png", 50, 96, 80)
    (workspace.source("hills") / "link.png").symlink_to(tmp_path / "private.png")
    read_all(studio)
    assert standings(studio)["link.png"] is Standing.UNUSABLE
    for what in ("thumbnail", "view"):
        asked = studio.get(f"/styles/hills/{what}", params={"name": "link.png"})
        assert asked.status_code == 404


def dropped(studio: TestClient, folder: Path) -> None:
    for path in sorted(folder.rglob("*.*")):
        name = path.relative_to(folder.parent).as_posix()
        assert studio.put(f"/upload/{BATCH}/{name}", content=path.read_bytes()).status_code == 200


@pytest.mark.parametrize("name", ["é" * 130 + ".png", "a.png/b.png"])
def test_a_file_that_the_disk_does_not_take_is_said(studio: TestClient, name: str) -> None:
    """A name that is too long in UTF-8, and a folder where a file is."""
    assert studio.put(f"/upload/{BATCH}/a.png", content=b"x").status_code == 200
    answer = studio.put(f"/upload/{BATCH}/{name}", content=b"x", headers={"Accept": JSON})
    assert answer.status_code == 400
    assert answer.json()["error"].endswith(("File name too long", "File exists"))


@pytest.mark.parametrize("sign", ["\x00", "\x1b"])
def test_a_prompt_that_is_no_text_is_refused_at_once(studio: TestClient, sign: str) -> None:
    form = {"prompts": f"a{sign}boat", "run": "nsync"}
    answer = studio.post("/styles/hills/compare", json=form, headers={"Accept": JSON})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("What was typed holds U+00")


def test_two_that_are_the_same_are_told_apart_by_any_name(
    studio: TestClient, workspace: Workspace
) -> None:
    folder = workspace.source("hills")
    (folder / "e.png").rename(folder / "e = a.png")
    assert standings(studio)["e = a.png"] is Standing.LEFT_OUT


def own(folder: Path, count: int = 4) -> Path:
    for seed in range(count):
        save(folder / f"p {seed}.png", 40 + seed)
    return folder


def test_a_dropped_folder_becomes_a_style(
    studio: TestClient, workspace: Workspace, tmp_path: Path
) -> None:
    folder = own(tmp_path / "My Lakes")
    (folder / "torn.jpg").write_bytes(b"")
    dropped(studio, folder)
    answer = studio.post(
        "/styles", headers={"Accept": "application/json"},
        json={"name": "lakes", "batch": BATCH, "placeholder": "lks", "style_words": "oil, x"},
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    assert "5 files brought in. Cannot be used: torn.jpg is empty" in said(answer.json()["go"])
    style = read_params(workspace.params_file).style("lakes")
    assert (style.placeholder, style.style_words, style.excluded) == (
        "lks", ("oil", "x"), ("torn.jpg",),
    )  # fmt: skip
    assert files(workspace.source("lakes")) == files(folder)
    assert not (workspace.state / "studio" / "incoming" / BATCH).exists()
    assert "# The settings of the tests." in workspace.params_file.read_text()


def test_a_named_folder_becomes_a_style(
    studio: TestClient, workspace: Workspace, tmp_path: Path
) -> None:
    form = {"name": "lakes", "folder": str(own(tmp_path / "lakes of mine"))}
    page = studio.post("/styles", data=form)
    assert page.url.path == "/styles/lakes/pictures"
    read_all(studio, "lakes")
    assert "4 in the set" in text_of(studio.get("/styles/lakes/pictures").text)


def test_more_pictures_come_to_a_style(
    studio: TestClient, workspace: Workspace, tmp_path: Path
) -> None:
    studio.post("/styles/hills/pictures/add", data={"folder": str(own(tmp_path / "more"))})
    assert len(standings(studio)) == 7 + 4
    # Of the same names with other content none is overwritten.
    save(tmp_path / "more" / "a.png", 99)
    before = files(workspace.source("hills"))
    page = studio.post("/styles/hills/pictures/add", data={"folder": str(tmp_path / "more")})
    assert (page.status_code, "None of them is overwritten" in page.text) == (400, True)
    assert files(workspace.source("hills")) == before


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ({"name": "lakes"}, "Drop a folder"),
        ({"name": "lakes", "folder": "/nowhere/at/all"}, "is no folder"),
        ({"name": "lakes", "batch": BATCH}, "is no folder"),
        ({"name": "lakes", "batch": "../../etc"}, "drop it again"),
        ({"name": "My Lakes", "folder": "EMPTY"}, "for example my_lakes"),
        ({"name": "lakes", "folder": "EMPTY"}, "it is empty"),
        ({"name": "hills", "folder": "PICTURES"}, "is there already"),
    ],
)  # fmt: skip
def test_what_cannot_become_a_style_is_said(
    studio: TestClient, workspace: Workspace, tmp_path: Path, form: dict[str, str], why: str
) -> None:
    places = {"EMPTY": tmp_path / "empty", "PICTURES": own(tmp_path / "pictures")}
    places["EMPTY"].mkdir()
    form = {k: str(places.get(v, v)) for k, v in form.items()}
    before = workspace.params_file.read_bytes()
    page = studio.post("/styles", data=form)
    assert page.status_code == 400
    assert why in page.text
    assert workspace.params_file.read_bytes() == before


@pytest.mark.parametrize(
    "name", ["../escaped.png", "a/../../escaped.png", "..%2f..%2fescaped.png", "a\\..\\..\\e.png"]
)
def test_an_upload_stays_in_its_batch(studio: TestClient, workspace: Workspace, name: str) -> None:
    studio.put(f"/upload/{BATCH}/{name}", content=b"x")
    incoming = workspace.state / "studio" / "incoming"
    assert [p for p in workspace.root.parent.rglob("*e*.png") if p.read_bytes() == b"x"] == [
        p for p in incoming.rglob("*") if p.is_file()
    ]
    assert studio.put("/upload/no-batch/x.png", content=b"x").status_code in (400, 404)


def test_what_was_read_is_known_to_a_studio_that_is_started_anew(
    studio: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_all(studio)
    monkeypatch.setattr("nsync_pipeline.studio.picture_desk.ingest", lambda *_: pytest.fail("read"))
    again = desk_of(client_of(workspace))
    assert again.pictures.pictures(again.graph(), "hills") == before


def test_a_folder_without_pictures_is_a_page_that_says_so(
    studio: TestClient, workspace: Workspace
) -> None:
    for path in workspace.source("hills").rglob("*.*"):
        path.unlink()
    read_all(studio)
    for tab in ("pictures", "captions", "train", "watch", "compare", "home"):
        assert studio.get(f"/styles/hills/{tab}").status_code == 200
    assert "holds no pictures" in studio.get("/styles/hills/pictures").text
    assert studio.get("/").status_code == 200


def test_settings_that_cannot_be_read_are_a_page_that_says_so(
    studio: TestClient, workspace: Workspace
) -> None:
    workspace.params_file.write_text("stlyes: {}\n")
    page = studio.get("/")
    assert page.status_code == 400
    assert "stlyes: unknown key" in page.text
