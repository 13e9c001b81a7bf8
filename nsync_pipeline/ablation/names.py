"""What a variant of a grid is called: by its rule, and by what it changes of ``training``."""

import hashlib
import json
import re
from collections.abc import Mapping

from nsync_pipeline.ablation.settings import Value

MOST = 48
"""Characters of a variant's name."""

DIGEST = 8
"""Hex digits that stand for what a shortened name leaves out."""


def variant_name(rule: str, changes: Mapping[str, Value], whole: bool = False) -> str:
    """``orthogonal_shared_noise``: the same for the same changes, whatever else a grid holds.

    Args:
        rule: the variant's update rule.
        changes: what else differs from ``training``, by dotted name.
        whole: names sections, too, where two settings of the grid have the same last name.
    """
    named = {name if whole else name.rpartition(".")[2]: v for name, v in changes.items()}
    for short in (False, True):
        name = "_".join([rule, *(_part(setting, value, short) for setting, value in named.items())])
        if len(name) <= MOST:
            return name
    return told_apart(name, rule, changes)


def told_apart(name: str, rule: str, changes: Mapping[str, Value]) -> str:
    """``name`` with a digest of what it stands for, where another variant has the same name."""
    return f"{name[: MOST - DIGEST - 1].rstrip('_')}_{_digest(rule, changes)}"


def _part(setting: str, value: Value, short: bool) -> str:
    """The setting and its value; in short, a value that is a word stands alone."""
    words = _words(setting)
    if value is True:
        return words
    if value is False or value is None:
        return f"no_{words}"
    if isinstance(value, str):
        return _words(value) if short else f"{words}_{_words(value)}"
    return f"{words}_{_words(f'{value:g}')}"


def _words(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _digest(rule: str, changes: Mapping[str, Value]) -> str:
    content = json.dumps([rule, dict(changes)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:DIGEST]
