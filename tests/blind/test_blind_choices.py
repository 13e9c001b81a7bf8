"""The blind page and what comes back from it."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from style_workspace import STYLE, build_style_workspace, style_params

from nsync_pipeline.blind.choices import read_choices, take_choices
from nsync_pipeline.blind.page import FORMAT, BlindPage, blind_page, render_blind_page
from nsync_pipeline.blind.preference import LOST, TIED, WON
from nsync_pipeline.blind.questions import Question, draw_questions, picture_digests
from nsync_pipeline.errors import ChoicesError
from nsync_pipeline.params import Params
from nsync_pipeline.pictures.style_pictures import read_style_pictures
from nsync_pipeline.workspace import BASE, TrainingRun, Workspace

A, B = "nsync", "lora"
RUNS = [TrainingRun(A, 0), TrainingRun(B, 0)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return build_style_workspace(tmp_path_factory.mktemp("made"), test=8)


@pytest.fixture
def workspace(made: Workspace, tmp_path: Path) -> Workspace:
    """A copy a test may spoil."""
    return Workspace(Path(shutil.copytree(made.root, tmp_path / "copy")))


@pytest.fixture
def params() -> Params:
    return style_params()


def questions_of(workspace: Workspace, most: int = 40) -> tuple[Question, ...]:
    pictures = read_style_pictures(workspace, STYLE, RUNS)
    return draw_questions(pictures, picture_digests(pictures), STYLE, A, B, most, 0).asked


def saved(
    path: Path, page: BlindPage, choices: dict[str, str], changes: dict[str, Any] | None = None
) -> Path:
    """What the page's script saves; each file name is another person's."""
    sitting = hashlib.sha256(path.stem.encode()).hexdigest()[:16]
    content = {
        "format": FORMAT, "style": page.style, "page": page.page_id, "asked": page.asked,
        "judge": "", "sitting": sitting, "saved": 1, "choices": choices,
    } | (changes or {})  # fmt: skip
    path.write_text(json.dumps(content))
    return path


def sides_of(workspace: Workspace, wanted: str, page: BlindPage) -> dict[str, str]:
    """The choices of somebody who always sees ``wanted`` as the better one."""
    questions = questions_of(workspace, page.asked)
    a, b = ("left", "right") if wanted == A else ("right", "left")
    return {q.id: a if q.a_is_left else b for q in questions}


def test_the_page_names_nobody_and_asks_each_pair_once(made: Workspace, params: Params) -> None:
    page = blind_page(made, params, STYLE, A, B, 40)
    html = render_blind_page(page)
    assert len({pair.id for pair in page.pairs}) == len(page.pairs) == 8
    told = re.sub(r"data:image[^\"]*", "", html).replace(FORMAT, "").replace("nsync-choices-", "")
    assert not re.search(rf"{A}|{B}|orthogonal|http", told)


def test_both_sides_and_another_order_are_drawn(made: Workspace, params: Params) -> None:
    asked = questions_of(made)
    assert {question.a_is_left for question in asked} == {True, False}
    assert [question.of_a.id for question in asked] != sorted(q.of_a.id for q in asked)
    assert len(questions_of(made, 3)) == 3


def test_the_left_picture_is_the_one_that_the_key_says(made: Workspace, params: Params) -> None:
    """Read back from the embedded bytes, not from the code that put them there."""
    import base64
    import io

    page = blind_page(made, params, STYLE, A, B, 40)
    for pair, question in zip(page.pairs, questions_of(made), strict=True):
        stored = question.of_a if question.a_is_left else question.of_b
        with Image.open(stored.path) as image:
            expected = image.convert("RGB").tobytes()
        encoded = pair.left.source.partition(",")[2]
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
            assert image.convert("RGB").tobytes() == expected


def test_choices_come_back_to_whom_they_are_about(
    workspace: Workspace, params: Params, tmp_path: Path
) -> None:
    page = blind_page(workspace, params, STYLE, A, B, 40)
    choices = sides_of(workspace, A, page)
    lost, tied = list(choices)[:2]
    choices[lost] = "right" if choices[lost] == "left" else "left"
    choices[tied] = "neither"
    taken = take_choices(workspace, params, saved(tmp_path / "c.json", page, choices))
    assert (taken.style, taken.choices) == (STYLE, 8)
    assert taken.kept.parent == workspace.choices(STYLE)
    assert taken.kept.read_bytes() == (tmp_path / "c.json").read_bytes()
    kept = read_choices(workspace, params, STYLE)
    (found,) = kept.choices
    assert (found.a, found.b, found.people) == (A, B, 1)
    assert sorted(found.outcomes) == [LOST, TIED] + [WON] * 6
    assert kept.outdated == 0


def test_several_people_and_the_same_file_twice(
    workspace: Workspace, params: Params, tmp_path: Path
) -> None:
    page = blind_page(workspace, params, STYLE, A, B, 40)
    for name, wanted in (("one", A), ("two", B), ("one", A)):
        file = saved(tmp_path / f"{name}.json", page, sides_of(workspace, wanted, page))
        take_choices(workspace, params, file)
    (both,) = read_choices(workspace, params, STYLE).choices
    assert both.people == 2
    assert sorted(both.outcomes) == [LOST] * 8 + [WON] * 8


@pytest.mark.parametrize("order", [(1, 2), (2, 1)], ids=["as saved", "the other way round"])
def test_what_one_person_saved_last_counts_once(
    workspace: Workspace, params: Params, tmp_path: Path, order: tuple[int, int]
) -> None:
    """Saved after three choices and again after all: the first three are no choices of another."""
    page = blind_page(workspace, params, STYLE, A, B, 40)
    all_of_them = list(sides_of(workspace, A, page).items())
    for number in order:
        choices = dict(all_of_them if number == 2 else all_of_them[:3])
        folder = tmp_path / str(number)
        folder.mkdir()
        file = saved(folder / "same person.json", page, choices, {"saved": number})
        take_choices(workspace, params, file)
    (found,) = read_choices(workspace, params, STYLE).choices
    assert (found.people, len(found.outcomes)) == (1, 8)


def test_a_variant_can_be_asked_against_the_base(
    workspace: Workspace, params: Params, tmp_path: Path
) -> None:
    page = blind_page(workspace, params, STYLE, A, BASE, 40)
    file = saved(tmp_path / "c.json", page, {page.pairs[0].id: "left"})
    take_choices(workspace, params, file)
    (found,) = read_choices(workspace, params, STYLE).choices
    assert (found.a, found.b) == (A, BASE)


def test_choices_about_pictures_that_were_drawn_again_are_told_and_left_out(
    workspace: Workspace, params: Params, tmp_path: Path
) -> None:
    page = blind_page(workspace, params, STYLE, A, B, 40)
    file = saved(tmp_path / "c.json", page, sides_of(workspace, A, page))
    take_choices(workspace, params, file)
    picture = next((workspace.samples(STYLE, A, 0) / "images").glob("*.png"))
    with Image.open(picture) as image:
        image.rotate(90).save(picture)
    kept = read_choices(workspace, params, STYLE)
    assert (kept.choices, kept.outdated) == ((), 1)
    with pytest.raises(ChoicesError, match="drawn again"):
        take_choices(workspace, params, file)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "nsync-choices-0"}, "of this version"),
        ({"choices": {}}, "holds no choice"),
        ({"choices": {"strange": "left"}}, "no choice its page offered"),
        ({"style": "cubism"}, "not in params.yaml"),
        ({"asked": "many"}, "no choices file"),
        ({"sitting": "../../outside"}, "no choices file"),
    ],
)
def test_a_file_that_is_none_is_refused_and_nothing_is_kept(
    workspace: Workspace, params: Params, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    page = blind_page(workspace, params, STYLE, A, B, 40)
    file = saved(tmp_path / "c.json", page, {page.pairs[0].id: "left"}, changes)
    with pytest.raises(ChoicesError, match=said):
        take_choices(workspace, params, file)
    assert not workspace.choices(STYLE).exists()


def test_a_spoiled_file_among_those_that_are_kept_is_named(
    workspace: Workspace, params: Params, tmp_path: Path
) -> None:
    """As a merge in git can leave it. It is not left out silently: it is somebody's work."""
    page = blind_page(workspace, params, STYLE, A, B, 40)
    file = saved(tmp_path / "c.json", page, sides_of(workspace, A, page))
    kept = take_choices(workspace, params, file).kept
    kept.write_text("<<<<<<< HEAD\n" + kept.read_text())
    with pytest.raises(ChoicesError, match=kept.name):
        read_choices(workspace, params, STYLE)


def test_a_caption_cannot_end_the_script(made: Workspace, params: Params) -> None:
    from dataclasses import replace

    page = blind_page(made, params, STYLE, A, B, 1)
    spoiled = replace(page.pairs[0], caption="</script><script>alert(1)</script>")
    html = render_blind_page(replace(page, pairs=(spoiled,)))
    assert html.count("</script>") == 1
