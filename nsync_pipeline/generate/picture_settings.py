"""All that a picture was drawn from, kept in its own file: enough to draw it again."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from PIL import Image

from nsync_pipeline.errors import PictureError

PNG_TEXT = "nsync"
"""The name of the text in a PNG file."""


@dataclass(frozen=True)
class PictureSettings:
    """What decides a picture, in plain values."""

    prompt: str  # as the text encoder got it
    seed: int
    height: int  # pixels
    width: int
    scheduler: str
    steps: int
    guidance_scale: float
    base_model: str
    base_revision: str
    model: str  # base, a variant, or a LoRA's file
    style: str | None
    weights_sha256: str | None  # of what was put on the base; None: nothing
    strength: float

    def as_text(self) -> dict[str, str]:
        """The text of the file."""
        return {PNG_TEXT: json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)}


def read_settings(path: Path) -> PictureSettings:
    """What the picture at ``path`` says of itself.

    Raises:
        PictureError: it is not there, is no picture, or says nothing that this version reads.
    """
    try:
        with Image.open(path) as image:
            content: dict[str, Any] = json.loads(image.info[PNG_TEXT])
        return PictureSettings(
            **{field.name: content[field.name] for field in fields(PictureSettings)}
        )
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise PictureError(
            f"{path} does not say how it was drawn: only pictures of `nsync generate` do. ({error})"
        ) from error
