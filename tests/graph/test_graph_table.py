"""The table of stages, the rooms, params.yaml and dvc.yaml agree."""

import importlib.util
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo

from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.graph.dvc import dvc_text, stage_name, sync_dvc_file
from nsync_pipeline.graph.made import SUMS_FILE
from nsync_pipeline.graph.table import STAGES, Stage
from nsync_pipeline.params import Params
from nsync_pipeline.settings import CHOICES_MADE, StageSettings
from nsync_pipeline.workspace import Workspace
from tests.support.fake_stages import all_artefacts
from tests.support.fake_workspace import REPOSITORY, FakeWorkspace, make_fake_workspace


@pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))
def test_every_stages_room_has_its_function_and_its_settings(stage: Stage) -> None:
    module = REPOSITORY / "nsync_pipeline" / stage.room / "stage.py"
    assert f"def {stage.function}(context: StageContext[" in module.read_text()
    assert issubclass(stage.settings, StageSettings)
    assert stage.settings.__module__ == f"nsync_pipeline.{stage.room}.config"
    keys = [key for _, keys in stage.settings.sources() for key in keys]
    assert all(key.split(".")[0] in Params.model_fields for key in keys)
    assert importlib.util.find_spec(f"nsync_pipeline.{stage.room}.stage") is not None


def test_a_stage_needs_only_stages_before_it() -> None:
    order = list(STAGES)
    for stage in STAGES.values():
        assert all(order.index(need) < order.index(stage.name) for need in stage.needs)


def test_no_two_artefacts_have_the_same_place_lock_or_name(workspace: Workspace) -> None:
    graph = Graph.read(workspace)
    all_ = [*graph.artefacts("ink"), *all_artefacts(graph, "ink", of_ablation=True)]
    own = set(all_)
    assert len(own) == 4 + 2 * 2 + 2 + 4 * 2 + 2  # shared once; 2 x 1 trainings, and 2 x 2
    for of in ("path", "slot", "title"):
        assert len({getattr(artefact, of) for artefact in own}) == len(own)
    assert len({stage_name(artefact) for artefact in own}) == len(own)


def test_where_artefacts_lie_is_where_stages_look_for_them(workspace: Workspace) -> None:
    graph = Graph.read(workspace)
    ablation = Workspace(workspace.root, of_ablation=True)
    for artefact in {*graph.artefacts("ink"), *all_artefacts(graph, "ink", of_ablation=True)}:
        place = ablation if artefact.of_ablation else workspace
        training = (artefact.variant or "base", artefact.training_seed or 0)
        looked_for = {
            "style_set": place.style_set("ink"),
            "captions": place.captions("ink"),
            "negative_set": place.negative_set("ink"),
            "training": place.model("ink", *training),
            "generation": place.samples("ink", *training),
            "base_generation": place.samples("ink", "base"),
            "evaluation": place.evaluation("ink"),
            "report": place.report("ink"),
        }
        assert workspace.root / artefact.path == looked_for[artefact.stage.name]


def test_the_repositorys_dvc_yaml_is_what_nsync_sync_writes() -> None:
    graph = Graph.read(Workspace(REPOSITORY))
    advice = "run `nsync sync`"
    assert (REPOSITORY / "dvc.yaml").read_text() == dvc_text(graph), advice


@pytest.fixture(scope="module")
def dvc_stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The stages of a workspace by name, as DVC's own parser reads them."""
    fake = make_fake_workspace(tmp_path_factory.mktemp("parsed"))
    sync_dvc_file(fake.workspace, ablation=True)
    with chdir(fake.root), Repo() as repo:
        return {stage.addressing: stage for stage in repo.index.stages if stage.cmd} | {
            "fake": fake
        }


def test_dvc_reads_what_the_table_says(dvc_stages: dict[str, Any]) -> None:
    fake: FakeWorkspace = dvc_stages["fake"]
    graph = Graph.read(fake.workspace)
    artefacts = {*graph.artefacts("ink"), *all_artefacts(graph, "ink", of_ablation=True)}
    assert {stage_name(a) for a in artefacts} == set(dvc_stages) - {"fake"}
    for artefact in artefacts:
        parsed = dvc_stages[stage_name(artefact)]

        def relative(entry: Any) -> str:
            return Path(entry.fs_path).relative_to(fake.root).as_posix()

        (out,) = parsed.outs
        assert (relative(out), out.persist) == (artefact.path, True)
        folders = [path.format(style="ink") for path in artefact.stage.reads]
        needs = [f"{need.path}/{SUMS_FILE}" for need in graph.needs(artefact)]
        files = [dep for dep in parsed.deps if type(dep).__name__ != "ParamsDependency"]
        assert sorted(map(relative, files)) == sorted([*folders, *needs])
        words = parsed.cmd.split()
        asked = words[words.index("nsync") + 1 :]
        options = ["--style", "ink"]
        if artefact.variant is not None:
            options += ["--variant", artefact.variant, "--training-seed"]
            options += [str(artefact.training_seed)]
        options += ["--ablation"] if artefact.of_ablation else []
        recipe = ["--recipe", str(artefact.stage.recipe)]
        assert asked == ["run", artefact.stage.name, *options, *recipe]


def test_dvc_tracks_every_key_a_stage_reads(dvc_stages: dict[str, Any]) -> None:
    """But for which variants there are: that, the deps say. And choices, where none is made."""
    for name, parsed in dvc_stages.items():
        if name == "fake" or "ablations" in name:
            continue
        stage = STAGES[name.partition("@")[0]]
        variant = name.split("-")[1] if stage.per_training else None
        read = [key for _, keys in stage.settings.sources() for key in keys]
        read = [key for key in read if not key.startswith(CHOICES_MADE)]
        keys = {key.format(style="ink", variant=variant) for key in read}
        tracked = {
            key
            for dep in parsed.deps
            if type(dep).__name__ == "ParamsDependency"
            for key in dep.params
        }
        assert tracked == keys - {"variants"}


def test_the_graph_is_read_without_torch_scipy_or_an_orchestrator() -> None:
    """Each `nsync run` reads it: it must be quick."""
    script = (
        "import sys, nsync_pipeline.graph.run, nsync_pipeline.graph.dvc\n"
        "heavy = {'torch', 'scipy', 'dagster', 'dvc', 'mlflow', 'diffusers', 'pyarrow', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
