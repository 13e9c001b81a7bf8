"""What an artefact says of itself, in Dagster's words: figures, previews, settings."""

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

from dagster import MetadataValue
from PIL import Image, features

from nsync_pipeline.graph.artefacts import Artefact
from nsync_pipeline.graph.dvc import stage_name
from nsync_pipeline.graph.made import Made

SHORT = 999
"""Characters of Markdown that the page shows at once; what is longer it folds."""
FORMAT = "AVIF" if features.check("avif") else "WEBP"


def _glance(file: Path) -> str | None:
    """The picture as small as it must be for the page to show it unfolded; None if none is.

    None, too, where it is damaged: previews are for the eye, and no artefact is made again for one.
    """
    try:
        with Image.open(file) as picture:
            whole = picture.convert("RGB")
    except Exception:  # a decoder raises almost anything on damaged data
        return None
    for side in (320, 240, 192, 160, 128, 96, 64):
        small, content = whole.copy(), BytesIO()
        small.thumbnail((side, side))
        small.save(content, FORMAT, quality=8)
        data = base64.b64encode(content.getvalue()).decode()
        text = f"![](data:image/{FORMAT.lower()};base64,{data})"
        if len(text) <= SHORT:
            return text
    return None


def metadata_of(root: Path, artefact: Artefact, made: Made) -> dict[str, MetadataValue[Any]]:
    """A glance and previews first, then figures, then where it lies and what made it."""
    folder = root / artefact.path
    metadata: dict[str, MetadataValue[Any]] = {}
    files = [folder / preview["file"] for preview in made.previews]
    if files and files[-1].is_file() and (small := _glance(files[-1])):
        metadata["at a glance"] = MetadataValue.md(small)
    for preview in made.previews:
        file = folder / preview["file"]
        if file.is_file():
            picture = base64.b64encode(file.read_bytes()).decode()
            markdown = f"![{preview['title']}](data:image/jpeg;base64,{picture})"
            metadata[preview["title"]] = MetadataValue.md(markdown)
    for name, figure in made.figures.items():
        metadata[name] = (
            MetadataValue.text(figure) if isinstance(figure, str)
            else MetadataValue.float(figure) if isinstance(figure, float)
            else MetadataValue.int(figure)
        )  # fmt: skip
    if artefact.variant is not None and artefact.training_seed is not None:
        metadata["variant"] = MetadataValue.text(artefact.variant)
        metadata["training seed"] = MetadataValue.int(artefact.training_seed)
    page = folder / "report.html"
    if page.is_file():
        metadata["report"] = MetadataValue.path(str(page))
    metadata["folder"] = MetadataValue.path(str(folder))
    metadata["dvc"] = MetadataValue.text(stage_name(artefact))
    metadata["settings"] = MetadataValue.json(dict(made.settings))
    return metadata
