"""The table of stages, dvc.yaml and the code agree."""

import shutil
from pathlib import Path
from typing import Any

import grimp
import pytest
from fake_workspace import REPOSITORY, FakeWorkspace
from ruamel.yaml import YAML

from nsync_pipeline.errors import ParamsError
from nsync_pipeline.graph.dvc import (
    check_dvc_file,
    dvc_deps,
    dvc_metrics,
    dvc_out,
    dvc_params,
    dvc_plots,
    sync_dvc_file,
)
from nsync_pipeline.graph.table import STAGES, Stage
from nsync_pipeline.params import Params, read_params
from nsync_pipeline.workspace import Workspace

SHAPES_ONLY = {
    "nsync_pipeline", "nsync_pipeline.workspace", "nsync_pipeline.errors", "nsync_pipeline.settings",
    "nsync_pipeline.params", "nsync_pipeline.stages",
    "nsync_pipeline.stage", "nsync_pipeline.graph.progress",
}  # fmt: skip
"""Modules that say how things are called, where they lie and how far they are: no artefact depends
on their text."""

WHERE_WEIGHTS_LIE = {"nsync_pipeline.sketchbook", "nsync_pipeline.sketchbook.folders"}
"""What `families` uses of the sketchbook; the weights themselves are deps."""


@pytest.fixture(scope="module")
def dvc_yaml() -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")
    return content


@pytest.fixture(scope="module")
def params() -> Params:
    return read_params(REPOSITORY / "params.yaml")


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("nsync_pipeline")


@pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))
def test_dvc_yaml_says_what_the_table_says(
    stage: Stage, dvc_yaml: dict[str, Any], params: Params
) -> None:
    entry = dvc_yaml["stages"][stage.name]
    assert entry["deps"] == dvc_deps(stage, params.training_runs())
    assert entry["outs"] == [dvc_out(stage)]
    assert entry["params"] == dvc_params(stage)
    matrix = {"style": "${styles}"}
    if stage.per_training:
        matrix |= {"variant": "${variants}", "training_seed": "${training_seeds}"}
    assert entry["matrix"] == matrix
    assert entry["cmd"].startswith(f"${{nsync}} run {stage.name} --style ${{item.style}}")
    of_one = " --variant ${item.variant} --training-seed ${item.training_seed}"
    assert entry["cmd"].endswith(of_one) == stage.per_training


def test_dvc_yaml_has_no_other_stage(dvc_yaml: dict[str, Any], params: Params) -> None:
    assert list(dvc_yaml["stages"]) == list(STAGES)
    assert dvc_yaml["metrics"] == dvc_metrics(params)
    assert dvc_yaml["plots"] == dvc_plots(params)


@pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))
def test_code_deps_hold_every_module_the_stage_imports(
    stage: Stage, imports: grimp.ImportGraph
) -> None:
    stop = SHAPES_ONLY if "sketchbook" in stage.code else SHAPES_ONLY | WHERE_WEIGHTS_LIE
    reached: set[str] = set()
    ahead = {f"nsync_pipeline.stages.{stage.module or stage.name}"}
    while ahead:
        reached |= ahead
        ahead = {
            found for module in ahead for found in imports.find_modules_directly_imported_by(module)
        } - (reached | stop)
    files = {name.removeprefix("nsync_pipeline.").replace(".", "/") for name in reached}
    left_out = {file for file in files if not any(_holds(part, file) for part in stage.code)}
    assert not left_out
    weights = {part for part in stage.code if "weights" in part}
    unused = {part for part in stage.code if not any(_holds(part, file) for file in files)}
    assert unused == weights


@pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))
def test_code_deps_are_there(stage: Stage) -> None:
    package = REPOSITORY / "nsync_pipeline"
    assert [part for part in stage.code if not (package / part).exists()] == []


def test_a_stage_needs_only_stages_before_it() -> None:
    order = list(STAGES)
    for stage in STAGES.values():
        assert all(order.index(need) < order.index(stage.name) for need in stage.needs)


