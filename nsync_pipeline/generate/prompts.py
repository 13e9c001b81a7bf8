"""Prompts of a person's own: from the command line, or from a file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nsync_pipeline.errors import NotTextError, UserError
from nsync_pipeline.files import parse_json
from nsync_pipeline.text import decoded, one_line, printable

MOST_SEED = 2**63 - 1
MOST_BYTES = 2**24  # of a file of prompts


@dataclass(frozen=True)
class AskedPrompt:
    text: str
    seeds: tuple[int, ...]  # 0 .. 2^63 - 1, none twice


def asked_prompts(texts: Sequence[str], seeds: Sequence[int]) -> list[AskedPrompt]:
    """Each of ``texts`` at all of ``seeds``.

    Raises:
        UserError: a text is empty, or there are no seeds, or one is out of range.
    """
    return [AskedPrompt(_text(text, "a prompt"), _checked(seeds, "--seed")) for text in texts]


def _text(text: str, where: str) -> str:
    """``text`` as a prompt is given: in one line, with nothing in it that is no text."""
    try:
        prompt = one_line(text)
    except NotTextError as error:
        raise UserError(f"{where} {error}") from error
    if not prompt:
        raise UserError(f"{where} is empty")
    return prompt


def read_prompts(path: Path, seeds: Sequence[int]) -> list[AskedPrompt]:
    """The prompts in the file or pipe at ``path``, one a line; blank lines do not count.

    A ``.jsonl`` file has an object a line: ``{"prompt": ...}``, with a ``"seed"`` where this prompt
    is to be drawn at it and not at ``seeds``.

    Raises:
        UserError: the file cannot be read, has no prompt, or a line is not what it must be.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise UserError(f"{path} has more than {MOST_BYTES >> 20} MiB: too many prompts")
        lines = decoded(content).splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except NotTextError as error:
        raise UserError(f"{path} {error}") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise UserError(f"{path} has no prompt in it")
    if path.suffix == ".jsonl":
        return list(_objects(path, numbered, seeds))
    return asked_prompts([line for _, line in numbered], seeds)


def _objects(
    path: Path, numbered: Sequence[tuple[int, str]], seeds: Sequence[int]
) -> Iterator[AskedPrompt]:
    for number, line in numbered:
        where = f"{path}, line {number}"
        try:
            content = parse_json(line)
        except ValueError as error:
            raise UserError(f"{where}: not JSON: {printable(str(error))}") from error
        if not isinstance(content, dict) or not isinstance(content.get("prompt"), str):
            raise UserError(f'{where}: an object with a "prompt" is needed, such as '
                            '{"prompt": "a red house", "seed": 7}')  # fmt: skip
        unknown = content.keys() - {"prompt", "seed"}
        if unknown:
            raise UserError(
                f'{where}: only "prompt" and "seed" are known, not "{printable(min(unknown))}"'
            )
        text = _text(content["prompt"], f"{where}: the prompt")
        own = seeds if content.get("seed") is None else [content["seed"]]
        yield AskedPrompt(text, _checked(own, where))


def _checked(seeds: Sequence[int], where: str) -> tuple[int, ...]:
    whole = all(isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds)
    if not whole or not seeds or not all(0 <= seed <= MOST_SEED for seed in seeds):
        raise UserError(f"{where}: a seed is a whole number from 0 to 2^63 - 1")
    return tuple(dict.fromkeys(seeds))
