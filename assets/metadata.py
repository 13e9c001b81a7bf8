"""What an artefact says of itself, in Dagster's words: figures, previews, settings."""

import base64
from pathlib import Path
from typing import Any

from dagster import MetadataValue

from nsync_pipeline.graph.artefacts import Artefact
from nsync_pipeline.graph.dvc import stage_name
from nsync_pipeline.graph.made import Made


def metadata_of(root: Path, artefact: Artefact, made: Made) -> dict[str, MetadataValue[Any]]:
    """Previews first, then figures, then where it lies and what it was made with."""
    folder = root / artefact.path
    metadata: dict[str, MetadataValue[Any]] = {}
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
