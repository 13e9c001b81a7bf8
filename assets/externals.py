"""What the graph does not make: the users' pictures, what people chose, and ``params.yaml``."""

from dagster import AssetSpec

from assets.keys import CHOICES, SOURCES, STAGE_OF, settings_key
from assets.partitions import STYLES, STYLES_AND_TRAININGS

pictures = AssetSpec(
    SOURCES,
    description="The pictures of a style as `nsync add-style` brought them in (`sources/<style>`).",
    partitions_def=STYLES,
    group_name="inputs",
    kinds={"image"},
)

choices = AssetSpec(
    CHOICES,
    description="What people chose on blind pages of a style, as `nsync blind read` brought it in "
    "(`choices/<style>`).",
    partitions_def=STYLES,
    group_name="inputs",
    kinds={"json"},
)

settings = [
    AssetSpec(
        settings_key(asset),
        description=f"The settings in `params.yaml` that `{asset}` depends on: "
        + ", ".join(f"`{key}`" for key in stage.settings),
        partitions_def=STYLES_AND_TRAININGS if stage.per_training else STYLES,
        group_name="inputs",
        kinds={"yaml"},
    )
    for asset, stage in STAGE_OF.items()
]
