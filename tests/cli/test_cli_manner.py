"""How `nsync generate` and `compare` draw: as params.yaml says, but for what is given."""

from typing import Any

import pytest

from nsync_pipeline.cli.generate import GuidanceForm, manner_of, strengths_of
from nsync_pipeline.drawing.config import ORDINARY, GuidanceConfig
from nsync_pipeline.errors import UserError
from nsync_pipeline.generate.pictures import Manner
from nsync_pipeline.params import parse_params


def manner(guidance: dict[str, Any], **given: Any) -> Manner:
    params = parse_params(
        {
            "styles": {"ink": {"source": "folder"}},
            "variants": {"nsync": {"update_rule": "orthogonal"}},
            "generation": {"guidance": guidance},
        }
    )
    named = {"steps": None, "scheduler": None, "guidance": None, "size": None} | given
    return manner_of(params, **named)


DIFFERENCE = {"form": "difference", "weight": 2.0, "lora_strength": 1.2}


def test_what_is_not_given_is_as_params_yaml_says() -> None:
    found = manner(DIFFERENCE)
    assert found.strengths == (1.2,)
    assert found.at(1.2) == GuidanceConfig.model_validate(DIFFERENCE)
    assert manner({}).at(1.0) == ORDINARY


def test_what_is_given_counts() -> None:
    form = GuidanceForm.BASE_EMPTY
    found = manner(DIFFERENCE, form=form, strengths=strengths_of("0,1", None))
    assert (found.guidance, found.strengths) == (GuidanceConfig(form="base_empty"), (0.0, 1.0))
    assert manner(DIFFERENCE, weight=3.0).guidance.weight == 3.0


def test_the_guidance_of_what_was_trained_is_not_the_bases() -> None:
    found = manner(DIFFERENCE, of_base=True)
    assert (found.guidance, found.strengths) == (ORDINARY, (1.0,))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weight": 2.0}, "weight has no effect with form ordinary"),
        ({"form": GuidanceForm.BASE_EMPTY, "guidance": 1.0}, "base_empty has no effect"),
        ({"guidance": 0.5}, r"sampler cannot be set so: guidance_scale: input should be greater"),
    ],
)
def test_what_cannot_be_is_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        manner({}, **given)
    assert "\n" not in str(error.value)
