"""The text of ``params.yaml``, read within bounds: whatever it holds, in little time and memory.

Plain YAML only: text, numbers, true, false and null, in lists and mappings whose keys are text.
A date is text. Anchors and merge keys count as often as they are used.
"""

import re
from collections.abc import Mapping
from copy import copy
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.tag import Tag

from nsync_pipeline.errors import NotTextError, ParamsError
from nsync_pipeline.text import decoded, printable, require_text

NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,47}")
"""A style's or variant's name: it becomes a folder, a DVC matrix key and a Dagster partition."""

MOST_BYTES = 2**17
MOST_VALUES = 20_000
MOST_DEPTH = 24
MOST_BRACKETS = 1000  # the time to find out that they do not end goes by their square
LONGEST_NUMBER = 40  # characters

PREFIX = "tag:yaml.org,2002:"
TEXT, MERGE = f"{PREFIX}str", f"{PREFIX}merge"
NUMBERS = frozenset({f"{PREFIX}int", f"{PREFIX}float"})
PLAIN = NUMBERS | {TEXT, f"{PREFIX}bool", f"{PREFIX}null", f"{PREFIX}seq", f"{PREFIX}map"}


class _WithoutDates(VersionedResolver):
    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)
        return Tag(suffix=TEXT) if str(tag) == f"{PREFIX}timestamp" else tag


def round_trip_yaml() -> YAML:
    """Keeps comments and layout; for text that ``read_settings`` takes."""
    yaml = YAML()
    yaml.Resolver = _WithoutDates
    return yaml


def read_settings(path: Path) -> dict[str, Any]:
    """What the file says.

    Raises:
        ParamsError: it is missing, cannot be read or is not plain YAML; one line.
    """
    if not path.is_file():
        raise ParamsError(f"{path} is not there: run this in the folder that holds params.yaml")
    try:
        with path.open("rb") as file:
            text = decoded(file.read(MOST_BYTES + 1))
    except OSError as error:
        raise ParamsError(f"{path} cannot be read: {error.strerror}") from error
    except NotTextError as error:
        raise ParamsError(f"{path} is not YAML: it {error}") from error
    return parse_settings(text, str(path))


def parse_settings(text: str, where: str) -> dict[str, Any]:
    """What ``text`` says; raises as ``read_settings``."""
    if len(text.encode()) > MOST_BYTES:
        raise ParamsError(f"{where} has more than {MOST_BYTES >> 10} KiB: no settings need as much")
    if text.count("[") + text.count("{") > MOST_BRACKETS:
        raise ParamsError(f"{where} has more than {MOST_BRACKETS} brackets: write blocks instead")
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver = _WithoutDates
    try:
        node = yaml.compose(text)
        content = None
        if node is not None:
            _Bounds(where).check(node)
            content = yaml.constructor.construct_document(node)
    except ParamsError:
        raise
    except RecursionError as error:
        raise ParamsError(f"{where} is not YAML: it is nested too deeply") from error
    except Exception as error:  # a parser raises almost anything on damaged text
        raise ParamsError(f"{where} is not YAML: {_reason(error)}") from error
    if not isinstance(content, dict):
        raise ParamsError(f"{where} must be a mapping of sections, found {type(content).__name__}")
    return content


def with_values(text: str, values: Mapping[str, Any]) -> str:
    """``text``, which ``parse_settings`` takes, with ``values`` in it, by dotted key.

    Comments stay; sections that are not there yet are added. The schema is not asked.
    """
    yaml = round_trip_yaml()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    content = yaml.load(text)
    for key, value in values.items():
        *parents, last = key.split(".")
        section = content
        for parent in parents:
            if section.get(parent) is None:
                section[parent] = {}
            section = section[parent]
        before = None if last in section else next(reversed(section), None)
        section[last] = value
        _take_over_what_follows(section, before, last)
    out = StringIO()
    yaml.dump(content, out)
    return out.getvalue()


def _take_over_what_follows(section: Any, before: str | None, last: str) -> None:
    """Blank lines and comments behind a section stay behind it: its last key's, for ruamel."""
    said = section.ca.items.get(before) if isinstance(section, CommentedMap) else None
    if not said or said[2] is None:
        return
    own, line_end, behind = said[2].value.partition("\n")
    if behind:
        section.ca.items[last] = [None, None, copy(said[2]), None]
        said[2].value, section.ca.items[last][2].value = own + line_end, line_end + behind


def _reason(error: Exception) -> str:
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {printable(str(error.problem))}"
    return printable(" ".join(str(error).split()) or type(error).__name__)


class _Bounds:
    """Goes through the values as often as they stand there."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.values = 0

    def check(self, node: Node, depth: int = 0) -> None:
        """Raise ``ParamsError`` for what is not plain, or too much."""
        self.values += 1
        if self.values > MOST_VALUES:
            raise self._error(node, f"more than {MOST_VALUES} values, anchors counted as used")
        if depth > MOST_DEPTH:
            raise self._error(node, "it is nested too deeply, or in itself")
        if str(node.tag) not in PLAIN:
            raise self._error(node, f"the tag {printable(str(node.tag), 60)} is not allowed")
        if isinstance(node, ScalarNode):
            self._check_scalar(node)
        elif isinstance(node, SequenceNode):
            for value in node.value:
                self.check(value, depth + 1)
        elif isinstance(node, MappingNode):
            for key, value in node.value:
                self._check_key(key)
                self.check(value, depth + 1)

    def _check_key(self, key: Node) -> None:
        if str(key.tag) == MERGE:
            return
        if not isinstance(key, ScalarNode) or str(key.tag) != TEXT:
            shown = printable(str(key.value), 60) if isinstance(key, ScalarNode) else "a list"
            raise self._error(key, f"a key must be text: put {shown} in quotes")
        self._check_scalar(key)

    def _check_scalar(self, node: ScalarNode) -> None:
        if str(node.tag) in NUMBERS and len(node.value) > LONGEST_NUMBER:
            raise self._error(node, f"a number has {len(node.value)} characters")
        try:
            require_text(node.value)
        except NotTextError as error:
            raise self._error(node, f"the text {error}") from error

    def _error(self, node: Node, problem: str) -> ParamsError:
        return ParamsError(f"{self.where}: line {node.start_mark.line + 1}: {problem}")
