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
MADE = ("data", "models", "samples", "evaluation", "reports")
BY_LORA = (f"models/{STYLE}/lora/", f"samples/{STYLE}/lora/")


def test_three_doors_make_the_same_bytes(tmp_path: Path) -> None:
    by_command, by_dvc, by_dagster = (
        _two_variants(tmp_path / door) for door in ("command", "dvc", "dagster")
    )
    for stage in ("style_set", "captions", "negative_set", "base_generation"):
        by_command.call("nsync", "run", stage, "--style", STYLE)
    for variant in VARIANTS:
        for stage in ("training", "generation"):
            by_command.call("nsync", "run", stage, "--style", STYLE, "--variant", variant)
    for stage in ("evaluation", "report"):
        by_command.call("nsync", "run", stage, "--style", STYLE)
    by_dvc.call("dvc", "repro", "--quiet")
    _materialize(by_dagster)

    made = _hashes(by_command)
    assert {name.split("/")[0] for name in made} == set(MADE)
    assert _hashes(by_dvc) == made
    assert _hashes(by_dagster) == made
    assert _out_of_date(by_dvc) == _out_of_date(by_dagster) == {}

    for workspace in (by_dvc, by_dagster):
        workspace.edit_params("  nsync:\n", "  nsync:\n    learning_rate: 0.0005\n")
    before = {door: _times(door) for door in (by_dvc.root, by_dagster.root)}
    by_dvc.call("dvc", "repro", "--quiet")
    assert "4 artefacts made" in _materialize(by_dagster)
    after = _hashes(by_dvc)
    assert _hashes(by_dagster) == after
    kept = {name for name in made if name.startswith(("data/", f"samples/{STYLE}/base/", *BY_LORA))}
    for root in (by_dvc.root, by_dagster.root):
        now = _times(root)
        assert {name for name in kept if now[name] != before[root][name]} == set()
    changed = {name for name in made if after[name] != made[name]}
    assert f"models/{STYLE}/nsync/0/pytorch_lora_weights.safetensors" in changed
    assert f"evaluation/{STYLE}/figures/style_margin.json" in changed
    assert not changed & kept


EXTENDED = """\
  nsync_extended:
    update_rule: orthogonal
    shared_noise: true
    content_dropout: 0.3
    contrast:
      positive_part: true
"""


def _two_variants(folder: Path) -> SmallWorkspace:
    small = make_small_workspace(folder)
    small.edit_params(EXTENDED, "")
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
