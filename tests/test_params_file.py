"""A style put into the text of params.yaml."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from nsync_pipeline.add_style import with_style
from nsync_pipeline.errors import ParamsError
from nsync_pipeline.settings_file import with_values

SHIPPED = Path(__file__).parent.parent / "params.yaml"
ENTRY = {"source": "folder", "placeholder": "sks", "generic_style": "painting"}


def loaded(text: str) -> dict[str, object]:
    content: dict[str, object] = YAML(typ="safe", pure=True).load(text)
    return content


def added_lines(before: str, after: str) -> list[str]:
    """The lines put in; fails where anything else changed."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    start = next(i for i, line in enumerate(new) if i >= len(old) or line != old[i])
    count = len(new) - len(old)
    assert new[:start] + new[start + count :] == old
    return [line.rstrip("\r\n") for line in new[start : start + count]]


def test_the_shipped_file_keeps_every_other_byte() -> None:
    before = SHIPPED.read_text(encoding="utf-8")
    after = with_style(before, "monet", ENTRY)
    assert added_lines(before, after) == [
        "  monet:",
        "    source: folder",
        "    placeholder: sks",
        "    generic_style: painting",
    ]
    styles = loaded(after)["styles"]
    assert isinstance(styles, dict)
    assert list(styles)[-1] == "monet"
    assert styles["monet"] == ENTRY


def test_comments_between_sections_stay_with_the_next_section() -> None:
    before = (
        "styles:\n  ink:  # mine\n    source: folder\n    # of ink\n\n"
        "# What is left out.\nstyle_set:\n  min_side: 64\n"
    )
    after = with_style(before, "monet", {"source": "folder"})
    assert after == (
        "styles:\n  ink:  # mine\n    source: folder\n  monet:\n    source: folder\n"
        "    # of ink\n\n# What is left out.\nstyle_set:\n  min_side: 64\n"
    )


def test_the_indentation_and_line_ends_of_the_file_are_taken_over() -> None:
    before = "styles:\r\n    ink:\r\n        source: folder\r\nseed: 0\r\n"
    after = with_style(before, "monet", {"source": "folder", "style_words": ["Monet"]})
    assert added_lines(before, after) == [
        "    monet:",
        "        source: folder",
        "        style_words:",
        "            - Monet",
    ]
    assert after.count("\r\n") == after.count("\n")


def test_styles_at_the_end_of_a_file_without_a_last_line_end() -> None:
    after = with_style("seed: 0\nstyles:\n  ink:\n    source: folder", "monet", ENTRY)
    assert list(loaded(after)["styles"]) == ["ink", "monet"]  # type: ignore[call-overload]


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=40))
def test_any_words_come_back_as_they_were(words: str) -> None:
    after = with_style("styles:\n  ink:\n    source: folder\n", "monet", {"placeholder": words})
    assert loaded(after)["styles"] == {
        "ink": {"source": "folder"},
        "monet": {"placeholder": words},
    }


def test_styles_written_in_braces_are_left_alone_and_the_lines_given() -> None:
    with pytest.raises(ParamsError, match=r"yourself:\n(.*\n)*.*monet:\n.*source: folder"):
        with_style("styles: {ink: {source: folder}}\nseed: 0\n", "monet", {"source": "folder"})


@pytest.mark.parametrize("behind", ["", "\n", "\n# of b\n", "  # of ink\n\n\n# of b\n"])
@pytest.mark.parametrize("own", ["", "  # a folder"])
def test_what_stands_behind_a_section_stays_behind_it(own: str, behind: str) -> None:
    before = f"a:\n  ink:\n    source: x{own}\n{behind}b: 1\n"
    after = with_values(before, {"a.ink.name": None, "a.ink.steps": 3})
    assert after == f"a:\n  ink:\n    source: x{own}\n    name: null\n    steps: 3\n{behind}b: 1\n"


def test_a_comment_before_the_next_key_stays_there() -> None:
    before = "a:\n  one: 1\n  # of two\n  two: 2  # b\n"
    assert with_values(before, {"a.three": 3}) == before + "  three: 3\n"
