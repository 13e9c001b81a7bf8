"""How the branches' gradients become one: what lies beside the update rule."""

from typing import Literal

from pydantic import Field

from nsync_pipeline.strict import Section


class ContrastConfig(Section):
    """``training.contrast`` in params.yaml."""

    negatives: int = Field(
        default=1, ge=1, le=64, description="negatives of a positive, each a branch of its own"
    )
    negative_prompt: Literal["same", "not_in_style"] = Field(
        default="same",
        description="of the negative branch: the positive's, or `{caption} not in the style of "
        "{placeholder}`",
    )
    metric: Literal["euclidean", "optimizer"] = Field(
        default="euclidean",
        description="inner product of the projection; optimizer: weighted by 1 / (sqrt(v) + eps)",
    )
