"""An ablation makes what is not there or out of date, and only that; stages are fakes."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from nsync_pipeline.errors import (
    InputsChangedError,
    ParamsError,
    TrainingError,
    WorkspaceBusyError,
)
from nsync_pipeline.graph.ablation import pending, run_ablation
from nsync_pipeline.graph.artefacts import WHOLE, AblationPart, Graph, State
from nsync_pipeline.graph.locks import sole_writer
from nsync_pipeline.graph.run import Asked, run_stage
from nsync_pipeline.workspace import Workspace
from tests.support.fake_stages import Fakes

SHARED = ["style_set-ink", "captions-ink", "negative_set-ink", "base_generation-ink"]
CLOSING = ["evaluation-ink", "report-ink"]


@pytest.fixture(autouse=True)
def without_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The garbage of all other tests takes a second each time."""
    monkeypatch.setattr("nsync_pipeline.graph.whole.gc.collect", lambda: 0)


def trainings(*names: str) -> list[str]:
    return [f"{stage}-ink-{name}" for name in names for stage in ("training", "generation")]


ALL = trainings("none-0", "orthogonal-0", "none-1", "orthogonal-1")


def set_ablation(workspace: Workspace, grid: dict[str, list[object]]) -> None:
    yaml = YAML()
    params = yaml.load(workspace.params_file.read_text())
    params["ablation"]["grid"] = grid
    with workspace.params_file.open("w") as file:
        yaml.dump(params, file)


def edit(workspace: Workspace, before: str, after: str) -> None:
    text = workspace.params_file.read_text()
    assert text.count(before) == 1, before
    workspace.params_file.write_text(text.replace(before, after))


def planned(workspace: Workspace, part: AblationPart = WHOLE) -> list[str]:
    found = pending(Graph.read(workspace, part), "ink")
    return ["-".join((artefact.stage.name, *artefact.parts)) for artefact in found]


def ablate(fakes: Fakes, workspace: Workspace, part: AblationPart = WHOLE) -> list[str]:
    """What it ran, which is what was pending."""
    fakes.ran.clear()
    before = planned(workspace, part)
    run_ablation(Graph.read(workspace, part), "ink", lambda line: None)
    assert planned(workspace, part) == []
    assert set(fakes.ran) <= set(before)
    return list(fakes.ran)


def test_all_is_made_once_a_seed_of_all_variants_after_the_other(
    fakes: Fakes, workspace: Workspace
) -> None:
    assert planned(workspace) == [*SHARED, *ALL, *CLOSING]
    assert ablate(fakes, workspace) == [*SHARED, *ALL, *CLOSING]
    assert ablate(fakes, workspace) == []

    made = workspace.root / "ablations" / "ink"
    kinds = ["evaluation", "models", "reports", "samples"]
    assert sorted(path.name for path in made.iterdir()) == kinds
    assert (made / "models" / "orthogonal" / "1" / "training.json").is_file()
    assert not (workspace.root / "models").exists()
    assert [path.name for path in (workspace.root / "samples" / "ink").iterdir()] == ["base"]


def test_it_says_how_far_it_is(fakes: Fakes, workspace: Workspace) -> None:
    said: list[str] = []
    run_ablation(Graph.read(workspace), "ink", said.append)
    assert len(said) == 14
    assert said[0] == "[1 of 14] style_set · ink"
    assert said[4] == "[5 of 14] training of the ablation · ink · none · 0"


def test_what_the_style_has_of_the_same_is_not_made_again(
    fakes: Fakes, workspace: Workspace
) -> None:
    for stage in ("style_set", "captions"):
        run_stage(workspace, Asked(stage, "ink"))
    assert ablate(fakes, workspace) == [*SHARED[2:], *ALL, *CLOSING]
    fakes.ran.clear()
    outcome = run_stage(workspace, Asked("negative_set", "ink"))
    assert outcome is not None
    assert not outcome.is_new


