"""The blind page and what comes back from it."""

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nsync_pipeline.blind.choices import (
    DRAWN_AGAIN,
    EITHER,
    GONE,
    SIDES,
    KeptChoices,
    TakenFile,
    preferences,
    read_choices,
    take_choices,
)
from nsync_pipeline.blind.page import FORMAT, BlindPage, blind_page, render_blind_page
from nsync_pipeline.blind.preference import LOST, TIED, WON
from nsync_pipeline.blind.questions import Question, draw_questions, picture_digests
from nsync_pipeline.errors import ChoicesError
from nsync_pipeline.pictures.style_pictures import read_style_pictures
from nsync_pipeline.seeding import numpy_stream
from nsync_pipeline.workspace import BASE, TrainingRun, Workspace
from tests.support.style_workspace import STYLE, build_style_workspace

A, B = "nsync", "lora"
RUNS = [TrainingRun(A, 0), TrainingRun(B, 0)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return build_style_workspace(tmp_path_factory.mktemp("made"), test=8)


@pytest.fixture
def workspace(made: Workspace, tmp_path: Path) -> Workspace:
    """A copy a test may spoil."""
    return Workspace(Path(shutil.copytree(made.root, tmp_path / "copy")))


def questions_between(workspace: Workspace, a: str, b: str, most: int = 40) -> tuple[Question, ...]:
    pictures = read_style_pictures(workspace, STYLE, RUNS)
    return draw_questions(pictures, picture_digests(pictures), STYLE, a, b, most, 0).asked


def questions_of(workspace: Workspace, most: int = 40) -> tuple[Question, ...]:
    return questions_between(workspace, A, B, most)


def take(
    workspace: Workspace, file: Path, variants: Sequence[str] = (B, A), seeds: Sequence[int] = (0,)
) -> TakenFile:
    return take_choices(workspace, file, [STYLE], variants, seeds)


def read(
    workspace: Workspace, variants: Sequence[str] = (B, A), seeds: Sequence[int] = (0,)
) -> KeptChoices:
    return read_choices(workspace, STYLE, variants, seeds)


def saved(
    path: Path, page: BlindPage, choices: dict[str, str], changes: dict[str, Any] | None = None
) -> Path:
    """What the page's script saves; each file name is another person's."""
    sitting = hashlib.sha256(path.stem.encode()).hexdigest()[:16]
    content = {
        "format": FORMAT, "style": page.style, "page": page.page_id, "pair": page.pair_id,
        "asked": page.asked,
        "judge": "", "sitting": sitting, "saved": 1, "choices": choices,
    } | (changes or {})  # fmt: skip
    path.write_text(json.dumps(content))
    return path


def sides_of(workspace: Workspace, wanted: str, page: BlindPage) -> dict[str, str]:
    """The choices of somebody who always sees ``wanted`` as the better one."""
    questions = questions_of(workspace, page.asked)
    a, b = ("left", "right") if wanted == A else ("right", "left")
    return {q.id: a if q.a_is_left else b for q in questions}


def test_the_page_names_nobody_and_asks_each_pair_once(made: Workspace) -> None:
    page = blind_page(made, STYLE, A, B, 40, 0)
    html = render_blind_page(page)
    assert len({pair.id for pair in page.pairs}) == len(page.pairs) == 8
    told = re.sub(r"data:image[^\"]*", "", html).replace(FORMAT, "").replace("nsync-choices-", "")
    assert not re.search(rf"{A}|{B}|orthogonal|http", told)


def test_both_sides_and_another_order_are_drawn(made: Workspace) -> None:
    asked = questions_of(made)
    assert {question.a_is_left for question in asked} == {True, False}
    assert [question.of_a.id for question in asked] != sorted(q.of_a.id for q in asked)
    assert len(questions_of(made, 3)) == 3


def test_the_left_picture_is_the_one_that_the_key_says(made: Workspace) -> None:
    """Read back from the embedded bytes, not from the code that put them there."""
    import base64
    import io

    page = blind_page(made, STYLE, A, B, 40, 0)
    for pair, question in zip(page.pairs, questions_of(made), strict=True):
        stored = question.of_a if question.a_is_left else question.of_b
        with Image.open(stored.path) as image:
            expected = image.convert("RGB").tobytes()
        encoded = pair.left.source.partition(",")[2]
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
            assert image.convert("RGB").tobytes() == expected


def test_choices_come_back_to_whom_they_are_about(workspace: Workspace, tmp_path: Path) -> None:
    page = blind_page(workspace, STYLE, A, B, 40, 0)
    choices = sides_of(workspace, A, page)
    lost, tied = list(choices)[:2]
    choices[lost] = "right" if choices[lost] == "left" else "left"
    choices[tied] = "neither"
    taken = take(workspace, saved(tmp_path / "c.json", page, choices))
    assert (taken.style, taken.choices) == (STYLE, 8)
    assert taken.kept.parent == workspace.choices(STYLE)
    assert taken.kept.read_bytes() == (tmp_path / "c.json").read_bytes()
    kept = read(workspace)
    (found,) = kept.choices
    assert (found.a, found.b, found.people) == (A, B, 1)
    assert sorted(found.outcomes) == [LOST, TIED] + [WON] * 6
    assert kept.set_aside == ()
    assert taken.set_aside is None


def test_several_people_and_the_same_file_twice(workspace: Workspace, tmp_path: Path) -> None:
    page = blind_page(workspace, STYLE, A, B, 40, 0)
    for name, wanted in (("one", A), ("two", B), ("one", A)):
        file = saved(tmp_path / f"{name}.json", page, sides_of(workspace, wanted, page))
        take(workspace, file)
    (both,) = read(workspace).choices
    assert both.people == 2
    assert sorted(both.outcomes) == [LOST] * 8 + [WON] * 8


@pytest.mark.parametrize("order", [(1, 2), (2, 1)], ids=["as saved", "the other way round"])
def test_what_one_person_saved_last_counts_once(
    workspace: Workspace, tmp_path: Path, order: tuple[int, int]
) -> None:
    """Saved after three choices and again after all: the first three are no choices of another."""
    page = blind_page(workspace, STYLE, A, B, 40, 0)
    all_of_them = list(sides_of(workspace, A, page).items())
    for number in order:
        choices = dict(all_of_them if number == 2 else all_of_them[:3])
        folder = tmp_path / str(number)
        folder.mkdir()
        file = saved(folder / "same person.json", page, choices, {"saved": number})
        take(workspace, file)
    (found,) = read(workspace).choices
    assert (found.people, len(found.outcomes)) == (1, 8)


def test_a_variant_can_be_asked_against_the_base(workspace: Workspace, tmp_path: Path) -> None:
    page = blind_page(workspace, STYLE, A, BASE, 40, 0)
    file = saved(tmp_path / "c.json", page, {page.pairs[0].id: "left"})
    take(workspace, file)
    (found,) = read(workspace).choices
    assert (found.a, found.b) == (A, BASE)


def draw_again(workspace: Workspace) -> Path:
    """Turn a picture of A's round; the picture."""
    picture = min((workspace.samples(STYLE, A, 0) / "images").glob("*.png"))
    with Image.open(picture) as image:
        image.rotate(90).save(picture)
    return picture


def test_choices_about_pictures_that_were_drawn_again_are_kept_and_set_aside(
    workspace: Workspace, tmp_path: Path
) -> None:
    """Taken before or after, and counted again once the pictures are back."""
    page = blind_page(workspace, STYLE, A, B, 40, 0)
    early, late = (
        saved(tmp_path / f"{name}.json", page, sides_of(workspace, A, page))
        for name in ("early", "late")
    )
    kept = take(workspace, early).kept
    before = min((workspace.samples(STYLE, A, 0) / "images").glob("*.png")).read_bytes()
    picture = draw_again(workspace)
    taken = take(workspace, late)
    assert (taken.choices, taken.set_aside) == (8, DRAWN_AGAIN)
    found = read(workspace)
    assert found.choices == ()
    assert {(one.file, one.choices, one.reason) for one in found.set_aside} == {
        (kept, 8, DRAWN_AGAIN), (taken.kept, 8, DRAWN_AGAIN),
    }  # fmt: skip
    picture.write_bytes(before)
    again = read(workspace)
    assert (again.choices[0].people, again.set_aside) == (2, ())


def test_choices_about_a_variant_that_is_gone_are_kept_and_set_aside(
    workspace: Workspace, tmp_path: Path
) -> None:
    page = blind_page(workspace, STYLE, A, B, 40, 0)
    file = saved(tmp_path / "c.json", page, sides_of(workspace, A, page))
    assert take(workspace, file, variants=(B,)).set_aside == GONE
    assert [one.reason for one in read(workspace, variants=(B,)).set_aside] == [GONE]
    assert [one.reason for one in read(workspace, seeds=(4,)).set_aside] == [GONE]
    back = read(workspace)
    assert (back.choices[0].outcomes, back.set_aside) == ((WON,) * 8, ())


def test_choices_about_a_training_that_has_not_drawn_yet_are_kept(
    workspace: Workspace, tmp_path: Path
) -> None:
    page = blind_page(workspace, STYLE, A, B, 40, 0)
    file = saved(tmp_path / "c.json", page, sides_of(workspace, A, page))
    shutil.rmtree(workspace.samples(STYLE, B, 0))
    assert take(workspace, file).set_aside == DRAWN_AGAIN
    assert take(workspace, file).kept.read_bytes() == file.read_bytes()


def old_page(workspace: Workspace, a: str, b: str) -> tuple[str, dict[str, bool]]:
    """The page of ``nsync-choices-2``, and of each of its questions whether a is on the left."""
    pictures = read_style_pictures(workspace, STYLE, RUNS)
    names = {A: "nsync-0", B: "lora-0", BASE: BASE}
    digests = [
        [hashlib.sha256(one.path.read_bytes()).hexdigest() for one in pair]
        for pair in zip(*(pictures.samples[names[name]] for name in (a, b)), strict=True)
    ]
    content = json.dumps([STYLE, sorted(digests), 40]).encode()
    page_id = hashlib.sha256(content).hexdigest()[:16]
    a_is_left = {}
    for pair, sample in zip(digests, pictures.samples[BASE], strict=True):
        told = f"{page_id} {min(pair)} {max(pair)} {sample.id}"
        name = hashlib.sha256(told.encode()).hexdigest()[:16]
        a_is_left[name] = bool(numpy_stream(int(page_id, 16) >> 1, "blind side", name).integers(2))
    return page_id, a_is_left


def old_file(workspace: Workspace, path: Path, a: str, b: str) -> Path:
    """What somebody saved on such a page who always sees ``a`` as the better one."""
    page_id, a_is_left = old_page(workspace, a, b)
    choices = {name: "left" if is_left else "right" for name, is_left in a_is_left.items()}
    path.write_text(json.dumps({
        "format": "nsync-choices-2", "style": STYLE, "page": page_id, "asked": 40, "judge": "",
        "sitting": "0123456789abcdef", "saved": 1, "choices": choices,
    }))  # fmt: skip
    return path


PAIRS = list(permutations((A, B, BASE), 2))


@pytest.mark.parametrize("variants", [(A, B), (B, A)], ids=["a first", "b first"])
@pytest.mark.parametrize("between", PAIRS, ids=[f"{a} against {b}" for a, b in PAIRS])
def test_pages_of_the_version_before_are_read_in_either_order(
    workspace: Workspace, tmp_path: Path, between: tuple[str, str], variants: tuple[str, str]
) -> None:
    file = old_file(workspace, tmp_path / "c.json", *between)
    taken = take(workspace, file, variants)
    assert (taken.choices, taken.set_aside) == (8, None)
    (found,) = read(workspace, variants).choices
    assert {found.a, found.b} == set(between)
    assert set(found.outcomes) == {WON if found.a == between[0] else LOST}


def test_an_old_file_about_other_pictures_is_set_aside(
    workspace: Workspace, tmp_path: Path
) -> None:
    """It does not say whom it is about, so which reason it is cannot be told."""
    file = old_file(workspace, tmp_path / "c.json", B, A)
    draw_again(workspace)
    assert take(workspace, file).set_aside == EITHER


@pytest.mark.parametrize("between", PAIRS, ids=[f"{a} against {b}" for a, b in PAIRS])
def test_a_page_is_the_same_whoever_is_named_first(
    made: Workspace, between: tuple[str, str]
) -> None:
    a, b = between
    assert blind_page(made, STYLE, a, b, 40, 0) == blind_page(made, STYLE, b, a, 40, 0)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_order_changes_what_people_prefer(made: Workspace, data: st.DataObject) -> None:
    """The order of the two on the page, and that of the variants in params.yaml."""
    pair = data.draw(st.sampled_from(PAIRS))
    variants = data.draw(st.permutations((A, B)))
    with TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        for name in ("data", "samples"):
            (workspace.root / name).symlink_to(made.root / name)
        page = blind_page(made, STYLE, *pair, 40, 0)
        asked = questions_between(made, min(pair), max(pair))
        sides = data.draw(st.lists(st.sampled_from(SIDES), min_size=len(asked), max_size=8))
        choices = {question.id: side for question, side in zip(asked, sides, strict=True)}
        file = saved(workspace.root / "c.json", page, choices)
        assert take(workspace, file, variants).set_aside is None
        (found,) = preferences(read(workspace, variants), STYLE, 0, 100)
        (turned,) = preferences(read(workspace, variants[::-1]), STYLE, 0, 100)
    assert {found.a, found.b} == set(pair)
    first = min(pair)
    result = found.preference if found.a == first else found.preference.turned()
    wins = sum(
        side != "neither" and (side == "left") == question.a_is_left
        for question, side in zip(asked, sides, strict=True)
    )
    ties = sides.count("neither")
    assert (result.wins, result.ties, result.losses) == (wins, ties, len(sides) - wins - ties)
    assert (found.b == BASE) or [found.b, found.a] == list(variants)
    if found.b != BASE:
        own, other = (found, turned) if found.a == first else (turned, found)
        assert own.preference.turned() == other.preference


def test_two_tabs_of_one_person_lose_nothing(workspace: Workspace, tmp_path: Path) -> None:
    """Each tab has its own three choices, and both say that they were saved once."""
    page = blind_page(workspace, STYLE, A, B, 40, 0)
    all_of_them = list(sides_of(workspace, A, page).items())
    for number, part in enumerate((all_of_them[:3], all_of_them[3:6])):
        folder = tmp_path / str(number)
        folder.mkdir()
        take(workspace, saved(folder / "same person.json", page, dict(part)))
    (found,) = read(workspace).choices
    assert (found.people, found.outcomes) == (1, (WON,) * 6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "nsync-choices-0"}, "of this version"),
        ({"choices": {}}, "holds no choice"),
        ({"choices": {"strange": "left"}}, "no choice its page offered"),
        ({"style": "cubism"}, "not in params.yaml"),
        ({"asked": "many"}, "no choices file"),
        ({"sitting": "../../outside"}, "no choices file"),
        ({"page": "../../outside"}, "no choices file"),
        ({"choices": {"strange": "up"}}, "no choice its page offered"),
    ],
)
def test_a_file_that_is_none_is_refused_and_nothing_is_kept(
    workspace: Workspace, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    page = blind_page(workspace, STYLE, A, B, 40, 0)
    file = saved(tmp_path / "c.json", page, {page.pairs[0].id: "left"}, changes)
    with pytest.raises(ChoicesError, match=said):
        take(workspace, file)
    assert not workspace.choices(STYLE).exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=3,
)
KEYS = st.sampled_from(
    ("format", "style", "page", "pair", "asked", "judge", "sitting", "saved", "choices")
)


