"""An ablation makes what is not there or out of date, and only that; stages are fakes."""

import shutil
import signal
import subprocess
import time

import pytest
from fake_workspace import FakeWorkspace
from ruamel.yaml import YAML

SHARED = [f"{stage}-woodblock" for stage in (
    "style_set", "captions", "negative_set", "base_generation",
)]  # fmt: skip
CLOSING = ["evaluation-woodblock", "report-woodblock"]


@pytest.fixture
def ablated(fake: FakeWorkspace) -> FakeWorkspace:
    set_ablation(fake, {"update_rule": ["none", "orthogonal"]})
    return fake


def set_ablation(fake: FakeWorkspace, grid: dict[str, list[object]]) -> None:
    """The section ``ablation``: this grid, at two training seeds; on the CPU, without torch."""
    yaml = YAML()
    params = yaml.load(fake.workspace.params_file.read_text())
    params["ablation"] = {"training_seeds": [0, 1], "grid": grid}
    params["base_model"]["device"] = "cpu"
    with fake.workspace.params_file.open("w") as file:
        yaml.dump(params, file)


def trainings(*names: str) -> list[str]:
    return [f"{stage}-woodblock-{name}" for name in names for stage in ("training", "generation")]


ALL = trainings("none-0", "orthogonal-0", "none-1", "orthogonal-1")


