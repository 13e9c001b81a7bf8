"""``params.yaml``: the project's own is valid, and each mistake is one line that helps."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nsync_pipeline.errors import ParamsError
from nsync_pipeline.params import Params, parse_params, read_params
from nsync_pipeline.training.config import TrainingConfig

REPOSITORY = Path(__file__).parents[1]


def content(**changes: Any) -> dict[str, Any]:
    """The smallest params, changed at dotted keys."""
    least: dict[str, Any] = {
        "styles": {"ink": {"source": "folder"}},
        "variants": {"lora": {"update_rule": "none"}},
    }
    for key, value in changes.items():
        section = least
        *parents, last = key.split("__")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return least


def message(**changes: Any) -> str:
    with pytest.raises(ParamsError) as caught:
        parse_params(content(**changes))
    return str(caught.value)


def test_the_projects_own_settings_are_valid() -> None:
    params = read_params(REPOSITORY / "params.yaml")

    assert list(params.variants) == ["lora", "nsync", "nsync_every_4"]


def test_what_is_left_out_has_its_default() -> None:
    assert parse_params(content()).training == TrainingConfig()


def test_an_unknown_key_is_named_with_what_was_meant_and_what_is_allowed() -> None:
    said = message(training__learning_rte=0.1)

    assert said.startswith(
        "params.yaml: training.learning_rte: unknown key (did you mean learning_rate?); "
        "allowed here: update_rule, steps, "
    )
    assert "\n" not in said


def test_an_unknown_key_of_a_style_and_of_a_variant_lists_what_is_allowed_there() -> None:
    assert "allowed here: source, pictures," in message(styles__ink__sorce="folder")
    assert "did you mean update_rule?" in message(variants__lora__update_role="none")
    assert "did you mean rank?" in message(variants__lora__lora={"ranc": 4})
    assert "allowed here: scheduler, steps," in message(generation__sampler__stepz=4)


def test_an_unknown_section_is_named() -> None:
    assert "params.yaml: trainig: unknown key (did you mean training?)" in message(trainig={})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"training__steps": 0},
            "params.yaml: training.steps: 0 is not allowed: "
            "input should be greater than or equal to 1",
        ),
        (
            {"training__learning_rate": "fast"},
            "params.yaml: training.learning_rate: 'fast' is not allowed: "
            "input should be a valid number",
        ),
        (
            {"training__steps": 1.5},
            "params.yaml: training.steps: 1.5 is not allowed: input should be a valid integer",
        ),
        (
            {"training__shared_noise": 1},
            "params.yaml: training.shared_noise: 1 is not allowed: "
            "input should be a valid boolean",
        ),
        (
            {"variants__lora__update_rule": "orthogonol"},
            "params.yaml: variants.lora.update_rule: 'orthogonol' is not allowed: "
            "input should be 'none', 'orthogonal', 'orthogonal_anchor', 'mean', 'released', "
            "'safeguarded', 'preference', 'prior_preservation', 'class_preservation', "
            "'contrastive_target', 'slider', 'negative_aware' or 'differential'",
        ),
        (
            {"training__keep": "best"},
            "params.yaml: training: keep is best, which goes by the score of looks: set "
            "watch.every above 0, and watch.extractor",
        ),
        (
            {"base_model__resolution": 50},
            "params.yaml: base_model.resolution: 50 is not allowed: "
            "input should be a multiple of 8",
        ),
        (
            {"styles__ink": {}},
            "params.yaml: styles.ink.source: missing; it has no default",
        ),
        (
            {"variants__base": {"update_rule": "none"}},
            "params.yaml: variants: 'base' is taken: it names the untrained base model",
        ),
        (
            {"variants__base_by_name": {"update_rule": "none"}},
            "params.yaml: variants: 'base_by_name' is taken: it names the untrained base model",
        ),
        (
            {"training_seeds": [0, 3, 3]},
            "params.yaml: training_seeds: 3 is named twice: each training has a seed of its own",
        ),
        (
            {"training_seeds": [0, -1]},
            "params.yaml: training_seeds.1: -1 is not allowed: "
            "input should be greater than or equal to 0",
        ),
        (
            {"styles__ink__source": "sketchbook:woodblock"},
            "params.yaml: styles.ink.pictures is missing: how many to draw",
        ),
        (
            {"styles__ink__pictures": 3},
            "params.yaml: styles.ink.pictures goes only with a sketchbook source",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_key_value_and_what_is_allowed(
    changes: dict[str, Any], line: str
) -> None:
    assert message(**changes) == line


@pytest.mark.parametrize("name", ["Ink", "my-style", "a.b", "a|b", "", "ä", "a" * 49, "_a"])
def test_a_name_that_breaks_dvc_is_refused(name: str) -> None:
    with pytest.raises(ParamsError) as caught:
        parse_params({**content(), "styles": {name: {"source": "folder"}}})

    assert repr(name) in str(caught.value)
    assert "lower-case letters, digits and _ only" in str(caught.value)


@given(st.from_regex(r"[a-z0-9][a-z0-9_]{0,47}", fullmatch=True))
def test_any_other_name_is_taken(name: str) -> None:
    params = parse_params({**content(), "styles": {name: {"source": "folder"}}})

    assert list(params.styles) == [name]


def test_every_mistake_is_told_at_once_a_line_each() -> None:
    lines = message(training__steps=0, report__rows="many", sead=1).splitlines()

    assert len(lines) == 3
    assert all(line.startswith("params.yaml: ") for line in lines)


def test_a_whole_number_is_taken_where_a_number_is_asked_for() -> None:
    assert parse_params(content(training__learning_rate=1)).training.learning_rate == 1.0


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_a_number_that_is_not_finite_is_refused(number: str) -> None:
    assert "training.learning_rate" in message(training__learning_rate=float(number))


def test_settings_cannot_be_changed_once_read() -> None:
    params = parse_params(content())
    with pytest.raises(ValidationError):
        params.training.steps = 5  # type: ignore[misc]


def test_a_variant_changes_only_what_it_names() -> None:
    params = parse_params(
        content(training__steps=7, variants__nsync={"update_rule": "orthogonal", "batch_size": 2})
    )
    changed = params.variant("nsync")

    assert (changed.update_rule, changed.batch_size, changed.steps) == ("orthogonal", 2, 7)
    assert params.training.batch_size == 8


def test_a_variant_changes_a_key_of_a_section_and_leaves_the_others() -> None:
    params = parse_params(
        content(
            training__lora={"alpha": 3.0, "targets": ["to_q", "to_k"]},
            variants__small={"update_rule": "none", "lora": {"rank": 4, "targets": ["to_v"]}},
        )
    )
    lora = params.variant("small").lora

    assert lora is not None
    assert (lora.rank, lora.alpha, lora.targets) == (4, 3.0, ("to_v",))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"lora": {"rank": 0}},
            "params.yaml: variants.nsync.lora.rank: 0 is not allowed: "
            "input should be greater than or equal to 1",
        ),
        (
            {"checkpoint_evry": 5},
            "params.yaml: variants.nsync.checkpoint_evry: unknown key (did you mean "
            "checkpoint_every?); allowed here: update_rule, steps, ",
        ),
        (
            {"max_gradient_norm": "none"},
            "params.yaml: variants.nsync.max_gradient_norm: 'none' is not allowed: "
            "input should be a valid number",
        ),
        (
            {"steps": None},
            "params.yaml: variants.nsync.steps: None is not allowed: "
            "input should be a valid integer",
        ),
    ],
)
def test_a_mistake_in_a_variant_is_told_as_one_in_training(
    change: dict[str, Any], line: str
) -> None:
    said = message(variants__nsync={"update_rule": "orthogonal", **change})

    assert said.startswith(line)
    assert "\n" not in said


def test_every_key_of_training_can_be_changed_by_a_variant() -> None:
    training = TrainingConfig()
    variant = {**training.model_dump(mode="json"), "steps": 3, "max_gradient_norm": None}
    params = parse_params(content(variants__all=variant))

    assert params.variant("all") == training.model_copy(
        update={"steps": 3, "max_gradient_norm": None}
    )


def test_of_a_variant_only_what_it_changes_is_written() -> None:
    change = {"update_rule": "none", "max_gradient_norm": None, "lora": {"rank": 2}}
    written = parse_params(content(variants__v=change)).model_dump(mode="json")

    assert written["variants"]["v"] == change


def test_a_name_that_is_not_there_is_answered_with_those_that_are() -> None:
    params = parse_params(content())
    with pytest.raises(
        ParamsError, match=r"variant 'nsync' is not in params\.yaml; there are: lora"
    ):
        params.variant("nsync")
    with pytest.raises(ParamsError, match=r"style 'oil' is not in params\.yaml; there are: ink"):
        params.style("oil")


def test_a_missing_file_says_where_to_go(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"params\.yaml is not there: run this in the folder"):
        read_params(tmp_path / "params.yaml")


@pytest.mark.parametrize("text", ["a: [1", "a: 1\na: 2\n", "\t- x", "a: !!python/object:os.x {}"])
def test_what_is_not_plain_yaml_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError) as caught:
        read_params(path)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "found"), [("", "NoneType"), ("- a\n", "list"), ("a", "str")])
def test_a_file_without_sections_is_refused(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match=f"must be a mapping of sections, found {found}"):
        read_params(path)


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParamsError, match="is not YAML"):
        read_params(path)


def test_a_section_that_is_no_mapping_is_refused() -> None:
    assert "params.yaml: training: [] is not allowed" in message(training=[])


def test_every_variant_is_trained_once_a_seed_variant_by_variant() -> None:
    params = parse_params(content(training_seeds=[7, 0], variants__nsync={"update_rule": "mean"}))
    names = [run.name for run in params.training_runs()]
    assert names == ["lora-7", "lora-0", "nsync-7", "nsync-0"]
    assert params.training_seed(None) == 7
    assert params.training_seed(0) == 0


def test_a_training_seed_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(ParamsError, match=r"training seed 1 is not in .*; there are: 0, 2"):
        parse_params(content(training_seeds=[0, 2])).training_seed(1)


def test_no_style_no_variant_and_no_training_are_refused() -> None:
    assert "styles" in message(styles={})
    assert "training_seeds" in message(training_seeds=[])
    assert "variants" in message(variants={})


@pytest.mark.parametrize("key", [1, True, None])
def test_a_key_that_is_no_text_is_refused_like_any_other(key: Any) -> None:
    with pytest.raises(ParamsError, match="unknown key"):
        parse_params({**content(), key: {}})


def test_settings_survive_being_written_and_read() -> None:
    params = parse_params(content(training__lora={"rank": 4, "targets": ["to_q"]}))

    assert parse_params(json.loads(params.model_dump_json())) == params
    assert Params.model_validate(params) == params
