"""What people chose on blind pages: taken into the workspace, and read with who drew what."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from nsync_pipeline.blind.page import FORMAT
from nsync_pipeline.blind.preference import LOST, TIED, WON, Preference, preference
from nsync_pipeline.blind.questions import (
    Question,
    Questions,
    draw_questions,
    picture_digests,
)
from nsync_pipeline.errors import ChoicesError
from nsync_pipeline.params import Params
from nsync_pipeline.pictures.style_pictures import StylePictures, read_style_pictures
from nsync_pipeline.seeding import numpy_stream
from nsync_pipeline.workspace import BASE, Workspace, training_runs

SITTING = re.compile(r"[0-9a-f]{16}")
"""One person at one page; drawn by the page, and anew for who comes next."""


@dataclass(frozen=True)
class Choices:
    """What was chosen between two variants (or the base), over all files about their trainings."""

    a: str
    b: str
    prompts: tuple[str, ...]  # of each choice, the prompt's id
    outcomes: tuple[float, ...]  # for a
    people: int  # a file each


@dataclass(frozen=True)
class TakenFile:
    """A file of choices that is in the workspace now."""

    style: str
    choices: int
    kept: Path


@dataclass(frozen=True)
class KeptChoices:
    """All that is kept of one style."""

    choices: tuple[Choices, ...]  # between variants, then against the base
    outdated: int  # files about pictures that are there no more; not among the choices


@dataclass(frozen=True)
class Preferred:
    """What people prefer of two variants, or of a variant and the base."""

    a: str
    b: str
    people: int
    told: Preference  # of a


def take_choices(workspace: Workspace, params: Params, file: Path) -> TakenFile:
    """Check a choices file and copy it into ``choices/<style>``; the file itself stays as it is.

    What one person saved later takes the place of what the same person saved before.

    Raises:
        ChoicesError: it is no choices file, or about pictures that are not there (any more).
    """
    content = _read(file)
    style = content["style"]
    if style not in params.styles:
        raise ChoicesError(f"{file} is about the style {style!r}, which is not in params.yaml")
    pictures = read_style_pictures(workspace, style, params.training_runs())
    questions = _questions_of(
        content,
        pictures,
        picture_digests(pictures),
        style,
        list(params.variants),
        params.training_seeds,
    )
    if questions is None:
        raise ChoicesError(
            f"{file} is about pictures of {style!r} that are not there: they were drawn again "
            "since its page was made, or it is another workspace's. Make a new one: "
            "`nsync blind make`."
        )
    made = _outcomes(content, questions, file)
    folder = workspace.choices(style)
    kept = folder / f"{content['page']}-{content['sitting']}.json"
    if not (kept.is_file() and _read(kept)["saved"] > content["saved"]):
        folder.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial")
        shutil.copyfile(file, partial)
        partial.replace(kept)
    return TakenFile(style, len(made), kept)


def read_choices(
    workspace: Workspace, style: str, variants: Sequence[str], training_seeds: Sequence[int]
) -> KeptChoices:
    """What was chosen about the pictures there are.

    Raises:
        ChoicesError: a file in ``choices/<style>`` is none of choices, or was spoiled.
    """
    files = sorted(workspace.choices(style).glob("*.json"))
    if not files:
        return KeptChoices((), 0)
    pictures = read_style_pictures(workspace, style, training_runs(variants, training_seeds))
    digests = picture_digests(pictures)
    together: dict[tuple[str, str], list[list[tuple[str, float]]]] = {}
    outdated = 0
    for file in files:
        content = _read(file)
        questions = _questions_of(content, pictures, digests, style, variants, training_seeds)
        if questions is None:
            outdated += 1
            continue
        between = (questions.a, questions.b)
        together.setdefault(between, []).append(_outcomes(content, questions, file))
    joined = [_joined(a, b, of_each) for (a, b), of_each in together.items()]
    joined.sort(key=lambda choices: (choices.b == BASE, choices.a, choices.b))
    return KeptChoices(tuple(joined), outdated)


def preferences(kept: KeptChoices, style: str, seed: int, draws: int) -> tuple[Preferred, ...]:
    """The win rate of each two that people chose between."""
    found = []
    for choices in kept.choices:
        rng = numpy_stream(seed, "preference", style, choices.a, choices.b)
        told = preference(choices.prompts, choices.outcomes, draws, rng)
        found.append(Preferred(choices.a, choices.b, choices.people, told))
    return tuple(found)


def _joined(a: str, b: str, of_each: Sequence[Sequence[tuple[str, float]]]) -> Choices:
    made = [choice for of_one in of_each for choice in of_one]
    prompts = tuple(prompt for prompt, _ in made)
    return Choices(a, b, prompts, tuple(outcome for _, outcome in made), len(of_each))


def _outcomes(
    content: Mapping[str, Any], questions: Questions, file: Path
) -> list[tuple[str, float]]:
    """Of each choice in a file the prompt's id, and what came out for a.

    Raises:
        ChoicesError: it names pairs or sides that its page did not offer.
    """
    asked = {question.id: question for question in questions.asked}
    made = []
    for name, side in sorted(content["choices"].items()):
        if name not in asked or side not in ("left", "right", "neither"):
            raise ChoicesError(f"{file}: {name!r}: {side!r} is no choice its page offered")
        made.append((asked[name].of_a.prompt_id, _outcome(asked[name], side)))
    return made


def _outcome(question: Question, side: str) -> float:
    """For a."""
    if side == "neither":
        return TIED
    return WON if (side == "left") == question.a_is_left else LOST


def _questions_of(
    content: Mapping[str, Any],
    pictures: StylePictures,
    digests: Mapping[Path, str],
    style: str,
    variants: Sequence[str],
    training_seeds: Sequence[int],
) -> Questions | None:
    """The page a file is about: it does not say of whom, so each two of a seed are tried.

    None where it is about other pictures.
    """
    for seed in training_seeds:
        for b, a in combinations((BASE, *variants), 2):
            questions = draw_questions(pictures, digests, style, a, b, content["asked"], seed)
            if questions.page_id == content["page"]:
                return questions
    return None


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        whole = (
            content["format"] == FORMAT
            and isinstance(content["style"], str)
            and isinstance(content["page"], str)
            and isinstance(content["asked"], int)
            and isinstance(content["saved"], int)
            and isinstance(content["sitting"], str)
            and SITTING.fullmatch(content["sitting"]) is not None
            and isinstance(content["choices"], dict)
            and len(content["choices"]) > 0
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ChoicesError(f"{file} is no choices file: {error}") from error
    if not whole:
        raise ChoicesError(f"{file} is no choices file of this version, or holds no choice")
    checked: dict[str, Any] = content
    return checked
