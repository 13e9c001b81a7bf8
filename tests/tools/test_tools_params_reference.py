"""The committed page of settings says what the schema says."""

import re
from pathlib import Path

import pytest

from nsync_pipeline.params import Params, read_params
from nsync_pipeline.settings import flat
from tools.params_reference import reference

REPOSITORY = Path(__file__).parents[2]


def test_the_committed_page_is_current() -> None:
    page = (REPOSITORY / "docs" / "params.md").read_text(encoding="utf-8")

    assert page == reference(), "python -m tools.params_reference > docs/params.md"


def test_every_key_of_the_projects_settings_is_on_the_page() -> None:
    params = read_params(REPOSITORY / "params.yaml").model_dump(mode="json")
    keys = set(re.findall(r"^\| `([\w.<>]+)` \|", reference(), re.MULTILINE))
    names = {
        r"^styles\.\w+\.": "styles.<style>.", r"^variants\.\w+\.": "training.",
        r"^ablation\.grid\..*": "ablation.grid",
    }  # fmt: skip
    used = {key for key, value in flat(params).items() if value != {}}
    for of_the_users, told in names.items():
        used = {re.sub(of_the_users, told, key) for key in used}

    assert used - keys == set()


def test_every_key_says_what_it_is() -> None:
    rows = [line for line in reference().splitlines() if line.startswith("| `")]

    assert len(rows) > 50
    assert [row for row in rows if row.endswith("|  |")] == []


@pytest.mark.parametrize(
    ("key", "cells"),
    [
        ("training.learning_rate", "number | `0.001` | > 0, ≤ 1.0 |"),
        (
            "base_model.resolution",
            "whole number or `null` | `null` | ≥ 32, ≤ 4096, a multiple of 8",
        ),
        ("styles.<style>.source", "text | *needed* |"),
        ("training.shared_noise", "true or false | `false` |"),
        ("styles.<style>.style_words", "list of text | `[]` |"),
        ("variants.<variant>.update_rule", "one of `none`, `orthogonal`, "),
    ],
)
def test_type_default_and_bounds_are_told(key: str, cells: str) -> None:
    (row,) = [line for line in reference().splitlines() if line.startswith(f"| `{key}` |")]

    assert f"`{key}` | {cells}" in row


def test_the_page_follows_the_schema_not_a_copy_of_it() -> None:
    assert set(re.findall(r"^## `(\w+)", reference(), re.MULTILINE)) == {
        name for name in Params.model_fields if name not in ("seed", "training_seeds")
    }
