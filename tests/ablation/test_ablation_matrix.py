"""What the section ``ablation`` becomes: variants with names of their own, none trained twice."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsync_pipeline.ablation import MOST, Matrix, idle_settings, variant_name
from nsync_pipeline.errors import ParamsError
from nsync_pipeline.params import parse_params
from nsync_pipeline.settings import flat
from nsync_pipeline.settings_file import NAME


def matrix(ablation: dict[str, Any], **training: Any) -> Matrix:
    return parse_params(
        {
            "styles": {"ink": {"source": "folder"}},
            "variants": {"nsync": {"update_rule": "orthogonal"}},
            "training": training,
            "ablation": ablation,
        }
    ).ablation_matrix()


def of_grid(grid: dict[str, list[Any]], **training: Any) -> Matrix:
    return matrix({"grid": grid}, **training)


def message(ablation: dict[str, Any], **training: Any) -> str:
    with pytest.raises(ParamsError) as caught:
        matrix(ablation, **training)
    return str(caught.value)


def test_the_grid_is_the_product_of_its_settings_the_first_one_slowest() -> None:
    found = of_grid({"contrast.positive_part": [False, True], "learning_rate": [0.001, 0.0005]})

    assert list(found.variants) == [
        "orthogonal", "orthogonal_learning_rate_0_0005", "orthogonal_positive_part",
        "orthogonal_positive_part_learning_rate_0_0005",
    ]  # fmt: skip
    assert found.notes == ()
    last = found.variants["orthogonal_positive_part_learning_rate_0_0005"]
    assert last.model_dump() == {
        "update_rule": "orthogonal", "learning_rate": 0.0005, "contrast": {"positive_part": True},
    }  # fmt: skip


def test_what_means_nothing_for_a_rule_makes_no_variant_of_it() -> None:
    """none x 2 x 2 is one training, orthogonal x 2 x 2 are four."""
    found = of_grid(
        {
            "update_rule": ["none", "orthogonal"],
            "shared_noise": [False, True],
            "contrast.positive_part": [False, True],
        }
    )

    assert list(found.variants) == [
        "none", "orthogonal", "orthogonal_positive_part", "orthogonal_shared_noise",
        "orthogonal_shared_noise_positive_part",
    ]  # fmt: skip
    assert found.notes == (
        "none stands for 4 combinations of the grid: shared_noise and contrast.positive_part "
        "would change nothing there",
    )


def test_a_combination_no_training_can_have_is_left_out_and_told() -> None:
    found = of_grid(
        {"contrast.metric": ["euclidean", "optimizer"], "optimizer": ["adamw", "adamw_8bit"]}
    )

    assert list(found.variants) == [
        "orthogonal", "orthogonal_optimizer_adamw_8bit", "orthogonal_metric_optimizer",
    ]  # fmt: skip
    (note,) = found.notes
    assert note.startswith(
        "left out of the grid (contrast.metric optimizer, optimizer adamw_8bit): contrast.metric "
        "optimizer needs AdamW's second moments in full"
    )


def test_a_setting_that_goes_with_another_choice_only_varies_there() -> None:
    found = of_grid(
        {
            "contrast.negative_estimate": ["step", "running_mean"],
            "contrast.running_decay": [0.5, 0.95],
        }
    )

    # The setting's name would make the last two longer than a name may be.
    assert list(found.variants) == [
        "orthogonal", "orthogonal_running_mean_running_decay_0_5",
        "orthogonal_running_mean_running_decay_0_95",
    ]  # fmt: skip


def test_a_section_that_is_null_in_training_can_be_varied() -> None:
    found = of_grid({"textual_inversion.vectors": [1, 2], "embedding_learning_rate": [0.1]})

    assert list(found.variants) == [
        "orthogonal_vectors_1_embedding_learning_rate_0_1",
        "orthogonal_vectors_2_embedding_learning_rate_0_1",
    ]


def test_a_setting_of_training_that_a_rule_of_the_grid_cannot_have_is_taken_back() -> None:
    shared = {"contrast": {"positive_part": True}}
    found = of_grid({"update_rule": ["none", "orthogonal"]}, **shared)

    assert found.variants["none"].model_dump() == {
        "update_rule": "none",
        "contrast": {"positive_part": False},
    }
    assert found.variants["orthogonal"].model_dump() == {"update_rule": "orthogonal"}


def test_a_variant_written_out_comes_first_and_stands_for_its_twin_in_the_grid() -> None:
    found = matrix(
        {
            "variants": {"plain": {"update_rule": "none", "shared_noise": True}},
            "grid": {"update_rule": ["none", "orthogonal"]},
        }
    )

    assert list(found.variants) == ["plain", "orthogonal"]


def test_two_variants_written_out_that_are_one_training_are_refused() -> None:
    twins = {"a": {"update_rule": "none"}, "b": {"update_rule": "none", "shared_noise": True}}

    assert message({"variants": twins}) == (
        "params.yaml: ablation.variants: b and a are the same training"
    )


def test_a_grids_variant_with_a_name_that_is_taken_is_told_apart() -> None:
    found = matrix(
        {
            "variants": {"orthogonal": {"update_rule": "mean"}},
            "grid": {"update_rule": ["none", "orthogonal"]},
        }
    )

    taken, plain, other = found.variants
    assert (taken, plain) == ("orthogonal", "none")
    assert other.startswith("orthogonal_")
    assert found.variants[other].model_dump() == {"update_rule": "orthogonal"}


def test_a_variant_keeps_its_name_and_settings_when_the_grid_grows() -> None:
    small = of_grid({"learning_rate": [0.001, 0.0005]})
    grown = of_grid({"shared_noise": [False, True], "learning_rate": [0.0001, 0.001, 0.0005]})

    assert grown.variants.items() >= small.variants.items()


@given(
    st.dictionaries(
        st.sampled_from(["lora.rank", "watch.steps", "contrast.scope", "schedule", "weight_decay"]),
        st.one_of(st.booleans(), st.none(), st.integers(), st.floats(0, 1), st.text()),
    )
)
@settings(deadline=None)
def test_every_name_is_a_name(changes: dict[str, Any]) -> None:
    name = variant_name("orthogonal_anchor", changes)

    assert NAME.fullmatch(name)
    assert name == variant_name("orthogonal_anchor", json.loads(json.dumps(changes)))


def test_a_name_that_would_be_too_long_ends_in_a_digest_of_its_own() -> None:
    changes = {"lora.rank": 4, "shared_noise": True, "contrast.positive_part": True}
    long = variant_name("orthogonal_anchor", changes | {"learning_rate": 0.001})
    other = variant_name("orthogonal_anchor", changes | {"learning_rate": 0.002})

    assert len(long) <= MOST
    assert long.startswith("orthogonal_anchor_rank_4_shared_noise_")
    assert long != other


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        (
            {"learning_rte": [0.1]},
            "learning_rte is no setting of `training` (did you mean learning_rate?)",
        ),
        ({"contrast": [None]}, "contrast is a section: name one of its settings: contrast.scope"),
        ({"learning_rate": [0.1, -1.0]}, "learning_rate: -1.0 is not allowed: input should be gre"),
        ({"shared_noise": ["yes"]}, "shared_noise: 'yes' is not allowed: input should be a valid"),
        ({"learning_rate": []}, "[] is not allowed: tuple should have at least 1 item"),
    ],
)
def test_a_mistake_in_the_grid_is_one_line(grid: dict[str, Any], said: str) -> None:
    told = message({"grid": grid})

    assert told.startswith("params.yaml: ablation.grid")
    assert said in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("ablation", "said"),
    [
        ({}, "ablation: neither variants nor a grid: nothing would be trained"),
        ({"grids": {}}, "ablation.grids: unknown key (did you mean grid?)"),
        ({"variants": {"A": {"update_rule": "none"}}}, "'A' is not a name"),
        ({"variants": {"base": {"update_rule": "none"}}}, "'base' is taken"),
        ({"variants": {"a": {"update_rule": "none"}}}, "two variants at least are compared"),
        (
            {"variants": {"a": {"update_rule": "none", "contrast": {"positive_part": True}}}},
            "ablation.variants.a: contrast.positive_part has no effect with update_rule none",
        ),
        (
            {"grid": {"learning_rate": [0.1, 0.2]}, "training_seeds": [1, 1]},
            "ablation.training_seeds: 1 is named twice",
        ),
    ],
)
def test_a_mistake_in_the_section_is_one_line(ablation: dict[str, Any], said: str) -> None:
    told = message(ablation)

    assert said in told
    assert "\n" not in told


def test_without_the_section_it_says_what_is_missing() -> None:
    params = parse_params(
        {"styles": {"ink": {"source": "folder"}}, "variants": {"a": {"update_rule": "none"}}}
    )

    with pytest.raises(ParamsError, match="has no section `ablation`"):
        params.ablation_matrix()


def test_every_idle_setting_is_a_setting() -> None:
    defaults = flat(
        parse_params(
            {"styles": {"ink": {"source": "folder"}}, "variants": {"a": {"update_rule": "none"}}}
        ).training.model_dump()
    )

    assert idle_settings(defaults | {"update_rule": "none"}) <= set(defaults)