@pytest.fixture(scope="module")
def page(made: Workspace) -> BlindPage:
    return blind_page(made, STYLE, A, B, 40, 0)


@settings(deadline=None, max_examples=15, database=None, derandomize=True)
@given(st.dictionaries(KEYS, JSON, min_size=1, max_size=2), st.booleans())
def test_whatever_a_choices_file_says_it_is_taken_or_refused(
    made: Workspace, page: BlindPage, changes: dict[str, Any], of_these: bool
) -> None:
    if not of_these:  # of pictures that are no longer there
        changes = {"page": "0" * 16, **changes}
    with TemporaryDirectory() as folder:
        file = saved(Path(folder) / "c.json", page, {page.pairs[0].id: "left"}, changes)
        try:
            taken = take(made, file)
        except ChoicesError:
            assert not made.choices(STYLE).exists()
            return
        kept = read(made)
    shutil.rmtree(made.choices(STYLE))
    counted = [len(found.outcomes) for found in kept.choices]
    assert taken.choices == sum(counted) + sum(aside.choices for aside in kept.set_aside)


def test_a_spoiled_file_among_those_that_are_kept_is_named(
    workspace: Workspace, tmp_path: Path
) -> None:
    """As a merge in git can leave it. It is not left out silently: it is somebody's work."""
    page = blind_page(workspace, STYLE, A, B, 40, 0)
    file = saved(tmp_path / "c.json", page, sides_of(workspace, A, page))
    kept = take(workspace, file).kept
    kept.write_text("<<<<<<< HEAD\n" + kept.read_text())
    with pytest.raises(ChoicesError, match=kept.name):
        read(workspace)


def test_a_caption_cannot_end_the_script(made: Workspace) -> None:
    from dataclasses import replace

    page = blind_page(made, STYLE, A, B, 1, 0)
    spoiled = replace(page.pairs[0], caption="</script><script>alert(1)</script>")
    html = render_blind_page(replace(page, pairs=(spoiled,)))
    assert html.count("</script>") == 1
