"""A workspace with a variant trained for a step on the tiny base, and drawn by it."""

from pathlib import Path
from typing import Any

from nsync_pipeline.params import Params, parse_params
from nsync_pipeline.samples import stage as generation
from nsync_pipeline.samples.config import BaseSamplesSettings, SamplesSettings
from nsync_pipeline.training import stage as training
from nsync_pipeline.training.config import TrainingSettings
from nsync_pipeline.workspace import Workspace
from tests.support.contexts import stage_context
from tests.support.tiny_style import STYLE, tiny_family, tiny_params, write_tiny_style

TRAINING: dict[str, Any] = {
    "steps": 1,
    "batch_size": 2,
    "learning_rate": 0.1,
    "lora": {"rank": 2, "alpha": 4.0, "targets": ["to_q", "to_k", "conv1"]},
}
SAMPLER = {"steps": 2, "guidance_scale": 3.0, "batch_size": 2}
RIGHTS = "Drawn by my grandmother;\nshe gave them to me | to use."


def params_of(base: Path, resolution: int | None = None, **training: Any) -> Params:
    """Settings with one variant, ``nsync``; ``resolution`` of the base, where not its own."""
    params = tiny_params(base, TRAINING | training)
    content = params.model_dump(mode="json", exclude_defaults=True)
    content["generation"] = {"sampler": SAMPLER}
    if resolution is not None:
        content["base_model"]["resolution"] = resolution
    content["styles"][STYLE] |= {"rights": RIGHTS, "license": "cc-by-4.0"}
    return parse_params(content)


def trained_workspace(root: Path, base: Path, drawn: bool = True, **training_settings: Any) -> Any:
    """The workspace and its settings."""
    workspace, params = Workspace(root), params_of(base, **training_settings)
    write_tiny_style(workspace, tiny_family(base).revision)
    training.run(stage_context(TrainingSettings, workspace, params, STYLE, "nsync"))
    if drawn:
        generation.run_base(stage_context(BaseSamplesSettings, workspace, params, STYLE))
        generation.run(stage_context(SamplesSettings, workspace, params, STYLE, "nsync"))
    return workspace, params