def ablate(fake: FakeWorkspace, *arguments: str, **environment: str) -> list[str]:
    """What it ran; it must succeed."""
    done = fake.nsync("ablate", "woodblock", *arguments, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return fake.ran()


def test_all_is_made_once_and_apart_from_the_main_trainings(ablated: FakeWorkspace) -> None:
    assert ablate(ablated) == [*SHARED, *ALL, *CLOSING]
    assert ablate(ablated) == []

    made = ablated.root / "ablations" / "woodblock"
    assert sorted(path.name for path in made.iterdir()) == [
        ".made", "evaluation", "models", "reports", "samples"
    ]  # fmt: skip
    assert (made / "models" / "orthogonal" / "1" / "training.json").is_file()
    assert not (ablated.root / "models").exists()
    assert [path.name for path in (ablated.root / "samples" / "woodblock").iterdir()] == ["base"]


def test_what_another_command_made_of_the_same_is_not_made_again(ablated: FakeWorkspace) -> None:
    for stage in ("style_set", "captions"):
        assert ablated.nsync("run", stage, "--style", "woodblock").returncode == 0
    ablated.ran()

    assert ablate(ablated) == [*SHARED[2:], *ALL, *CLOSING]


def test_a_killed_one_goes_on_with_what_it_was_at(ablated: FakeWorkspace) -> None:
    partial = ablated.root / "ablations" / "woodblock" / "models" / "orthogonal" / ".0.partial"
    process = subprocess.Popen(
        [str(ablated.root.parent / "bin" / "nsync"), "ablate", "woodblock"], cwd=ablated.root,
        env={**ablated.environment, "FAKE_SECONDS": "1"}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while not (partial / "first.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert ablated.ran() == [*SHARED, *ALL[:2]]

    assert ablate(ablated) == [*ALL[2:], *CLOSING]
    assert not partial.exists()


def test_a_second_one_at_the_same_time_is_refused(ablated: FakeWorkspace) -> None:
    lock = ablated.workspace.lock("ablate-woodblock")
    process = subprocess.Popen(
        [str(ablated.root.parent / "bin" / "nsync"), "ablate", "woodblock"], cwd=ablated.root,
        env={**ablated.environment, "FAKE_SLOW": "style_set"}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not (lock.is_file() and lock.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        done = ablated.nsync("ablate", "woodblock")
        assert "the ablation of 'woodblock' is being written by process" in done.stderr
    finally:
        process.kill()
        process.wait()


def test_a_larger_grid_trains_only_what_is_new(ablated: FakeWorkspace) -> None:
    ablate(ablated)
    set_ablation(ablated, {"update_rule": ["none", "orthogonal"], "shared_noise": [False, True]})

    new = trainings("orthogonal_shared_noise-0", "orthogonal_shared_noise-1")
    assert ablate(ablated) == [*new, *CLOSING]


def test_a_changed_setting_makes_anew_what_it_affects(ablated: FakeWorkspace) -> None:
    ablate(ablated)
    ablated.edit_params("rows: 8", "rows: 7")
    assert ablate(ablated) == ["report-woodblock"]

    ablated.edit_params("weight_decay: 0.0", "weight_decay: 0.1")
    assert ablate(ablated) == [*ALL, *CLOSING]


def test_changed_pictures_make_all_anew(ablated: FakeWorkspace) -> None:
    ablate(ablated)
    (ablated.workspace.source("woodblock") / "new.txt").write_text("a picture")

    assert ablate(ablated) == [*SHARED, *ALL, *CLOSING]


def test_without_the_workspaces_own_state_no_training_is_made_again(
    ablated: FakeWorkspace,
) -> None:
    ablate(ablated)
    shutil.rmtree(ablated.workspace.state)

    assert ablate(ablated) == SHARED


def test_what_was_tampered_with_is_made_anew(ablated: FakeWorkspace) -> None:
    ablate(ablated)
    model = ablated.root / "ablations" / "woodblock" / "models" / "none" / "1"
    (model / "training.json").write_text("{}")

    assert ablate(ablated)[:1] == ["training-woodblock-none-1"]


def test_a_part_is_made_and_compared_and_the_rest_follows(ablated: FakeWorkspace) -> None:
    first = [*SHARED, *trainings("orthogonal-0", "orthogonal-1"), *CLOSING]
    assert ablate(ablated, "--only", "orthogonal") == first

    assert ablate(ablated) == [*trainings("none-0", "none-1"), *CLOSING]


def test_too_few_negatives_are_told_before_anything_is_made(ablated: FakeWorkspace) -> None:
    set_ablation(ablated, {"contrast.negatives": [1, 2]})
    done = ablated.nsync("ablate", "woodblock")

    assert done.returncode == 1
    assert done.stderr == (
        "training.contrast.negatives of orthogonal_negatives_2 asks for 2 negatives of a picture, "
        "and negative_set.per_positive is 1: set it to 2 or more\n"
    )
    assert ablated.ran() == []


def test_a_setting_changed_meanwhile_ends_it_in_75(ablated: FakeWorkspace) -> None:
    ablate(ablated)
    ablated.edit_params("weight_decay: 0.0", "weight_decay: 0.1")
    partial = ablated.root / "ablations" / "woodblock" / "models" / "none" / ".0.partial"
    process = subprocess.Popen(
        [str(ablated.root.parent / "bin" / "nsync"), "ablate", "woodblock"], cwd=ablated.root,
        env={**ablated.environment, "FAKE_SECONDS": "2"}, text=True, stderr=subprocess.PIPE,
    )  # fmt: skip
    while not (partial / "first.json").exists():
        assert process.poll() is None
        time.sleep(0.02)
    ablated.edit_params("weight_decay: 0.1", "weight_decay: 0.2")
    _, said = process.communicate(timeout=60)

    assert process.returncode == 75
    assert "inputs changed: training." in said


@pytest.mark.pipeline
def test_dvc_and_an_ablation_do_not_make_each_others_artefacts(
    fake_with_dvc: FakeWorkspace,
) -> None:
    fake = fake_with_dvc
    set_ablation(fake, {"update_rule": ["none", "orthogonal"]})
    assert ablate(fake) == [*SHARED, *ALL, *CLOSING]

    fake.dvc("repro", "--quiet")
    assert not set(fake.ran()) & set(SHARED)
    for record in fake.workspace.made("woodblock").iterdir():
        record.unlink()  # as on another machine: DVC still knows what is up to date
    assert not set(ablate(fake)) & set(SHARED)
