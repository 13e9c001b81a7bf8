"""The trained parts as folders that diffusers and transformers load; float16 safetensors."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from diffusers import AutoencoderTiny, StableDiffusionPipeline
from transformers import CLIPModel

from nsync_pipeline.sketchbook.canvas import PICTURE_SIZE
from nsync_pipeline.sketchbook.judges import Judges
from pretraining.judges import save_judges
from pretraining.settings import PretrainingSettings
from pretraining.tokenizer import train_tokenizer
from pretraining.unet import Denoiser, build_scheduler


def export_pipeline(
    settings: PretrainingSettings, vae: AutoencoderTiny, denoiser: Denoiser, folder: Path
) -> None:
    """A `StableDiffusionPipeline` folder."""
    vae.register_to_config(scaling_factor=denoiser.scaling_factor)
    pipeline = StableDiffusionPipeline(
        vae=vae.cpu().half(),
        text_encoder=denoiser.text_encoder.cpu().half(),
        tokenizer=train_tokenizer(settings.clip.text_length),
        unet=denoiser.unet.cpu().half(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )

    def write(beside: Path) -> None:
        pipeline.save_pretrained(beside, safe_serialization=True)
        _say_float32(beside / "text_encoder" / "config.json")

    _replaced(folder, write)


def export_clip(settings: PretrainingSettings, clip: CLIPModel, folder: Path) -> None:
    """A `CLIPModel` folder with its tokenizer and picture preprocessing."""

    def write(beside: Path) -> None:
        clip.cpu().half().save_pretrained(beside)
        _say_float32(beside / "config.json")
        train_tokenizer(settings.clip.text_length).save_pretrained(beside)
        preprocessing = {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": PICTURE_SIZE},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": PICTURE_SIZE, "width": PICTURE_SIZE},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        }
        text = json.dumps(preprocessing, indent=2) + "\n"
        (beside / "preprocessor_config.json").write_text(text)

    _replaced(folder, write)


def export_judges(settings: PretrainingSettings, judges: Judges, folder: Path) -> None:
    """The judges' folder."""
    _replaced(folder, lambda beside: save_judges(judges, settings.judges.width, beside))


def _say_float32(config: Path) -> None:
    """Stored in half, computed in single precision unless the loader asks otherwise."""
    values = json.loads(config.read_text())
    for section in (values, values.get("text_config"), values.get("vision_config")):
        if section is not None:
            for key in ("dtype", "torch_dtype"):
                if key in section:
                    section[key] = "float32"
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def _replaced(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder beside, then put it in the old one's place."""
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    write(beside)
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    beside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
