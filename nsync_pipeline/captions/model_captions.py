"""Captions of pictures that have none, by a vision-language model.

Answers stay in the workspace's scratch (one file a style), which is where an interrupted run picks
up, and why only new or changed pictures are shown to the model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from nsync_pipeline.captions.answers import AnswerStore, answer_key
from nsync_pipeline.captions.config import CaptionModelConfig, CaptionsSettings
from nsync_pipeline.captions.vision_language_model import CaptionModelFiles, find_model
from nsync_pipeline.errors import BaseModelError, CaptionError, bullet_list
from nsync_pipeline.families.placement import choose_device, choose_dtype
from nsync_pipeline.pictures.pixels import open_picture
from nsync_pipeline.stage import StageContext

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
    try:
        files = find_model(config)
        answers = _answers(context, rows, config, files)
    except BaseModelError as error:
        raise CaptionError(_cannot_be_asked(error, rows, context.style)) from error
    return answers, f"{files.name}@{files.revision}"


def _answers(
    context: StageContext[CaptionsSettings],
    rows: Sequence[Mapping[str, Any]],
    config: CaptionModelConfig,
    files: CaptionModelFiles,
) -> dict[str, str]:
    device = choose_device(context.settings.base_model.device)
    dtype = choose_dtype(config.dtype, device)
    asked: dict[str, str | int | bool] = {
        "model": files.revision,
        "question": config.asked,
        "max_new_tokens": config.max_new_tokens,
        "tiles": config.tiles,
        "dtype": str(dtype),
    }
    keys = {row["id"]: answer_key(row["sha256"], asked) for row in rows}
    store = AnswerStore(context.workspace.scratch("captions", context.style) / "answers.jsonl")
    known = store.answers()
    missing = [row for row in rows if keys[row["id"]] not in known]
    done = len(rows) - len(missing)
    context.progress(PROGRESS, done, len(rows))
    if missing:
        # Imported here: it is seconds, and where every answer is known nothing of it is needed.
        from nsync_pipeline.captions.vision_language_model import VisionLanguageModel

        folder = context.workspace.style_set(context.style)
        model = VisionLanguageModel(files.fetch(), device, dtype)
        for start in range(0, len(missing), config.batch_size):
            batch = missing[start : start + config.batch_size]
            pictures = [open_picture(folder / row["file"]) for row in batch]
            said = model.answers(pictures, config.asked, config.max_new_tokens, config.tiles)
            new = {keys[row["id"]]: answer for row, answer in zip(batch, said, strict=True)}
            store.put(new)
            known |= new
            done += len(batch)
            context.progress(PROGRESS, done, len(rows))
    return {name: known[key] for name, key in keys.items()}


def _cannot_be_asked(error: BaseModelError, rows: Sequence[Mapping[str, Any]], style: str) -> str:
    return (
        f"style {style!r}: {len(rows)} pictures have no caption, and the model that would describe "
        f"them cannot be asked: {error}\nThe pictures:\n"
        f"{bullet_list(sorted(row['origin'] for row in rows))}\n"
        f"Either write their captions in sources/{style} (picture.txt beside picture.jpg, or "
        "metadata.jsonl); or connect this machine once, so that the model is downloaded; or name a "
        "local folder in captioning.model.name; or leave them out: style_set.uncaptioned: skip."
    )