def test_an_interrupted_one_goes_on_with_what_it_was_at(fakes: Fakes, workspace: Workspace) -> None:
    def interrupt(context: Any) -> None:
        if (context.variant, context.training_seed) == ("orthogonal", 0):
            raise KeyboardInterrupt

    fakes.meanwhile = interrupt
    with pytest.raises(KeyboardInterrupt):
        run_ablation(Graph.read(workspace), "ink", lambda line: None)
    assert fakes.ran == [*SHARED, *ALL[:2]]
    fakes.meanwhile = None
    assert ablate(fakes, workspace) == [*ALL[2:], *CLOSING]


def test_a_second_one_at_the_same_time_is_refused(fakes: Fakes, workspace: Workspace) -> None:
    with (
        sole_writer(workspace.lock("ablate-ink"), "x"),
        pytest.raises(WorkspaceBusyError, match="the ablation of 'ink' is being written by"),
    ):
        run_ablation(Graph.read(workspace), "ink", lambda line: None)
    assert fakes.ran == []


def test_a_larger_grid_trains_only_what_is_new(fakes: Fakes, workspace: Workspace) -> None:
    ablate(fakes, workspace)
    set_ablation(workspace, {"update_rule": ["none", "orthogonal"], "shared_noise": [False, True]})
    new = trainings("orthogonal_shared_noise-0", "orthogonal_shared_noise-1")
    assert ablate(fakes, workspace) == [*new, *CLOSING]


def test_a_changed_setting_makes_anew_what_it_affects(fakes: Fakes, workspace: Workspace) -> None:
    ablate(fakes, workspace)
    edit(workspace, "seed: 0", "report: {rows: 7}\nseed: 0")
    assert ablate(fakes, workspace) == ["report-ink"]
    edit(workspace, "learning_rate: 0.002", "learning_rate: 0.003")
    assert ablate(fakes, workspace) == [*ALL, *CLOSING]


def test_changed_pictures_make_all_anew(fakes: Fakes, workspace: Workspace) -> None:
    ablate(fakes, workspace)
    workspace.source("ink").mkdir(parents=True)
    (workspace.source("ink") / "new.txt").write_text("a picture")
    assert planned(workspace) == [*SHARED, *ALL, *CLOSING]
    assert ablate(fakes, workspace) == [*SHARED, *ALL, *CLOSING]


def test_what_shares_an_input_that_came_out_the_same_stays(
    fakes: Fakes, workspace: Workspace
) -> None:
    """Pending says what may have to be made; the same captions make nothing anew."""
    fakes.steady = {"captions"}
    ablate(fakes, workspace)
    edit(workspace, "training:\n", "captioning: {too_long: error}\ntraining:\n")
    assert planned(workspace) == [*SHARED[1:], *ALL, *CLOSING]
    assert ablate(fakes, workspace) == ["captions-ink"]


def test_without_the_workspaces_own_state_nothing_is_made_again(
    fakes: Fakes, workspace: Workspace
) -> None:
    ablate(fakes, workspace)
    shutil.rmtree(workspace.state)
    assert ablate(fakes, workspace) == []


def test_what_was_tampered_with_is_made_anew_and_nothing_else(
    fakes: Fakes, workspace: Workspace
) -> None:
    ablate(fakes, workspace)
    model = workspace.root / "ablations" / "ink" / "models" / "none" / "1"
    (model / "training.json").write_text("{}")
    fakes.ran.clear()
    run_ablation(Graph.read(workspace), "ink", lambda line: None)
    assert fakes.ran == ["training-ink-none-1"]


def test_a_part_is_made_and_compared_and_the_rest_follows(
    fakes: Fakes, workspace: Workspace
) -> None:
    first = [*SHARED, *trainings("orthogonal-0", "orthogonal-1"), *CLOSING]
    assert ablate(fakes, workspace, AblationPart(("orthogonal",))) == first
    assert ablate(fakes, workspace) == [*trainings("none-0", "none-1"), *CLOSING]


