"""The embedded base: a drawn world, and a small text-to-image model pretrained on it."""

from nsync_pipeline.sketchbook.folders import CLIP_FOLDER, JUDGES_FOLDER, PIPELINE_FOLDER
from nsync_pipeline.sketchbook.scene import Scene, ScenePredicate, Thing
from nsync_pipeline.sketchbook.world import (
    HELD_OUT_STYLES,
    SEEN_STYLES,
    DrawnPicture,
    content_prompts,
    draw_style_set,
)

__all__ = [
    "CLIP_FOLDER",
    "HELD_OUT_STYLES",
    "JUDGES_FOLDER",
    "PIPELINE_FOLDER",
    "SEEN_STYLES",
    "DrawnPicture",
    "Scene",
    "ScenePredicate",
    "Thing",
    "content_prompts",
    "draw_style_set",
]
