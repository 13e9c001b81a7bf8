"""The embedded base: a drawn world, and a small text-to-image model pretrained on it.

How it was pretrained is in ``pretraining``, which is no part of what is installed.
"""

from nsync_pipeline.sketchbook.folders import CLIP_FOLDER, JUDGES_FOLDER, PIPELINE_FOLDER
from nsync_pipeline.sketchbook.scene import Scene, ScenePredicate, Thing
from nsync_pipeline.sketchbook.world import (
    HELD_OUT_STYLES,
    SEEN_STYLES,
    DrawnPicture,
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
    "draw_style_set",
]
