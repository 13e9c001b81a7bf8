"""What the report shows."""

from pydantic import Field

from nsync_pipeline.strict import Section


class ReportConfig(Section):
    """``report`` in params.yaml."""

    rows: int = Field(default=8, ge=1, le=64, description="test prompts shown side by side")
    picture_side: int = Field(
        default=192, ge=32, le=1024, description="pixels at which a picture is shown"
    )
