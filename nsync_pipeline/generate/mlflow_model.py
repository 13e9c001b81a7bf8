"""A model that MLflow holds, drawing: ``mlflow.pyfunc.load_model("models:/nsync-ink@champion")``.

``nsync_pipeline.tracking.models`` writes what is read here.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsync_pipeline.adaptation.textual_inversion import trained_style_word
from nsync_pipeline.determinism import deterministic_algorithms
from nsync_pipeline.drawing.config import SamplerConfig
from nsync_pipeline.drawing.picture_store import png_bytes
from nsync_pipeline.drawing.sampling import PictureRequest, draw_pictures
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.files import read_json
from nsync_pipeline.generate.model import DrawingModel

if TYPE_CHECKING:
    import pandas


class PromptsToPictures:
    """A base with its LoRA on it."""

    def __init__(self, folder: Path) -> None:
        """``folder`` holds the weights, and the ``made.json`` of their training."""
        said = read_json(folder / "made.json")
        settings = said["settings"]
        words = trained_style_word(folder, settings["placeholder"])
        self._model = DrawingModel(said["variant"], folder, words, said["style"])
        self._family = load_family(BaseModelConfig.model_validate(settings["base_model"]))
        self._model.put_on(self._family)

    def predict(
        self, model_input: "pandas.DataFrame", params: dict[str, Any] | None = None
    ) -> "pandas.DataFrame":
        """A PNG a row: of its ``prompt``, at its ``seed``, or at its row's number."""
        import pandas

        prompts = list(model_input["prompt"])
        seeds = model_input["seed"] if "seed" in model_input else range(len(prompts))
        requests = [
            PictureRequest(str(row), self._model.prompt(prompt), int(seed), None)
            for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
        ]
        drawn: dict[str, bytes] = {}
        with deterministic_algorithms():
            for batch in draw_pictures(self._family, requests, SamplerConfig()):
                drawn |= {one.request.id: png_bytes(one.pixels, {}) for one in batch}
        return pandas.DataFrame({"png": [drawn[request.id] for request in requests]})


def _load_pyfunc(data_path: str) -> PromptsToPictures:
    """What mlflow calls."""
    return PromptsToPictures(Path(data_path))
