"""``nsync ablate`` as a person meets it, with the real stages."""

import pytest

from nsync_pipeline.workspace import Workspace
from tests.support.command_line import Done, nsync

PARAMS = """\
base_model: {name: sketchbook, device: cpu}
styles:
  woodblock: {source: "sketchbook:woodblock", pictures: 6}
style_set: {test_fraction: 0.5}
negative_set: {sampler: {steps: 1}}
training: {steps: 1, batch_size: 1, lora: {rank: 2}}
variants: {lora: {update_rule: none}}
generation: {sampler: {steps: 1}}
evaluation: {bootstrap_draws: 100}
report: {rows: 1}
ablation:
  training_seeds: [4]
  grid:
    update_rule: [none, orthogonal]
    shared_noise: [true]
"""

NAMES = ("none", "orthogonal_shared_noise")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("ablated")
    (root / "params.yaml").write_text(PARAMS)
    (root / "sources" / "woodblock").mkdir(parents=True)
    return Workspace(root)


@pytest.fixture(scope="module")
def planned(workspace: Workspace) -> list[str]:
    """What a dry run says before anything is made."""
    return lines(ablate(workspace, "woodblock", "--dry-run"))


@pytest.fixture(scope="module")
def first(workspace: Workspace, planned: list[str]) -> list[str]:
    """What the first run says."""
    assert not workspace.state.exists(), f"a dry run makes nothing: {planned}"
    return lines(ablate(workspace, "woodblock"))


def ablate(workspace: Workspace, *arguments: str) -> Done:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("NSYNC_TRACKING", "later")
        return nsync(workspace.root, "ablate", *arguments)


def lines(done: Done) -> list[str]:
    assert done.returncode == 0, done.stdout + done.stderr
    return [" ".join(line.split()) for line in done.stdout.splitlines()]


def test_a_dry_run_says_what_would_be_made(planned: list[str]) -> None:
    assert "ablation of woodblock: 2 variants, 1 training seed, 2 trainings" in planned
    assert "none update_rule none 1 of 1" in planned
    assert "orthogonal_shared_noise update_rule orthogonal, shared_noise true 1 of 1" in planned
    assert "trainings to make: 2" in planned


def test_it_trains_and_compares_and_a_second_time_does_nothing(
    workspace: Workspace, first: list[str]
) -> None:
    own = Workspace(workspace.root, of_ablation=True)

    assert any(line.startswith("none ") and line.endswith(" baseline") for line in first)
    verdicts = ("better", "as good", "worse", "trade-off", "inconclusive")
    assert any(
        line.startswith("orthogonal_shared_noise ") and line.endswith(verdicts) for line in first
    )
    assert "trained now: 2" in first
    report = own.report("woodblock") / "report.html"
    assert f"report: {report}" in first
    assert all(name in report.read_text() for name in NAMES)

    before = {path: path.stat().st_mtime_ns for path in workspace.root.glob("ablations/**/*")}
    assert before
    again = lines(ablate(workspace, "woodblock"))
    assert "nothing to make: all is up to date" in again
    assert [line for line in again if line.startswith("[")] == []
    assert {path: path.stat().st_mtime_ns for path in before} == before
    shown = [line for line in first if line.startswith((*NAMES, "base,", "real"))]
    assert [line for line in again if line in shown] == shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("oil",), "style 'oil' is not in params.yaml; there are: woodblock"),
        (
            ("woodblock", "--only", "none,nsync"),
            "variant 'nsync' is not in the ablation; there are: none, orthogonal_shared_noise",
        ),
        (
            ("woodblock", "--training-seeds", "0,x"),
            "--training-seeds 0,x: whole numbers with commas are needed: 0,1,2",
        ),
    ],
)
def test_a_mistake_is_one_message(
    workspace: Workspace, arguments: tuple[str, ...], said: str
) -> None:
    done = ablate(workspace, *arguments)

    assert done.returncode == 2
    assert done.stderr == f"nsync: {said}\n"
