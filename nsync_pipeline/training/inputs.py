"""What a training reads: pictures, prompts and negatives from the manifests, checked."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nsync_pipeline.contrast.config import GENERIC, ON_TOP, branches_of
from nsync_pipeline.drawing.prompts import (
    style_phrase,
    styled_prompt,
    unstyled_phrase,
    unstyled_prompt,
)
from nsync_pipeline.errors import CaptionError, MissingArtifactError, TrainingError
from nsync_pipeline.pictures.manifest import (
    CAPTIONS,
    MORE_CAPTIONS,
    NEGATIVE_SET,
    STYLE_SET,
    read_manifest,
)
from nsync_pipeline.training.config import TagsConfig, TrainingConfig
from nsync_pipeline.training.encoded_set import Example, StoredPicture, StylePrompts
from nsync_pipeline.training.wordings import wordings_of
from nsync_pipeline.workspace import MANIFEST_FILE, MORE_CAPTIONS_FILE, Workspace


@dataclass(frozen=True)
class TrainingInputs:
    """The two splits, by id, and what they are."""

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]  # the test split; no negatives
    style_prompts: StylePrompts
    base_revision: str | None  # of the base that drew the negatives; None where none are used
    data_sha256: str  # over every picture's hash and prompt, and the negatives' hashes


def read_training_inputs(
    workspace: Workspace,
    style: str,
    placeholder: str,
    settings: TrainingConfig,
    generic_style: str,
    seed: int = 0,
) -> TrainingInputs:
    """Read and check the manifests of ``style``, for a training with ``settings``.

    ``generic_style`` is what its negatives were drawn in; ``seed`` is the root seed, of which the
    wordings of captions are drawn.

    Raises:
        MissingArtifactError: a manifest is missing, or the sets do not belong together.
        CaptionError: a picture has no caption.
        TrainingError: there is no picture to train on, a test picture is among them, or a picture
            has fewer negatives than a triplet needs.
    """
    folder = workspace.style_set(style)
    pictures = read_manifest(folder / MANIFEST_FILE, STYLE_SET)
    captions = {
        row["id"]: row["caption"]
        for row in read_manifest(workspace.captions(style) / MANIFEST_FILE, CAPTIONS)
    }
    train = [row for row in pictures if row["split"] == "train"]
    test = [row for row in pictures if row["split"] == "test"]
    if not train:
        raise TrainingError(f"{style}: no picture is in the training split; add pictures")
    leaked = {row["sha256"] for row in train} & {row["sha256"] for row in test}
    if leaked:
        names = sorted(row["origin"] for row in test if row["sha256"] in leaked)
        raise TrainingError(f"{style}: test pictures are among the training ones: {_some(names)}")
    mute = [row["origin"] for row in pictures if not (captions.get(row["id"]) or "").strip()]
    if mute:
        raise CaptionError(f"{style}: no caption for {_some(mute)}: run the captions stage again")
    needed = branches_of(settings.update_rule, settings.contrast)
    wanted = needed.pictures
    prompted = needed.negatives > 0 or settings.update_rule in ON_TOP
    negatives = _negatives(workspace, style, train, wanted) if wanted else []
    drawn: dict[str, list[StoredPicture]] = defaultdict(list)
    for row in sorted(negatives, key=lambda row: (row["positive_id"], row["k"])):
        drawn[row["positive_id"]].append(_stored(workspace.negative_set(style), row))
    of_negatives = settings.contrast.negative_prompt
    if settings.update_rule in GENERIC:
        of_negatives = "generic"
    second_prompt, second_phrase = {
        "same": (None, style_phrase(placeholder)),
        "not_in_style": (partial(unstyled_prompt, style=placeholder), unstyled_phrase(placeholder)),
        "generic": (partial(styled_prompt, style=generic_style), style_phrase(generic_style)),
    }[of_negatives]

    more = _more_captions(workspace, style)
    _require_tags(style, settings.tags, [captions[row["id"]] for row in train])

    def example(row: dict[str, Any]) -> Example:
        caption = captions[row["id"]]
        every = (caption, *more.get(row["id"], ()))
        wordings = wordings_of(every, settings.tags, seed, row["id"])
        if wordings == (caption,):
            wordings = ()
        own_prompt = second_prompt if prompted else None
        return Example(
            row["id"],
            _stored(folder, row),
            styled_prompt(caption, placeholder),
            tuple(drawn[row["id"]]),
            own_prompt(caption) if own_prompt else None,
            tuple(styled_prompt(wording, placeholder) for wording in wordings),
            tuple(map(own_prompt, wordings)) if own_prompt else (),
        )

    said = {row["id"]: styled_prompt(captions[row["id"]], placeholder) for row in pictures}
    content = {
        "pictures": [(row["id"], row["sha256"], row["split"], said[row["id"]]) for row in pictures],
        "negatives": [(row["id"], row["sha256"]) for row in negatives],
    }
    if more:
        content["more captions"] = sorted(more.items())
    return TrainingInputs(
        train=tuple(example(row) for row in train),
        held_out=tuple(example(row) for row in test),
        style_prompts=StylePrompts(style_phrase(placeholder), second_phrase),
        base_revision=str(negatives[0]["base_revision"]) if negatives else None,
        data_sha256=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
    )


def _more_captions(workspace: Workspace, style: str) -> dict[str, tuple[str, ...]]:
    """The captions of a picture besides its first, of pictures that have several."""
    path = workspace.captions(style) / MORE_CAPTIONS_FILE
    found: dict[str, list[str]] = defaultdict(list)
    for row in read_manifest(path, MORE_CAPTIONS) if path.exists() else ():
        found[row["picture"]].append(row["caption"])
    return {picture: tuple(captions) for picture, captions in found.items()}


def _require_tags(style: str, tags: TagsConfig, captions: Sequence[str]) -> None:
    if tags.changes_captions and not any(tags.separator in caption for caption in captions):
        raise CaptionError(
            f"training.tags changes what stands between {tags.separator!r}, and no caption of "
            f"{style} has one, such as {captions[0]!r}: set training.tags.separator, or leave "
            "training.tags out"
        )


def _negatives(
    workspace: Workspace, style: str, train: list[dict[str, Any]], wanted: int
) -> list[dict[str, Any]]:
    """The negatives, each of a training picture, ``wanted`` or more of every training picture."""
    path = workspace.negative_set(style) / MANIFEST_FILE
    negatives = read_manifest(path, NEGATIVE_SET)
    ids = {row["id"] for row in train}
    paired = {row["positive_id"] for row in negatives}
    if paired != ids:
        missing, extra = sorted(ids - paired), sorted(paired - ids)
        found = [f"no negative of {_some(missing)}"] if missing else []
        found += [f"negatives of {_some(extra)}, not training pictures"] if extra else []
        raise MissingArtifactError(
            f"{path}: {' and '.join(found)}: run the negative_set stage again"
        )
    fewest = min(Counter(row["positive_id"] for row in negatives).values())
    if fewest < wanted:
        raise TrainingError(
            f"training.contrast.negatives asks for {wanted} negatives of a picture, and {path} has "
            f"{fewest} of some: set negative_set.per_positive to {wanted} or more, and run the "
            "negative_set stage again"
        )
    return negatives


def _stored(folder: Path, row: dict[str, Any]) -> StoredPicture:
    return StoredPicture(folder / row["file"], row["sha256"], row["width"], row["height"])


def _some(names: list[str]) -> str:
    """At most five names, and how many more."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
