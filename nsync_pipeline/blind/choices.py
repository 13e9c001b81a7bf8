"""What people chose on blind pages: taken into the workspace, and read with who drew what.

No choice is ever dropped. Choices about pictures that are not there (any more) are kept and set
aside: they count again once the pictures are back.
"""

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from nsync_pipeline.blind.page import FORMAT
from nsync_pipeline.blind.preference import LOST, TIED, WON, Preference, preference
from nsync_pipeline.blind.questions import DrawnPages, Question, Questions, picture_digests
from nsync_pipeline.errors import ChoicesError
from nsync_pipeline.files import read_json, write_whole
from nsync_pipeline.pictures.style_pictures import read_style_pictures
from nsync_pipeline.seeding import numpy_stream
from nsync_pipeline.workspace import BASE, MANIFEST_FILE, Workspace, training_runs

FORMATS = ("nsync-choices-2", FORMAT)
SIDES = ("left", "right", "neither")
ID = re.compile(r"[0-9a-f]{16}")
"""Of a page, and of a sitting: one person at one page, drawn anew for who comes next."""

DRAWN_AGAIN = "the pictures were drawn again since"
GONE = "a variant or training seed they are about is no longer in params.yaml"
EITHER = "the pictures were drawn again since, or their variant is gone"
"""Why choices are set aside; the last of files of ``nsync-choices-2``, which do not say more."""


@dataclass(frozen=True)
class Choices:
    """What was chosen between two variants (or the base), over all files about their trainings."""

    a: str
    b: str
    prompts: tuple[str, ...]  # of each choice, the prompt's id
    outcomes: tuple[float, ...]  # for a
    people: int  # a sitting each


@dataclass(frozen=True)
class SetAside:
    """A file whose choices are kept and do not count."""

    file: Path
    choices: int
    reason: str


@dataclass(frozen=True)
class TakenFile:
    style: str
    choices: int
    kept: Path
    set_aside: str | None  # why they do not count; None: they do


@dataclass(frozen=True)
class KeptChoices:
    choices: tuple[Choices, ...]  # between variants, then against the base
    set_aside: tuple[SetAside, ...]


@dataclass(frozen=True)
class Preferred:
    """What people prefer of two variants, or of a variant and the base."""

    a: str
    b: str
    people: int
    preference: Preference  # of a


def take_choices(
    workspace: Workspace,
    file: Path,
    styles: Collection[str],
    variants: Sequence[str],
    training_seeds: Sequence[int],
) -> TakenFile:
    """Check a choices file and copy it into ``choices/<style>``; the file itself stays as it is.

    What one person saved later takes the place of what the same person saved before.

    Raises:
        ChoicesError: it is no choices file, or of a style that is not among ``styles``, or it holds
            choices that its page did not offer.
    """
    content = _read(file)
    style = content["style"]
    if style not in styles:
        raise ChoicesError(f"{file} is about the style {style!r}, which is not in params.yaml")
    pages = _pages(workspace, style, variants, training_seeds)
    questions = pages.find(content)
    if questions is not None:
        _check_offered(content, questions, file)
    kept = _kept_at(workspace.choices(style), file, content)
    reason = None if questions is not None else _why_set_aside(pages, content)
    return TakenFile(style, len(content["choices"]), kept, reason)


def read_choices(
    workspace: Workspace, style: str, variants: Sequence[str], training_seeds: Sequence[int]
) -> KeptChoices:
    """What was chosen about the pictures there are, and what is set aside.

    Raises:
        ChoicesError: a file in ``choices/<style>`` is none of choices, or was spoiled.
    """
    files = sorted(workspace.choices(style).glob("*.json"))
    if not files:
        return KeptChoices((), ())
    pages = _pages(workspace, style, variants, training_seeds)
    sittings: dict[tuple[str, str], tuple[Questions, dict[str, str]]] = {}
    set_aside = []
    contents = [(_read(file), file) for file in files]
    for content, file in sorted(contents, key=lambda read: read[0]["saved"]):
        questions = pages.find(content)
        if questions is None:
            reason = _why_set_aside(pages, content)
            set_aside.append(SetAside(file, len(content["choices"]), reason))
            continue
        _check_offered(content, questions, file)
        sitting = (content["page"], content["sitting"])
        sittings.setdefault(sitting, (questions, {}))[1].update(content["choices"])
    order = [BASE, *variants]
    made_of: dict[tuple[str, str], list[list[tuple[str, float]]]] = {}
    for _, (questions, made) in sorted(sittings.items(), key=lambda item: item[0]):
        # The later variant of params.yaml is asked about against the earlier one, or the base.
        turned = order.index(questions.a) < order.index(questions.b)
        pair = (questions.b, questions.a) if turned else (questions.a, questions.b)
        outcomes = [
            (question.of_a.prompt_id, _outcome(question, made[question.id], turned))
            for question in sorted(questions.asked, key=lambda question: question.id)
            if question.id in made
        ]
        made_of.setdefault(pair, []).append(outcomes)
    joined = []
    for (a, b), of_each in made_of.items():
        prompts, values = zip(*chain.from_iterable(of_each), strict=True)
        joined.append(Choices(a, b, prompts, values, len(of_each)))
    joined.sort(key=lambda choices: (choices.b == BASE, choices.a, choices.b))
    return KeptChoices(tuple(joined), tuple(sorted(set_aside, key=lambda one: one.file)))


