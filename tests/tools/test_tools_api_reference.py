"""The committed page of the library says what its docstrings say."""

import re
from pathlib import Path
from typing import get_args

import nsync_pipeline
from nsync_pipeline import ContrastConfig, Diagnostics, UpdateRule
from tools.api_reference import reference

REPOSITORY = Path(__file__).parents[2]


def test_the_committed_page_is_current() -> None:
    page = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
    assert page == reference(), "python -m tools.api_reference > docs/api.md"


def test_every_public_name_has_a_section_with_words() -> None:
    sections = re.split(r"^## `(\w+)`$", reference(), flags=re.MULTILINE)[1:]
    assert sections[::2] == list(nsync_pipeline.__all__)
    assert all(re.search(r"^\w.+[.:]$", text, re.MULTILINE) for text in sections[1::2])


def test_every_field_and_every_rule_is_on_it() -> None:
    page = reference()
    rows = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert rows >= {*ContrastConfig.model_fields, *Diagnostics.__dataclass_fields__}
    assert set(re.findall(r"^### `(\w+)`$", page, re.MULTILINE)) == set(get_args(UpdateRule))
