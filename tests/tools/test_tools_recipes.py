"""recipes.lock: what of the code moves a fingerprint, and what does not."""

import ast
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nsync_pipeline.graph.table import STAGES
from tests.support.fake_workspace import REPOSITORY
from tools import recipes

DRAWING = {"negative_set", "generation", "base_generation"}


def by_content(
    function: Callable[[str], object],
) -> Callable[[str], object]:
    """``function`` of a module, computed again only where the module's file changed."""
    known: dict[tuple[str, str], object] = {}

    def of(module: str) -> object:
        key = module, recipes._file(module).read_text()
        if key not in known:
            known[key] = function(module)
        return known[key]

    return of


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the package, whose fingerprints are asked for."""
    ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
    copy = tmp_path_factory.mktemp("copied") / "nsync_pipeline"
    shutil.copytree(REPOSITORY / "nsync_pipeline", copy, ignore=ignored)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "PACKAGE", copy)
        for cached in ("_imports", "_tree", "_code_digest"):
            patch.setattr(recipes, cached, by_content(getattr(recipes, cached).__wrapped__))
        patch.setattr(recipes, "_data_digest", recipes._data_digest.__wrapped__)
        yield copy


@pytest.fixture
def package(copied: Path) -> Iterator[Path]:
    """It, for edits: they are taken back."""
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    yield copied
    for path in copied.rglob("*"):
        if path.is_file() and before.get(path) != path.read_bytes():
            path.write_bytes(before[path]) if path in before else path.unlink()


def moved_by(before: recipes.Fingerprints) -> set[str]:
    now = recipes.fingerprints()
    return {name for name in now if now[name] != before[name]}


def test_the_fingerprints_are_written_down() -> None:
    """Where this fails: see the message, then `python -m tools.recipes --accept`."""
    moved = recipes.moved()
    assert not moved, recipes.ADVICE.format(stages=", ".join(moved))


def test_comments_docstrings_and_formatting_move_none(package: Path) -> None:
    before = recipes.fingerprints()
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if recipes._is_text(node):
                assert isinstance(node, ast.Expr)
                assert isinstance(node.value, ast.Constant)
                node.value.value = "Said in other words."
        path.write_text("# a comment\n\n\n" + ast.unparse(tree))
    assert moved_by(before) == set()


@pytest.mark.parametrize("name", STAGES)
def test_a_changed_constant_moves_its_stage(package: Path, name: str) -> None:
    before = recipes.fingerprints()
    room = STAGES[name].room
    with (package / room / "stage.py").open("a") as file:
        file.write("\nADDED = 1\n")
    assert moved_by(before) == {stage.name for stage in STAGES.values() if stage.room == room}


@pytest.mark.parametrize(
    ("file", "before", "after", "stages"),
    [
        ("captions/answers.py", "", "\nADDED = 1\n", {"captions"}),
        ("drawing/schedulers.py", "", "\nADDED = 1\n", DRAWING | {"training"}),
        ("report/page.html", "", "<p>", {"report"}),
        ("graph/run.py", "KEPT = 3", "KEPT = 4", set()),
        ("cli/app.py", "", "\nADDED = 1\n", set()),
    ],
)
def test_a_change_moves_the_stages_that_import_it(
    package: Path, file: str, before: str, after: str, stages: set[str]
) -> None:
    fingerprints = recipes.fingerprints()
    text = (package / file).read_text()
    assert before in text
    (package / file).write_text(text.replace(before, after, 1) if before else text + after)
    assert moved_by(fingerprints) == stages


def test_new_weights_beside_a_rooms_modules_move_it(package: Path) -> None:
    before = recipes.fingerprints()
    (package / "sketchbook" / "weights" / "more.safetensors").write_bytes(b"more")
    moved = moved_by(before)
    assert {"style_set", "negative_set", "training"} <= moved


CONSTANTS = ("0", "0.0", "1", "True", "False", "None", "''", "'a'", "b''", "()", "...")


def test_no_two_constants_are_written_alike() -> None:
    """Those that are empty or zero too: ``x = 0`` and ``x = None`` are different code."""
    written = [recipes._written(ast.parse(f"x = {constant}")) for constant in CONSTANTS]
    assert len(set(written)) == len(CONSTANTS)


def test_another_version_of_python_writes_the_same() -> None:
    """From 3.12 on, a function has ``type_params``, empty where it has none."""
    tree = ast.parse("def f(x: int = 0, *, y=None) -> None:\n    return x[:]\n")
    before = recipes._written(tree)
    fields = tuple(dict.fromkeys((*ast.FunctionDef._fields, "type_params", "later")))
    newer = type("FunctionDef", (ast.AST,), {"_fields": fields})
    function = tree.body[0]
    values = {name: getattr(function, name, None) for name in ast.FunctionDef._fields}
    tree.body[0] = newer(**{**values, "type_params": [], "later": None})
    assert recipes._written(tree) == before


def test_a_moved_stage_is_told_and_accepted(
    package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(recipes, "LOCK", tmp_path / "recipes.lock")
    monkeypatch.setattr(sys, "argv", ["recipes", "--accept"])
    assert recipes.main() == 0
    monkeypatch.setattr(sys, "argv", ["recipes"])
    assert recipes.main() == 0
    with (package / "captions" / "stage.py").open("a") as file:
        file.write("\nADDED = 1\n")
    assert recipes.main() == 1
    said = capsys.readouterr().err
    assert said.startswith("The code of captions changed.")
    assert "graph/table.py" in said
    assert "--accept" in said
    content = json.loads((tmp_path / "recipes.lock").read_text())
    assert {name: row["recipe"] for name, row in content.items()} == {
        stage.name: stage.recipe for stage in STAGES.values()
    }