def preferences(kept: KeptChoices, style: str, seed: int, draws: int) -> tuple[Preferred, ...]:
    """The win rate of each two that people chose between; the same whoever is named first."""
    results = []
    for choices in kept.choices:
        first, second = sorted((choices.a, choices.b))
        rng = numpy_stream(seed, "preference", style, first, second)
        turned = first != choices.a
        outcomes = [1.0 - value for value in choices.outcomes] if turned else choices.outcomes
        own = preference(choices.prompts, outcomes, draws, rng)
        result = own.turned() if turned else own
        results.append(Preferred(choices.a, choices.b, choices.people, result))
    return tuple(results)


def _pages(
    workspace: Workspace, style: str, variants: Sequence[str], training_seeds: Sequence[int]
) -> DrawnPages:
    """Over the trainings that have drawn; choices about the others are set aside."""
    runs = [
        run
        for run in training_runs(variants, training_seeds)
        if (workspace.samples(style, run.variant, run.training_seed) / MANIFEST_FILE).exists()
    ]
    pictures = read_style_pictures(workspace, style, runs)
    digests = picture_digests(pictures)
    return DrawnPages(style, (BASE, *variants), training_seeds, pictures, digests)


def _why_set_aside(pages: DrawnPages, content: Mapping[str, Any]) -> str:
    if content.get("pair") is None:
        return EITHER
    return DRAWN_AGAIN if pages.names_pair(content) else GONE


def _outcome(question: Question, side: str, turned: bool) -> float:
    """For the question's a; ``turned``: for its b."""
    if side == "neither":
        return TIED
    a_won = (side == "left") == question.a_is_left
    return WON if a_won != turned else LOST


def _check_offered(content: Mapping[str, Any], questions: Questions, file: Path) -> None:
    offered = {question.id for question in questions.asked}
    for name in content["choices"].keys() - offered:
        raise ChoicesError(f"{file}: {name!r} is no choice its page offered")


def _kept_at(folder: Path, file: Path, content: Mapping[str, Any]) -> Path:
    """Where the file is kept, copied if it is not there already.

    A person with the same page in two tabs saves two files, of which neither holds all of the
    other's choices: then both are kept.
    """
    kept = folder / f"{content['page']}-{content['sitting']}.json"
    if kept.is_file():
        before = _read(kept)
        if _holds(before, content):
            return kept
        if not _holds(content, before):
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            kept = kept.with_stem(f"{kept.stem}-{digest[:8]}")
    write_whole(kept, file.read_bytes())
    return kept


def _holds(later: Mapping[str, Any], earlier: Mapping[str, Any]) -> bool:
    """Whether nothing of ``earlier`` is lost where ``later`` is kept in its place."""
    if later["saved"] > earlier["saved"]:
        return bool(later["choices"].keys() >= earlier["choices"].keys())
    return bool(later["choices"].items() >= earlier["choices"].items())


def _read(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = read_json(file)
        whole = (
            content["format"] in FORMATS
            and isinstance(content["style"], str)
            and isinstance(content["asked"], int)
            and isinstance(content["saved"], int)
            and all(ID.fullmatch(content[key]) is not None for key in ("page", "sitting"))
            and len(content["choices"]) > 0
        )
        sides = dict(content["choices"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ChoicesError(f"{file} is no choices file: {error}") from error
    if not whole:
        raise ChoicesError(f"{file} is no choices file of this version, or holds no choice")
    for name, side in sides.items():
        if side not in SIDES:
            raise ChoicesError(f"{file}: {name!r}: {side!r} is no choice its page offered")
    return content
