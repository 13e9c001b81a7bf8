"""params.yaml as bytes: anything is read, or refused shortly, in little time and memory."""

import string
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nsync_pipeline.errors import ParamsError
from nsync_pipeline.params import Params, parse_params, read_params
from nsync_pipeline.settings_file import parse_settings

SHIPPED = (Path(__file__).parent.parent / "params.yaml").read_text(encoding="utf-8")
SHORT = 2000  # characters; a refused key is answered with those that are allowed


def refusal(text: str) -> str | None:
    """What is said of it; None where it is taken."""
    start = time.process_time()
    try:
        parse_params(parse_settings(text, "params.yaml"))
    except ParamsError as error:
        said: str | None = str(error)
    else:
        said = None
    assert time.process_time() - start < 5.0
    return said


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip(string.ascii_letters, string.ascii_letters[1:], strict=False)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [*{before}, *{before}, *{before}]}}\n"
    for before, name in zip(string.ascii_letters, string.ascii_letters[1:], strict=False)
)
HOSTILE = {
    "a bomb of anchors": (BOMB, "more than 20000 values"),
    "a bomb of merges": (MERGES, "more than 20000 values"),
    "a list in itself": ("a: &a [*a]", "nested too deeply, or in itself"),
    "a mapping in itself": ("a: &a {b: *a}", "nested too deeply, or in itself"),
    "open brackets": ("[" * 600, "nested too deeply"),
    "more brackets": ("[" * 100_000, "brackets"),
    "open lists": ("- " * 50_000, "nested too deeply"),
    "much": ("a: " + "b" * 2**18, "more than 128 KiB"),
    "a number as a key": ("1: 1", "a key must be text: put 1 in quotes"),
    "nothing as a key": ("styles: {null: {source: folder}}", "put null in quotes"),
    "a truth as a key": ("styles: {true: {source: folder}}", "put true in quotes"),
    "a list as a key": ("? [a]\n: 1", "a key must be text"),
    "a huge number": ("seed: " + "9" * 50_000, "a number has 50000 characters"),
    "a huge octal": ("seed: 0o" + "7" * 5000, "a number has 5002 characters"),
    "an object": ("a: !!python/object:os.system {}", "is not allowed"),
    "a set": ("a: !!set {b}", "is not allowed"),
    "bytes": ("a: !!binary x", "is not allowed"),
    "a wrong int": ("seed: !!int x", "is not YAML"),
    "half a pair": ('styles: {a: {source: folder, placeholder: "\\ud800"}}', "U+D800"),
    "a zero": ('styles: {a: {source: folder, placeholder: "a\\0"}}', "U+0000"),
    "an escape": ('styles: {a: {source: folder, rights: "\\e[2J"}}', "U+001B"),
    "no character": ('a: "\\Uffffffff"', "is not YAML"),
    "another YAML": ("%YAML 9.9\n---\na: 1", "is not YAML"),
    "two keys": ("seed: 1\nseed: " + "2" * 39, "duplicate key"),
    "a long key": (f"{'a' * 100}: 1\n" * 500, "duplicate key"),
    "many mistakes": ("".join(f"a{n}: 1\n" for n in range(999)), "more mistakes"),
    "a long value": (f"seed: {'x' * 100_000}", "is not allowed"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_is_refused_shortly(kind: str) -> None:
    text, said = HOSTILE[kind]
    refused = refusal(text)
    assert refused is not None
    assert said in refused
    assert all(len(line) < SHORT for line in refused.splitlines())
    assert len(refused.splitlines()) <= 21


def test_a_grid_or_a_number_of_trainings_that_nobody_can_train_is_refused_at_once() -> None:
    head = "styles: {a: {source: folder}}\nvariants: {a: {update_rule: none}}\n"
    values = list(range(1, 300))
    grid = f"{head}ablation:\n  grid:\n    steps: {values}\n    batch_size: {values}\n"
    assert "the grid has 89401 combinations" in (refusal(grid) or "")
    seeds = f"ablation:\n  training_seeds: {list(range(900))}\n  grid: {{steps: {values[:20]}}}\n"
    assert "18000 trainings are asked for" in (refusal(head + seeds) or "")
    styles = "".join(f"  s{n}: {{source: folder}}\n" for n in range(150))
    many = f"styles:\n{styles}variants: {{a: {{update_rule: none}}}}\ntraining_seeds: {values}\n"
    assert "150 x 1 x 299 trainings" in (refusal(many) or "")


def test_a_date_is_text_as_it_stands_there() -> None:
    text = "revision: 2026-13-45\nother: 2026-01-02 03:04:05\n"
    assert parse_settings(text, "p") == {"revision": "2026-13-45", "other": "2026-01-02 03:04:05"}


def test_anchors_and_merge_keys_are_read() -> None:
    text = "a: &a {b: 1, c: 2}\nd: {<<: *a, c: 3}\ne: [*a]\n"
    assert parse_settings(text, "p") == {
        "a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}, "e": [{"b": 1, "c": 2}],
    }  # fmt: skip


def with_words(words: str) -> Params:
    style = {"source": "folder", "placeholder": words, "style_words": [words]}
    return parse_params({"styles": {"a": style}, "variants": {"a": {"update_rule": "none"}}})


@pytest.mark.parametrize(("words", "shown"), [("a\nb", "a b"), ("\ufeff a\u00adb ", "ab")])
def test_words_for_prompts_are_one_line_without_what_is_invisible(words: str, shown: str) -> None:
    style = with_words(words).styles["a"]
    assert (style.placeholder, style.style_words) == (shown, (shown,))


@pytest.mark.parametrize("words", [" ", "\u200b"])
def test_words_for_prompts_have_something_in_them(words: str) -> None:
    with pytest.raises(ParamsError, match="found an empty one"):
        with_words(words)


PIECES = [
    "&a ", "*a", "!!int ", "!x ", "[", "]", "{", "}", ": ", "- ", "? ", "<<: *a", "\t", "\x00",
    "2026-13-45", "0x", "9" * 60, "~", "true: ", "'", '"', "\\ud800", "|", ">", "%", "#", "\n",
    "  ", "---\n", "...", "é", "\ufeff", "$(touch x)", "`",
]  # fmt: skip
CHANGE = st.tuples(
    st.integers(0, len(SHIPPED)), st.integers(0, 40), st.sampled_from(PIECES) | st.text(max_size=5)
)


@settings(deadline=None, max_examples=60)
@example([(3, 0, "")])
@example([(633, 0, "\U0001342f")])  # a letter of Unicode 15, which Python 3.11 does not know
@example([(633, 0, "\ue000")])  # of private use
@given(st.lists(CHANGE, min_size=1, max_size=3))
def test_a_mutated_file_is_read_or_refused(changes: list[tuple[int, int, str]]) -> None:
    text = SHIPPED
    for start, length, piece in changes:
        text = text[:start] + piece + text[start + length :]
    refused = refusal(text)
    for line in (refused or "").splitlines():
        assert line.isprintable()
        assert len(line) < SHORT


@settings(deadline=None, max_examples=30)
@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "params.yaml")
        path.write_bytes(content)
        with pytest.raises(ParamsError) as caught:
            read_params(path)
        assert len(str(caught.value)) < SHORT