def test_other_training_seeds_than_the_sections_are_made_when_asked(
    fakes: Fakes, workspace: Workspace
) -> None:
    only = AblationPart(training_seeds=(7,))
    made = [*SHARED, *trainings("none-7", "orthogonal-7"), *CLOSING]
    assert ablate(fakes, workspace, only) == made


def test_too_few_negatives_are_told_before_anything_is_made(
    fakes: Fakes, workspace: Workspace
) -> None:
    set_ablation(workspace, {"contrast.negatives": [1, 2]})
    said = (
        "training.contrast.negatives of orthogonal_negatives_2 asks for 2 negatives of a picture, "
        "and negative_set.per_positive is 1: set it to 2 or more"
    )
    with pytest.raises(TrainingError) as caught:
        run_ablation(Graph.read(workspace), "ink", lambda line: None)
    assert str(caught.value) == said
    assert fakes.ran == []


@pytest.mark.parametrize(
    ("part", "style", "message"),
    [
        (AblationPart(("gentle",)), "ink", "'gentle' is not in the ablation; there are: none, o"),
        (AblationPart(), "oil", "style 'oil' is not in params.yaml"),
    ],
)
def test_what_is_not_there_is_named(
    fakes: Fakes, workspace: Workspace, part: AblationPart, style: str, message: str
) -> None:
    with pytest.raises(ParamsError, match=message):
        run_ablation(Graph.read(workspace, part), style, lambda line: None)


def test_without_the_section_it_is_told(fakes: Fakes, workspace: Workspace) -> None:
    text = workspace.params_file.read_text()
    workspace.params_file.write_text(text[: text.index("ablation:")])
    with pytest.raises(ParamsError, match=r"params\.yaml has no section `ablation`"):
        run_ablation(Graph.read(workspace), "ink", lambda line: None)


def test_a_setting_changed_meanwhile_ends_it(fakes: Fakes, workspace: Workspace) -> None:
    def change(context: Any) -> None:
        if context.variant == "none":
            fakes.meanwhile = None
            edit(workspace, "learning_rate: 0.002", "learning_rate: 0.003")

    fakes.meanwhile = change
    with pytest.raises(InputsChangedError, match=r"training\.learning_rate 0\.002 -> 0\.003"):
        run_ablation(Graph.read(workspace), "ink", lambda line: None)
    assert not (workspace.root / "ablations" / "ink" / "models" / "none" / "0").exists()


def test_main_trainings_and_the_ablations_own_do_not_touch_each_other(
    fakes: Fakes, workspace: Workspace
) -> None:
    ablate(fakes, workspace)
    run_stage(workspace, Asked("training", "ink", "lora"))
    main = workspace.model("ink", "lora", 0) / "made.json"
    before = main.read_bytes()
    edit(workspace, "training_seeds: [0]\n", "training_seeds: [0, 9]\n")
    graph = Graph.read(workspace)
    own = graph.standings(["ink"], of_ablation=True)
    assert {standing.state for standing in own.values()} == {State.FRESH}
    outcome = run_stage(workspace, Asked("training", "ink", "none", 1, of_ablation=True))
    assert outcome is not None
    assert not outcome.is_new
    assert main.read_bytes() == before


def test_an_unreadable_place_is_not_taken_for_an_artefact(
    fakes: Fakes, workspace: Workspace, tmp_path: Path
) -> None:
    """What an older engine left there has no made.json: it is made anew."""
    old = workspace.root / "ablations" / "ink" / "models" / "none" / "0"
    old.mkdir(parents=True)
    (old / "pytorch_lora_weights.safetensors").write_bytes(b"old")
    assert ablate(fakes, workspace) == [*SHARED, *ALL, *CLOSING]
    assert (old / "pytorch_lora_weights.safetensors").read_bytes() == b"weights"
