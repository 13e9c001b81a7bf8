"""Whether a stage's code changed since its recipe was last looked at.

Code files are no inputs of an artefact: a comment, a new name or an upgrade of the package makes
nothing anew. What does is the stage's ``recipe`` in ``table.py``, a number. So that no change of
results slips through, ``recipes.lock`` keeps a fingerprint of each stage's code beside its recipe:
the syntax trees, without comments and docstrings, of all modules that its room imports, and the
files that lie beside them (weights, templates). ``python -m tools.recipes`` says
which fingerprints moved; with ``--accept`` it writes them down.
"""

import argparse
import ast
import hashlib
import json
import sys
from functools import cache
from pathlib import Path

import nsync_pipeline
from nsync_pipeline.files import write_whole
from nsync_pipeline.graph.table import STAGES, Stage

PACKAGE = Path(nsync_pipeline.__file__).parent
NAME = nsync_pipeline.__name__
LOCK = Path(__file__).parents[1] / "recipes.lock"
Fingerprints = dict[str, dict[str, int | str]]
"""By stage: its ``recipe``, and the ``fingerprint`` of its code."""

ADVICE = """\
The code of {stages} changed. If what it makes comes out otherwise from the same inputs, raise
`recipe` of that stage in nsync_pipeline/graph/table.py: then it is made anew everywhere. Either way
write the new fingerprints down: python -m tools.recipes --accept"""


def fingerprints() -> Fingerprints:
    """Of all stages, as the code is now."""
    return {
        stage.name: {"recipe": stage.recipe, "fingerprint": fingerprint(stage)}
        for stage in STAGES.values()
    }


def moved() -> list[str]:
    """The stages whose code or recipe is not what ``recipes.lock`` says."""
    kept: Fingerprints = json.loads(LOCK.read_text(encoding="utf-8")) if LOCK.is_file() else {}
    now = fingerprints()
    return [name for name in {**kept, **now} if kept.get(name) != now.get(name)]


def fingerprint(stage: Stage) -> str:
    """32 hex digits over the code that makes the stage's artefact."""
    digest = hashlib.blake2b(digest_size=16)
    modules = imported_modules(f"{NAME}.{stage.room}.stage")
    for module in sorted(modules):
        digest.update(f"{module} {_code_digest(module)}\n".encode())
    for folder in sorted({_file(module).parent for module in modules} - {PACKAGE}):
        digest.update(_data_digest(folder).encode())
    return digest.hexdigest()


def imported_modules(start: str) -> set[str]:
    """The package's modules that ``start`` imports, at its head or within its functions."""
    found, to_read = set[str](), [start]
    while to_read:
        module = to_read.pop()
        if module not in found:
            found.add(module)
            to_read.extend(_imports(module))
    return found


@cache
def _imports(module: str) -> tuple[str, ...]:
    names = []
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # What is imported may be a module of a package, or a name in a module.
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(name for name in names if name.startswith(f"{NAME}.") and _file(name).is_file())


@cache
def _tree(module: str) -> ast.Module:
    tree = ast.parse(_file(module).read_bytes())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not _is_text(part)]  # type: ignore[attr-defined]
    return tree


def _is_text(node: ast.AST) -> bool:
    """A docstring, or the text under a constant that says what it is."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


@cache
def _code_digest(module: str) -> str:
    return hashlib.blake2b(_written(_tree(module)).encode(), digest_size=16).hexdigest()


def _written(node: object) -> str:
    """The tree as text, the same in every version of Python: what is empty is left out."""
    if isinstance(node, ast.Constant):
        return f"Constant({node.value!r})"
    if isinstance(node, ast.AST):
        parts = [f"{name}={_written(part)}" for name, part in ast.iter_fields(node) if part]
        return f"{type(node).__name__}({' '.join(parts)})"
    if isinstance(node, list):
        return f"[{' '.join(map(_written, node))}]"
    return repr(node)


@cache
def _data_digest(folder: Path) -> str:
    """Of the files beside a room's modules, and in folders there that hold no modules."""
    lines = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        is_code = path.suffix in (".py", ".pyc") or path.name == LOCK.name
        if path.is_file() and not is_code and "__pycache__" not in relative.parts:
            lines.append(f"{relative.as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n")
    return "".join(lines)


def _file(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def main() -> int:
    """Say which stages' code moved; 1 where there is one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--accept", action="store_true", help="write the fingerprints down")
    if parser.parse_args().accept:
        write_whole(LOCK, json.dumps(fingerprints(), indent=1) + "\n")
        return 0
    changed = moved()
    if changed:
        print(ADVICE.format(stages=", ".join(changed)), file=sys.stderr)
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
