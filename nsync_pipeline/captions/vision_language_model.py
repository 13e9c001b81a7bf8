"""Captions of pictures that have none, by a vision-language model (image-text-to-text).

Answers stay in the workspace's scratch (one file a style), which is where an interrupted run picks
up, and why only new or changed pictures are shown to the model.
"""

import hashlib
import inspect
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from jinja2 import TemplateError
from PIL import Image, ImageOps
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    PROCESSOR_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
)

from nsync_pipeline.captions.answers import AnswerStore, answer_key
from nsync_pipeline.captions.config import (
    WAYS_OUT,
    CaptionModelConfig,
    CaptionsSettings,
    TaggerConfig,
)
from nsync_pipeline.errors import BaseModelError, CaptionError
from nsync_pipeline.families.loading_errors import loading_errors
from nsync_pipeline.families.pipeline_folder import hub_errors, is_hub_id
from nsync_pipeline.families.placement import choose_device, choose_dtype
from nsync_pipeline.families.weights import quiet_libraries
from nsync_pipeline.files import file_sha256, named_in_line
from nsync_pipeline.pictures.pixels import open_picture
from nsync_pipeline.stage import StageContext

SIDE, SIDE_IN_TILES = 768, 1536
"""Pixels; the longer side of a larger picture is brought down to it first. Models take 336 to 448
pixels a side at a glance, and those that take any size grow slow with it."""
ONE_TILE = {"crop_to_patches": False, "do_image_splitting": False}
"""How the image processors that cut pictures into tiles are told not to."""

LANCZOS = Image.Resampling.LANCZOS


