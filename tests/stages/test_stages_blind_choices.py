"""The blind page and what comes back from it."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from style_workspace import STYLE, build_style_workspace, style_params

from nsync_pipeline.artifacts import BASE, TrainingRun, Workspace
from nsync_pipeline.errors import ChoicesError
from nsync_pipeline.metrics.preference import LOST, TIED, WON
from nsync_pipeline.params import Params
from nsync_pipeline.report.blind_page import FORMAT, BlindPage, render_blind_page
from nsync_pipeline.stages.blind_choices import (
    blind_page,
    draw_questions,
    read_choices,
    take_choices,
)
from nsync_pipeline.stages.picture_sets import read_style_pictures

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


def saved(
    path: Path, page: BlindPage, choices: dict[str, str], changes: dict[str, Any] | None = None
) -> Path:
    """What the page's script saves."""
    content = {
        "format": FORMAT, "style": page.style, "page": page.page_id, "asked": page.asked,
        "judge": "", "choices": choices,
    } | (changes or {})  # fmt: skip
    path.write_text(json.dumps(content))
    return path


def sides_of(workspace: Workspace, wanted: str, page: BlindPage) -> dict[str, str]:
    """The choices of somebody who always sees ``wanted`` as the better one."""
    pictures = read_style_pictures(workspace, STYLE, RUNS)
    questions = draw_questions(pictures, STYLE, A, B, page.asked, 0).asked
    a, b = ("left", "right") if wanted == A else ("right", "left")
    return {q.id: a if q.a_is_left else b for q in questions}


def test_the_page_names_nobody_and_asks_each_pair_once(made: Workspace, params: Params) -> None:
    page = blind_page(made, params, STYLE, A, B, 40)
    html = render_blind_page(page)
    assert len({pair.id for pair in page.pairs}) == len(page.pairs) == 8
    told = re.sub(r"data:image[^\"]*", "", html).replace(FORMAT, "").replace("nsync-choices-", "")
    assert not re.search(rf"{A}|{B}|orthogonal|http", told)


def test_both_sides_and_another_order_are_drawn(made: Workspace, params: Params) -> None:
    pictures = read_style_pictures(made, STYLE, RUNS)
    asked = draw_questions(pictures, STYLE, A, B, 40, 0).asked
    assert {question.a_is_left for question in asked} == {True, False}
    assert [question.of_a.id for question in asked] != sorted(q.of_a.id for q in asked)
    few = draw_questions(pictures, STYLE, A, B, 3, 0).asked
    assert len(few) == 3


def test_the_left_picture_is_the_one_that_the_key_says(made: Workspace, params: Params) -> None:
    """Read back from the embedded bytes, not from the code that put them there."""
    import base64
    import io

    page = blind_page(made, params, STYLE, A, B, 40)
    pictures = read_style_pictures(made, STYLE, RUNS)
    for pair, question in zip(
        page.pairs, draw_questions(pictures, STYLE, A, B, 40, 0).asked, strict=True
    ):
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
    taken, style, kept = take_choices(workspace, params, saved(tmp_path / "c.json", page, choices))
    assert (taken.a, taken.b, style) == (A, B, STYLE)
    assert sorted(taken.outcomes) == [LOST, TIED] + [WON] * 6
    assert kept.read_bytes() == (tmp_path / "c.json").read_bytes()
    found, others = read_choices(workspace, params, STYLE)
    assert found == [taken]
    assert others == 0


def test_several_people_and_the_same_file_twice(
    workspace: Workspace, params: Params, tmp_path: Path
) -> None:
    page = blind_page(workspace, params, STYLE, A, B, 40)
    for name, wanted in (("one", A), ("two", B), ("one", A)):
        file = saved(tmp_path / f"{name}.json", page, sides_of(workspace, wanted, page))
        take_choices(workspace, params, file)
    (both,), _ = read_choices(workspace, params, STYLE)
    assert both.files == 2
    assert sorted(both.outcomes) == [LOST] * 8 + [WON] * 8


def test_a_variant_can_be_asked_against_the_base(
    workspace: Workspace, params: Params, tmp_path: Path
) -> None:
    page = blind_page(workspace, params, STYLE, A, BASE, 40)
    file = saved(tmp_path / "c.json", page, {page.pairs[0].id: "left"})
    assert take_choices(workspace, params, file)[0].b == BASE


def test_choices_about_pictures_that_were_drawn_again_are_told_and_left_out(
    workspace: Workspace, params: Params, tmp_path: Path
) -> None:
    page = blind_page(workspace, params, STYLE, A, B, 40)
    file = saved(tmp_path / "c.json", page, sides_of(workspace, A, page))
    take_choices(workspace, params, file)
    picture = next((workspace.samples(STYLE, A, 0) / "images").glob("*.png"))
    with Image.open(picture) as image:
        image.rotate(90).save(picture)
    assert read_choices(workspace, params, STYLE) == ([], 1)
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


def test_a_caption_cannot_end_the_script(made: Workspace, params: Params) -> None:
    from dataclasses import replace

    page = blind_page(made, params, STYLE, A, B, 1)
    spoiled = replace(page.pairs[0], caption="</script><script>alert(1)</script>")
    html = render_blind_page(replace(page, pairs=(spoiled,)))
    assert html.count("</script>") == 1
