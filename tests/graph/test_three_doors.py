"""The whole pipeline, small, through each door: the same bytes, and the same things made anew."""

import hashlib
import json
import sys
from pathlib import Path

import pytest

from nsync_pipeline.graph.dvc import sync_dvc_file
from tests.support.small_workspace import SmallWorkspace, make_small_workspace

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(3600)]

STYLE = "woodblock"
VARIANTS = ("lora", "nsync")
BEFORE = ("style_set", "captions", "negative_set", "base_generation")
TRAINED, AFTER = ("training", "generation"), ("evaluation", "report")
MADE = ("data", "models", "samples", "evaluation", "reports")
BY_LORA = (f"models/{STYLE}/lora/", f"samples/{STYLE}/lora/")


def test_three_doors_make_the_same_bytes(tmp_path: Path) -> None:
    """The command, and Dagster, which has DVC run each stage; what changed, DVC by itself."""
    by_command, by_doors = (_two_variants(tmp_path / door) for door in ("command", "doors"))
    _by_command(by_command)
    _materialize(by_doors)

    made = _hashes(by_command)
    assert {name.split("/")[0] for name in made} == set(MADE)
    assert _hashes(by_doors) == made
    assert _out_of_date(by_doors) == {}

    for workspace in (by_command, by_doors):
        workspace.edit_params("  nsync:\n", "  nsync:\n    learning_rate: 0.0005\n")
    before = _times(by_doors.root)
    assert set(_out_of_date(by_doors)) == {f"training@{STYLE}-nsync-0"}
    by_doors.call("dvc", "repro", "--quiet")
    assert "Everything is fresh" in _materialize(by_doors)
    _by_command(by_command)
    after = _hashes(by_doors)
    assert _hashes(by_command) == after
    kept = {name for name in made if name.startswith(("data/", f"samples/{STYLE}/base/", *BY_LORA))}
    now = _times(by_doors.root)
    assert {name for name in kept if now[name] != before[name]} == set()
    changed = {name for name in made if after[name] != made[name]}
    assert f"models/{STYLE}/nsync/0/pytorch_lora_weights.safetensors" in changed
    assert f"evaluation/{STYLE}/figures/style_margin.json" in changed
    assert not changed & kept


RUN_ALL = """\
import sys
from nsync_pipeline.cli.app import app
for stage in sys.argv[1:]:
    app(["run", *stage.split()], standalone_mode=False)
"""


def _by_command(small: SmallWorkspace) -> None:
    """Every stage by ``nsync run``, in one process, which imports torch once."""
    of_style = [f"{stage} --style {STYLE}" for stage in BEFORE]
    of_style += [
        f"{stage} --style {STYLE} --variant {variant}" for variant in VARIANTS for stage in TRAINED
    ]
    of_style += [f"{stage} --style {STYLE}" for stage in AFTER]
    small.call(Path(sys.executable).name, "-c", RUN_ALL, *of_style)


EVERY_4 = """\
  nsync_every_4:
    update_rule: orthogonal
    contrast:
      negative_every: 4
      negative_estimate: running_mean
"""


def _two_variants(folder: Path) -> SmallWorkspace:
    small = make_small_workspace(folder)
    small.edit_params(EVERY_4, "")
    sync_dvc_file(small.workspace)
    return small


def _materialize(small: SmallWorkspace) -> str:
    arguments = ("-m", "assets.demo", "--style", STYLE)
    return small.call(Path(sys.executable).name, *arguments).stdout


def _out_of_date(small: SmallWorkspace) -> dict[str, object]:
    status: dict[str, object] = json.loads(small.call("dvc", "status", "--json").stdout)
    return status


def _files(root: Path) -> dict[str, Path]:
    return {
        file.relative_to(root).as_posix(): file
        for made in MADE
        for file in (root / made).rglob("*")
        if file.is_file()
    }


def _hashes(small: SmallWorkspace) -> dict[str, str]:
    files = _files(small.root)
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}


def _times(root: Path) -> dict[str, int]:
    return {name: file.stat().st_mtime_ns for name, file in _files(root).items()}