class VisionLanguageModel:
    """A loaded model with its processor."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        """Load what is in ``folder``: safetensors only, and no code from it.

        Raises:
            BaseModelError: it is no such model, or something of it or that it needs is missing.
        """
        self._folder, self._device, self._dtype = folder, device, dtype
        with loading_errors(folder), quiet_libraries():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            raise BaseModelError(
                f"captioning.model.name: {folder} is a {config.model_type}, which does not answer "
                "with text on pictures (transformers' image-text-to-text models do)."
            )
        self._processor = _load_processor(folder, config)
        with loading_errors(folder), quiet_libraries():
            self._model, info = AutoModelForImageTextToText.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        if missing := sorted(info["missing_keys"]):
            raise BaseModelError(f"{folder} lacks {len(missing)} weights, as {missing[0]}.")
        self._model.to(device).eval().requires_grad_(False)

    def answers(
        self,
        pictures: Sequence[Image.Image],
        question: str,
        max_new_tokens: int,
        tiles: bool = False,
    ) -> list[str]:
        """What the model says on each of ``pictures``, word by word its likeliest (greedy).

        The prompts of a batch are filled up on the left, so that a picture's answer does not depend
        on its neighbours. Where the device's memory is too short, the batch is halved.

        Raises:
            BaseModelError: the model or its processor cannot take pictures this way.
        """
        try:
            with quiet_libraries():
                return self._answers(pictures, question, max_new_tokens, tiles)
        except torch.OutOfMemoryError:
            if len(pictures) == 1:
                raise
        except (ValueError, TypeError, KeyError, RuntimeError, TemplateError) as error:
            reason = " ".join(str(error).split())[:300]
            raise BaseModelError(
                f"captioning.model.name: {self._folder} does not answer on pictures: {reason}"
            ) from error
        half = len(pictures) // 2
        first = self.answers(pictures[:half], question, max_new_tokens, tiles)
        return first + self.answers(pictures[half:], question, max_new_tokens, tiles)

    @torch.inference_mode()
    def _answers(
        self, pictures: Sequence[Image.Image], question: str, max_new_tokens: int, tiles: bool
    ) -> list[str]:
        processor = self._processor
        content = [{"type": "image"}, {"type": "text", "text": question}]
        prompt = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        has = [name for name in ONE_TILE if hasattr(processor.image_processor, name)]
        side = SIDE_IN_TILES if tiles else SIDE
        inputs = processor(
            text=[prompt] * len(pictures),
            images=[
                [p if max(p.size) <= side else ImageOps.contain(p, (side, side), LANCZOS)]
                for p in pictures
            ],
            text_kwargs={"padding": True, "padding_side": "left"},
            images_kwargs={} if tiles else {name: ONE_TILE[name] for name in has},
            return_tensors="pt",
        ).to(self._device, self._dtype)
        tokenizer = processor.tokenizer
        generated = self._model.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
        )
        answers = generated[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in tokenizer.batch_decode(answers, skip_special_tokens=True)]


def _load_processor(folder: Path, config: Any) -> Any:
    """The model's processor, with PIL's image processing and without a part for videos.

    AutoProcessor wants torchvision for the video part of several models, which no picture needs;
    and torchvision's image processing gives other pixels than PIL's, so that captions would depend
    on whether it is installed.
    """
    if type(config) not in PROCESSOR_MAPPING:
        raise BaseModelError(
            f"captioning.model.name: transformers has no processor for a {config.model_type}."
        )
    kind = _without_videos(PROCESSOR_MAPPING[type(config)])
    with loading_errors(folder), quiet_libraries():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            parts: dict[str, Any] = {
                "image_processor": AutoImageProcessor.from_pretrained(
                    folder, backend="pil", trust_remote_code=False
                ),
                "tokenizer": tokenizer,
                "video_processor": None,
            }
            settings, _ = kind.get_processor_dict(folder)
            names = kind.get_attributes()
            if unknown := sorted(set(names) - set(parts)):
                raise ValueError(f"its processor takes more than pictures: {', '.join(unknown)}")
            processor = kind.from_args_and_dict([parts[name] for name in names], settings)
        except ImportError as error:
            raise BaseModelError(
                f"captioning.model.name: {folder} needs something that is not installed: "
                f"{' '.join(str(error).split())}"
            ) from error
    processor.chat_template = processor.chat_template or tokenizer.chat_template
    if processor.chat_template is None:
        raise BaseModelError(
            f"captioning.model.name: {folder} has no chat template: it is not made to be asked. "
            "Choose a model that is tuned to instructions."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return processor


def _without_videos(kind: Any) -> Any:
    """``kind`` that takes None as its video processor."""
    if "video_processor" not in inspect.signature(kind.__init__).parameters:
        return kind

    def checked(self: Any, name: str, part: Any) -> Any:
        if name == "video_processor" and part is None:
            return type(None)
        return kind.check_argument_for_proper_class(self, name, part)

    return type(kind.__name__, (kind,), {"check_argument_for_proper_class": checked})


FILES = ("*.json", "*.txt", "*.jinja", "*.model", "*.safetensors")
"""Settings, vocabularies and weights; never a pickle, never code."""
COMMIT = re.compile(r"[0-9a-f]{40}")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaptionModelFiles:
    """A model that was named, and may not be on this machine yet."""

    name: str  # as the user named it
    revision: str  # the hub's commit, or ``sha256:`` and 16 digits over the files of a folder
    folder: Path | None  # of a local model
    section: str  # of params.yaml that names it

    def fetch(self) -> Path:
        """The folder with all its files, downloaded where they are not here, or BaseModelError."""
        if self.folder is not None:
            return self.folder
        with hub_errors(_where(self.section, self.name, self.revision), self.name):
            folder = snapshot_download(
                self.name,
                revision=self.revision,
                allow_patterns=list(FILES),
                ignore_patterns=["*/*", "consolidated*"],
            )
        return Path(folder)


def find_model(config: CaptionModelConfig | TaggerConfig) -> CaptionModelFiles:
    """The model that ``config`` names.

    A hub model that is pinned to a commit is not looked for: what it answered may be known already.

    Raises:
        BaseModelError: it is neither a folder nor a hub id; or not pinned, and cannot be reached.
    """
    name, section = config.name, config.section
    path = Path(name).expanduser()
    if path.is_dir():
        return CaptionModelFiles(name, _digest(path), path, section)
    if not is_hub_id(name):
        raise BaseModelError(
            f"{section}.name: {name!r} is not a folder that exists. Allowed are the folder "
            f"of {config.kind} or a hub id such as `organisation/model`."
        )
    if config.revision is not None and COMMIT.fullmatch(config.revision):
        return CaptionModelFiles(name, config.revision, None, section)
    with hub_errors(_where(section, name, config.revision), name):
        settings = Path(hf_hub_download(name, "config.json", revision=config.revision))
    commit = settings.parent.name
    _log.warning(
        "%s.revision is %s: %s is used at the commit that is now. Pin it by "
        "`revision: %s`, so that a later run asks the same model.",
        section,
        "not set" if config.revision is None else f"{config.revision!r}, which may move",
        name,
        commit,
    )
    return CaptionModelFiles(name, commit, None, section)


def _where(section: str, name: str, revision: str | None) -> str:
    at = f" at revision {revision!r}" if revision else ""
    return f"{section}.name: {name!r}{at}"


def _digest(folder: Path) -> str:
    """Over the names and contents of the files that are read, wherever the folder lies."""
    whole = hashlib.sha256()
    for file in sorted({file for pattern in FILES for file in folder.glob(pattern)}):
        whole.update(f"{file.name}\0{file_sha256(file)}\n".encode())
    return f"sha256:{whole.hexdigest()[:16]}"


PROGRESS = "pictures described by the model"


def model_captions(
    context: StageContext[CaptionsSettings],
    rows: Sequence[Mapping[str, Any]],
    config: CaptionModelConfig,
) -> tuple[dict[str, str], str]:
    """What the model says on the pictures of ``rows`` (of STYLE_SET), by id; and its name@revision.

    Raises:
        CaptionError: the model cannot be reached, loaded or asked; the message names the pictures
            that have no caption, and what can be done.
        MissingArtifactError: a picture's file is missing or damaged.
    """
    device = choose_device(context.settings.base_model.device)
    dtype = choose_dtype(config.dtype, device)
    asked: dict[str, str | int | bool] = {
        "question": config.asked,
        "max_new_tokens": config.max_new_tokens,
        "tiles": config.tiles,
        "dtype": str(dtype),
    }

    def load(folder: Path) -> Describe:
        model = VisionLanguageModel(folder, device, dtype)
        return lambda pictures: model.answers(
            pictures, config.asked, config.max_new_tokens, config.tiles
        )

    return captions_by(context, rows, config, asked, load)


Describe = Callable[[Sequence[Image.Image]], list[str]]
"""A text for each of some pictures."""


def captions_by(
    context: StageContext[CaptionsSettings],
    rows: Sequence[Mapping[str, Any]],
    config: CaptionModelConfig | TaggerConfig,
    asked: Mapping[str, str | int | bool],
    load: Callable[[Path], Describe],
) -> tuple[dict[str, str], str]:
    """What the model that ``load`` gives says, as far as it is not known; as ``model_captions``.

    ``asked`` is all besides the picture and the model that decides what it says.
    """
    try:
        files = find_model(config)
        answers = _answers(context, rows, config.batch_size, asked, files, load)
    except BaseModelError as error:
        listing = context.workspace.listing(context.style, "without_caption")
        raise CaptionError(_cannot_be_asked(error, rows, context.style, listing)) from error
    return answers, f"{files.name}@{files.revision}"


def _answers(
    context: StageContext[CaptionsSettings],
    rows: Sequence[Mapping[str, Any]],
    batch_size: int,
    asked: Mapping[str, str | int | bool],
    files: CaptionModelFiles,
    load: Callable[[Path], Describe],
) -> dict[str, str]:
    whole = {"model": files.revision, **asked}
    keys = {row["id"]: answer_key(row["sha256"], whole) for row in rows}
    store = AnswerStore(context.workspace.scratch("captions", context.style) / "answers.jsonl")
    known = store.answers()
    missing = [row for row in rows if keys[row["id"]] not in known]
    done = len(rows) - len(missing)
    context.progress(PROGRESS, done, len(rows))
    if missing:
        folder = context.workspace.style_set(context.style)
        describe = load(files.fetch())
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            said = describe([open_picture(folder / row["file"]) for row in batch])
            new = {keys[row["id"]]: answer for row, answer in zip(batch, said, strict=True)}
            store.put(new)
            known |= new
            done += len(batch)
            context.progress(PROGRESS, done, len(rows))
    return {name: known[key] for name, key in keys.items()}


def _cannot_be_asked(
    error: BaseModelError, rows: Sequence[Mapping[str, Any]], style: str, listing: Path
) -> str:
    return (
        f"style {style!r}: {len(rows)} pictures have no caption "
        f"({named_in_line(sorted(row['origin'] for row in rows), listing, most=3)}), and the model "
        f"that would describe them cannot be asked: {error} Either {WAYS_OUT.format(style=style)}."
    )
