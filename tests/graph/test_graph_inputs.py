"""The input guard."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_workspace import REPOSITORY
from nsync_pipeline.graph.inputs import Inputs, read_tree, settings_of, tree_digest

from nsync_pipeline.errors import InputsChangedError
from nsync_pipeline.params import read_params

KEYS = ("seed", "variants.nsync", "styles.woodblock.placeholder")


@pytest.fixture
def begun(tmp_path: Path) -> Inputs:
    shutil.copyfile(REPOSITORY / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("a")
    (tmp_path / "code.py").write_text("x = 1")
    params_file = tmp_path / "params.yaml"
    paths = (tmp_path / "data", tmp_path / "code.py")
    return Inputs.read(params_file, read_params(params_file), KEYS, paths)


def _edit(name: str, before: str, after: str) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        text = (root / name).read_text()
        assert before in text
        (root / name).write_text(text.replace(before, after, 1))

    return edit


def _touch(root: Path) -> None:
    os.utime(root / "data" / "a.txt", ns=(1, 1))


def _pycache(root: Path) -> None:
    (root / "data" / "__pycache__").mkdir()
    (root / "data" / "__pycache__" / "a.pyc").write_text("compiled")


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (_edit("params.yaml", "seed: 0", "seed: 1"), "seed"),
        (
            _edit("params.yaml", "  nsync:\n", "  nsync:\n    learning_rate: 0.5\n"),
            "variants.nsync",
        ),
        (_edit("params.yaml", "seed: 0", "sede: 0"), "params.yaml"),
        (_edit("params.yaml", "seed: 0", "seed: ["), "params.yaml"),
        (_edit("data/a.txt", "a", "b"), "data (a.txt)"),
        (_edit("code.py", "1", "2"), "code.py"),
        (lambda root: (root / "data" / "a.txt").unlink(), "data (a.txt)"),
        (lambda root: (root / "data" / "new.txt").write_text("n"), "data (new.txt)"),
    ],
)
def test_a_changed_input_is_named(
    begun: Inputs, tmp_path: Path, edit: Callable[[Path], None], named: str
) -> None:
    edit(tmp_path)
    with pytest.raises(InputsChangedError, match="inputs changed") as caught:
        begun.check_unchanged()
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "edit",
    [
        _edit("params.yaml", "checkpoint_every: 20", "checkpoint_every: 10"),
        _edit(
            "params.yaml", "  lora:\n    update_rule: none", "  lora:\n    update_rule: orthogonal"
        ),
        _touch,
        _pycache,
    ],
    ids=["a setting it does not read", "another variant", "same content", "compiled code"],
)
def test_what_a_stage_does_not_read_may_change(
    begun: Inputs, tmp_path: Path, edit: Callable[[Path], None]
) -> None:
    edit(tmp_path)
    begun.check_unchanged()


def test_digest_depends_on_settings_and_content_but_not_on_where_the_workspace_is(
    begun: Inputs, tmp_path: Path
) -> None:
    def again(root: Path) -> str:
        params_file = root / "params.yaml"
        paths = (root / "data", root / "code.py")
        return Inputs.read(params_file, read_params(params_file), KEYS, paths).digest()

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("params.yaml", "code.py"):
        shutil.copyfile(tmp_path / name, elsewhere / name)
    shutil.copytree(tmp_path / "data", elsewhere / "data")
    assert again(elsewhere) == begun.digest()
    _edit("params.yaml", "seed: 0", "seed: 1")(elsewhere)
    assert again(elsewhere) != begun.digest()


def test_settings_come_with_their_defaults() -> None:
    params = read_params(REPOSITORY / "params.yaml")
    training = settings_of(params, ("training",))["training"]
    assert training["text_encoder_learning_rate"] is None


def test_tree_digest_is_the_one_dvc_writes(tmp_path: Path) -> None:
    """``printf hello | md5sum`` is 5d41402a...; a folder's is over the JSON list of its files."""
    (tmp_path / "a").write_text("hello")
    hello = "5d41402abc4b2a76b9719d911017c592"
    assert tree_digest(read_tree(tmp_path / "a")) == hello
    # md5 of [{"md5": "5d41402abc4b2a76b9719d911017c592", "relpath": "a"}]
    assert tree_digest(read_tree(tmp_path)) == "2c1965331cdc1c955867c6146e081236.dir"
