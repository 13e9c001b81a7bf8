"""``nsync choose``: which of the weights that a training saved are used from now on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nsync_pipeline.adaptation.saved_steps import weights_digest
from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.graph.dvc import check_dvc_file, sync_dvc_file
from nsync_pipeline.params import read_params
from nsync_pipeline.workspace import LORA_FILE, Workspace, step_folder
from tests.support.command_line import Done, nsync
from tests.support.fake_stages import SMALL_PARAMS


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """With a training of 150 steps that saved two on the way."""
    workspace = Workspace(tmp_path)
    workspace.params_file.write_text(f"# mine\n{SMALL_PARAMS}")
    (workspace.source("ink")).mkdir(parents=True)
    sync_dvc_file(workspace)
    model = workspace.model("ink", "nsync", 0)
    for folder in (model, step_folder(model, 50), step_folder(model, 100)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LORA_FILE).write_text(f"the weights of {folder}")
    (model / "training.json").write_text(json.dumps({"kept_step": 150}))
    return workspace


def choose(workspace: Workspace, *options: str) -> Done:
    return nsync(workspace.root, "choose", "ink", "--variant", "nsync", *options)


def test_what_is_chosen_stands_in_the_settings_with_the_weights_it_was(
    workspace: Workspace,
) -> None:
    plain = (workspace.root / "dvc.yaml").read_text()
    done = choose(workspace, "--step", "50")
    assert (done.returncode, done.stderr) == (0, "")
    assert "ink, nsync-0: the weights of step 50 are used from now on" in done.stdout
    (chosen,) = read_params(workspace.params_file).style("ink").use_steps.items()
    place = step_folder(workspace.model("ink", "nsync", 0), 50)
    assert (chosen[0], chosen[1].step, chosen[1].weights) == ("nsync-0", 50, weights_digest(place))
    assert workspace.params_file.read_text().startswith("# mine\n")
    assert "- styles.${item.style}.use_steps" in (workspace.root / "dvc.yaml").read_text()
    check_dvc_file(Graph.read(workspace))

    assert choose(workspace, "--clear").returncode == 0
    assert read_params(workspace.params_file).style("ink").use_steps == {}
    assert (workspace.root / "dvc.yaml").read_text() == plain


def test_the_last_step_needs_no_choice(workspace: Workspace) -> None:
    choose(workspace, "--step", "50")
    assert "step 150 are used" in choose(workspace, "--step", "150").stdout
    assert read_params(workspace.params_file).style("ink").use_steps == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--step", "60"), "holds no weights of step 60; there are those of: 50, 100, 150"),
        ((), "say one of --step and --clear; ink, nsync-0 has steps: 50, 100, 150"),
        (("--step", "50", "--clear"), "say one of --step and --clear"),
        (("--step", "50", "--training-seed", "3"), "training seed 3 is not in training_seeds"),
        (("--step", "50", "--variant", "lora"), "models/ink/lora/0 is not there"),
    ],
)
def test_what_is_not_there_cannot_be_chosen(
    workspace: Workspace, options: tuple[str, ...], message: str
) -> None:
    before = workspace.params_file.read_bytes()
    done = choose(workspace, *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert workspace.params_file.read_bytes() == before


def test_choosing_needs_no_torch() -> None:
    script = (
        "import sys, nsync_pipeline.graph.settings\n"
        "print(sorted({'torch', 'diffusers', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
