"""What MLflow holds of a training draws as the training's LoRA does."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas
from PIL import Image

from nsync_pipeline.drawing.config import SamplerConfig
from nsync_pipeline.generate.model import drawing_model
from nsync_pipeline.generate.pictures import Manner, generate
from nsync_pipeline.generate.prompts import AskedPrompt
from nsync_pipeline.tracking.models import EXAMPLE, write_model
from nsync_pipeline.tracking.projection import Source
from nsync_pipeline.workspace import LORA_FILE, Workspace
from tests.support.drawing_workspace import STYLE, drawing_params, save_random_lora


def test_model_of_mlflow_draws_what_the_variant_draws(tmp_path: Path, tiny_base: Path) -> None:
    import mlflow

    workspace, params = Workspace(tmp_path / "workspace"), drawing_params(tiny_base)
    folder = workspace.model(STYLE, "nsync", 0)
    save_random_lora(folder / LORA_FILE, params)
    settings = {"base_model": params.base_model.model_dump(mode="json"), "placeholder": "sks"}
    said = {"stage": "training", "style": STYLE, "variant": "nsync", "settings": settings}
    (folder / "made.json").write_text(json.dumps(said))
    write_model(tmp_path / "logged", Source(workspace, folder, said), "m-1", "run")

    model = mlflow.pyfunc.load_model(str(tmp_path / "logged"))
    asked = pandas.DataFrame([*EXAMPLE, {"prompt": "a tree", "seed": 5}])
    answer = model.predict(asked)
    prompts = [AskedPrompt(row["prompt"], (row["seed"],)) for row in asked.to_dict("records")]
    drawn = generate(
        params, drawing_model(workspace, params, STYLE, "nsync"), prompts, tmp_path / "drawn",
        manner=Manner(SamplerConfig()),
    )  # fmt: skip

    for png, file in zip(answer["png"], drawn.files, strict=True):
        with Image.open(BytesIO(png)) as told, Image.open(file) as wanted:
            assert np.array_equal(np.asarray(told), np.asarray(wanted))
