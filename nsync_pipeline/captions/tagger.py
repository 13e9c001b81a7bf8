"""Captions of pictures that have none, as tags: an image classifier of many labels, as WD14's are.

Any that transformers has (image-classification). ONNX files are not read: of the well-known taggers
there are copies in transformers' form.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
)

from nsync_pipeline.captions.config import CaptionsSettings, TaggerConfig
from nsync_pipeline.captions.vision_language_model import captions_by
from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.loading_errors import loading_errors
from nsync_pipeline.families.placement import choose_device, choose_dtype
from nsync_pipeline.families.weights import quiet_libraries
from nsync_pipeline.stage import StageContext

KIND = re.compile(r"^(?:general|character|copyright|meta):")
"""What some taggers put before a label, and no prompt has."""
UNNAMED = re.compile(r"LABEL_\d+")


class Tagger:
    """A loaded classifier with its processor."""

    def __init__(
        self, folder: Path, config: TaggerConfig, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Load what is in ``folder``: safetensors only, and no code from it.

        Raises:
            BaseModelError: it is no such model, or something of it or that it needs is missing.
        """
        self._config, self._device, self._dtype = config, device, dtype
        where = f"captioning.tagger.name: {folder}"
        if not (folder / "config.json").is_file() and any(folder.glob("*.onnx")):
            raise BaseModelError(
                f"{where} holds an ONNX model, which is not read: name the same tagger in "
                "transformers' form (config.json and model.safetensors)."
            )
        try:
            with loading_errors(folder), quiet_libraries():
                kind = AutoConfig.from_pretrained(folder, trust_remote_code=False)
                if type(kind) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
                    raise BaseModelError(
                        f"{where} is a {kind.model_type}, which names nothing that pictures show "
                        "(transformers' image-classification models do)."
                    )
                self._processor = AutoImageProcessor.from_pretrained(
                    folder, backend="pil", trust_remote_code=False
                )
                self._model, info = AutoModelForImageClassification.from_pretrained(
                    folder, dtype=dtype, use_safetensors=True, trust_remote_code=False,
                    output_loading_info=True,
                )  # fmt: skip
        except ImportError as error:
            reason = " ".join(str(error).split())[:300]
            raise BaseModelError(f"{where} needs what is not installed: {reason}") from error
        if missing := sorted(info["missing_keys"]):
            raise BaseModelError(f"{folder} lacks {len(missing)} weights, as {missing[0]}.")
        self._labels = [kind.id2label[index] for index in range(kind.num_labels)]
        if all(UNNAMED.fullmatch(label) for label in self._labels):
            raise BaseModelError(f"{where} does not say what its labels are called.")
        self._model.to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def tags(self, pictures: Sequence[Image.Image]) -> list[str]:
        """The tags of each picture, the surest first, with commas between."""
        inputs = self._processor(images=[p.convert("RGB") for p in pictures], return_tensors="pt")
        pixels = inputs["pixel_values"].to(self._device, self._dtype)
        logits = self._model(pixel_values=pixels).logits.float().cpu()
        scores = logits.sigmoid() if self._config.scores == "sigmoid" else logits.softmax(dim=-1)
        return [", ".join(chosen_tags(self._labels, row.tolist(), self._config)) for row in scores]


def chosen_tags(
    labels: Sequence[str], scores: Sequence[float], config: TaggerConfig
) -> tuple[str, ...]:
    """The labels that are sure enough, as words, the surest first."""
    ranked = sorted(zip(scores, labels, strict=True), key=lambda pair: -pair[0])
    sure = [label for score, label in ranked if score >= config.threshold]
    wanted = [KIND.sub("", label) for label in sure if not label.startswith(config.without)]
    # An underscore is a space, but in what is no word, as in ^_^.
    words = [w.replace("_", " ") if re.search(r"[^\W_]{2}", w) else w for w in wanted]
    return tuple(dict.fromkeys(words))[: config.most]


def tagger_captions(
    context: StageContext[CaptionsSettings], rows: Sequence[Mapping[str, Any]], config: TaggerConfig
) -> tuple[dict[str, str], str]:
    """The tags of the pictures of ``rows`` (of STYLE_SET), by id; and the tagger's name@revision.

    Raises:
        CaptionError: as ``model_captions``.
        MissingArtifactError: a picture's file is missing or damaged.
    """
    device = choose_device(context.settings.base_model.device)
    dtype = choose_dtype(config.dtype, device)
    asked: dict[str, Any] = {
        "threshold": config.threshold, "most": config.most, "scores": config.scores,
        "without": ", ".join(config.without), "dtype": str(dtype),
    }  # fmt: skip
    return captions_by(
        context, rows, config, asked, lambda folder: Tagger(folder, config, device, dtype).tags
    )
