"""Where the shipped weights lie."""

from pathlib import Path

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
PIPELINE_FOLDER = WEIGHTS_FOLDER / "pipeline"
CLIP_FOLDER = WEIGHTS_FOLDER / "clip"
JUDGES_FOLDER = WEIGHTS_FOLDER / "judges"