def test_forgotten_variant_is_told_and_synced(fake: FakeWorkspace) -> None:
    fake.edit_params("  nsync_extended:\n", "  gentle:\n    update_rule: none\n  nsync_extended:\n")
    changed = read_params(fake.workspace.params_file)
    with pytest.raises(ParamsError, match="deps of evaluation are not those of the variants"):
        check_dvc_file(fake.workspace, changed)
    assert "dvc.yaml: deps of evaluation" in sync_dvc_file(fake.workspace)
    check_dvc_file(fake.workspace, changed)
    deps = YAML(typ="safe").load(fake.root / "dvc.yaml")["stages"]["evaluation"]["deps"]
    assert "samples/${item.style}/gentle/0" in deps
    assert sync_dvc_file(fake.workspace) == []


def test_forgotten_training_seed_is_told_and_synced(fake: FakeWorkspace) -> None:
    fake.edit_params("training_seeds: [0]", "training_seeds: [0, 3]")
    changed = read_params(fake.workspace.params_file)
    with pytest.raises(ParamsError, match=r"its training_seeds \(0, 3\): `nsync sync` brings"):
        check_dvc_file(fake.workspace, changed)
    sync_dvc_file(fake.workspace)
    check_dvc_file(fake.workspace, changed)
    content = YAML(typ="safe").load(fake.root / "dvc.yaml")
    deps = content["stages"]["report"]["deps"]
    assert [dep for dep in deps if "/nsync/" in dep] == [
        "models/${item.style}/nsync/0", "models/${item.style}/nsync/3",
        "samples/${item.style}/nsync/0", "samples/${item.style}/nsync/3",
    ]  # fmt: skip
    curves = content["plots"][0]["woodblock: loss"]["y"]
    assert "models/woodblock/nsync/3/history.csv" in curves


def test_sync_keeps_comments(fake: FakeWorkspace) -> None:
    comments = _comments(fake.root / "dvc.yaml")
    fake.edit_params("  nsync_extended:\n", "  gentle:\n    update_rule: none\n  nsync_extended:\n")
    sync_dvc_file(fake.workspace)
    assert _comments(fake.root / "dvc.yaml") == comments != []


def test_key_left_to_its_default_is_written_out(fake: FakeWorkspace) -> None:
    """DVC would refuse to record a stage whose tracked key is not in params.yaml."""
    fake.edit_params("    placeholder: sks\n", "")
    params = read_params(fake.workspace.params_file)
    with pytest.raises(ParamsError, match=r"DVC tracks styles\.woodblock\.placeholder"):
        check_dvc_file(fake.workspace, params)
    comments = _comments(fake.workspace.params_file)
    said = sync_dvc_file(fake.workspace)
    assert said == ["params.yaml: styles.woodblock.placeholder written out, as DVC tracks it"]
    assert read_params(fake.workspace.params_file) == params
    assert _comments(fake.workspace.params_file) == comments
    check_dvc_file(fake.workspace, params)


def test_workspace_from_before_choices_were_read_is_told_and_synced(fake: FakeWorkspace) -> None:
    params = read_params(fake.workspace.params_file)
    shutil.rmtree(fake.root / "choices")
    with pytest.raises(ParamsError, match=r"choices/woodblock is not there.*`nsync sync` brings"):
        check_dvc_file(fake.workspace, params)
    assert sync_dvc_file(fake.workspace) == [
        "choices/woodblock: for what people choose, and for git"
    ]
    check_dvc_file(fake.workspace, params)
    shipped = REPOSITORY / "choices" / "woodblock" / "README.md"
    made = fake.workspace.choices("woodblock") / "README.md"
    assert made.read_bytes() == shipped.read_bytes()


def test_choices_are_kept_by_git(fake_with_dvc: FakeWorkspace) -> None:
    """They are people's own work: no rule may leave them out."""
    fake = fake_with_dvc
    (fake.workspace.choices("woodblock") / "one.json").write_text("{}")
    assert fake.call("git", "check-ignore", "choices/woodblock/one.json").returncode == 1
    found = fake.call("git", "ls-files", "--others", "--exclude-standard", "choices").stdout
    assert found.split() == ["choices/woodblock/README.md", "choices/woodblock/one.json"]


def test_folder_without_dvc_yaml_is_named(tmp_path: Path, params: Params) -> None:
    with pytest.raises(ParamsError, match=r"dvc\.yaml is not there"):
        check_dvc_file(Workspace(tmp_path), params)


def _holds(part: str, file: str) -> bool:
    return part in (file, f"{file}.py") or file.startswith(f"{part}/")


def _comments(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text().splitlines() if line.strip().startswith("#")]
