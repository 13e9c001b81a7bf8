"""What a change of settings, inputs or recipes makes out of date, and that it is nothing else."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from nsync_pipeline.errors import ParamsError
from nsync_pipeline.graph.artefacts import Artefact, Graph, State
from nsync_pipeline.graph.made import read_made
from nsync_pipeline.graph.run import Asked, run_stage
from nsync_pipeline.graph.table import STAGES
from nsync_pipeline.params import Params, parse_params
from nsync_pipeline.style_set.config import StyleConfig
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.workspace import Workspace
from tests.support.fake_stages import SMALL_PARAMS, Fakes, make_everything

Content = dict[str, Any]

SMALL: Content = YAML(typ="safe").load(SMALL_PARAMS) | {
    "styles": {
        name: {"source": "sketchbook:woodblock", "pictures": 8} for name in ("ink", "oil")
    },
    "variants": {"one": {"update_rule": "orthogonal"}, "two": {"update_rule": "orthogonal"}},
    "training": {"learning_rate": 0.002, "watch": {"every": 10}},
    "ablation": {"training_seeds": [0], "grid": {"shared_noise": [False, True]}},
    "executor": {"ray": {"address": "http://head:8265"}},
}  # fmt: skip

NOTHING = (
    "training.checkpoint_every", "training.checkpoint_minutes", "training.watch",
    "training.update_rule",  # each variant's own
    "styles.ink.rights", "styles.ink.license", "dagster", "executor",
)  # fmt: skip
DIRECTLY: dict[str, tuple[str, ...]] = dict.fromkeys(NOTHING, ()) | {
    "seed": (
        "style_set", "negative_set", "training", "generation", "base_generation", "evaluation",
        "report",
    ),
    "base_model": ("captions", "negative_set", "training", "generation", "base_generation"),
    "styles.ink.source": ("style_set", "evaluation", "report"),
    "styles.ink.pictures": ("style_set",),
    "styles.ink.test_pictures": ("style_set",),
    "styles.ink.placeholder": ("captions", "training", "generation"),
    "styles.ink.generic_style": (
        "captions", "negative_set", "training", "base_generation", "report"
    ),
    "styles.ink.style_words": ("captions",),
    "styles.ink.known_as": ("captions", "base_generation", "evaluation"),
    "styles.ink.excluded": ("style_set",),
    "style_set": ("style_set",),
    "captioning": ("captions",),
    "negative_set": ("negative_set",),
    "training": ("training",),
    "generation": ("generation", "base_generation"),
    "generation.guidance": ("generation",),  # the base has nothing that was trained
    "generation.points": ("generation",),
    "evaluation": ("evaluation",),
    "report": ("report",),
}  # fmt: skip
"""By the start of a setting's name, the longest one counts: the stages that read it."""

OF_A_RULE = {
    "anchor": "mean", "released_form": "released", "margin": "safeguarded", "beta": "preference",
    "supervised": "preference", "repulsion": "contrastive_target", "mirror": "negative_aware",
    "negative_weight": "prior_preservation",
}  # fmt: skip
COMPANIONS: dict[str, dict[str, Any]] = {
    f"training.contrast.{setting}": dict.fromkeys(
        ("training.update_rule", "variants.one.update_rule", "variants.two.update_rule"), rule
    )
    for setting, rule in OF_A_RULE.items()
} | {
    "training.contrast.negative_every": {"training.contrast.negative_estimate": "running_mean"},
    "training.watch.guidance.weight": {"training.watch.guidance.form": "difference"},
    "generation.guidance.weight": {"generation.guidance.form": "difference"},
    "training.contrast.running_decay": {"training.contrast.negative_estimate": "running_mean"},
    "training.contrast.basis_size": {"training.contrast.negative_estimate": "running_basis"},
    "training.lora.factor": {"training.lora.kind": "lokr"},
    "training.save.last": {"training.save.every": 10},
    "training.objective.huber_delta": {"training.objective.loss": "huber"},
    "training.objective.logit_mean": {"training.objective.timestep_sampling": "logit_normal"},
    "training.objective.logit_std": {"training.objective.timestep_sampling": "logit_normal"},
    "training.objective.timestep_shift": {"training.objective.timestep_sampling": "shift"},
}  # fmt: skip
COMPANIONS["training.contrast.repulsion"]["ablation.grid"] = {
    "learning_rate": [0.001, 0.003]
}  # no shared noise
"""What has to be set for a setting to be allowed to be other than it is."""


def leaves(section: type[BaseModel], content: Content, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted name, and the type of its value."""
    for key, field in section.model_fields.items():
        value = content[key]
        kinds = [k for k in (field.annotation, *get_args(field.annotation)) if _is_section(k)]
        if kinds and isinstance(value, dict) and get_origin(field.annotation) is not dict:
            yield from leaves(kinds[0], value, f"{name}{key}.")
        else:
            yield f"{name}{key}", field.annotation


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def changed(value: Any, kind: Any) -> Iterator[Any]:
    """Other values of a setting, of which some may not be allowed."""
    for part in (kind, *get_args(kind)):
        if get_origin(part) is Literal:
            yield from (choice for choice in get_args(part) if choice != value)
        if _is_section(part):
            needed = {key: "other" for key, of in part.model_fields.items() if of.is_required()}
            yield part(**needed).model_dump(mode="json")
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value * 2, value / 2, value + 0.25, value - 1)
    elif isinstance(value, str):
        yield from (f"{value}x", "sketchbook:mosaic")
    elif isinstance(value, list | tuple):
        sections = [part().model_dump(mode="json") for part in get_args(kind) if _is_section(part)]
        yield from ([*value, more] for more in (*sections, "more", 7))
        yield [0]
    elif isinstance(value, dict):
        yield from ({"to_q": 2}, {"training": {}})
    else:
        yield from (1, 64, 0.5, True, "other", "cc-by-4.0", ["other"], [0.5, 0.9])
    yield None


def put(content: Content, name: str, value: Any) -> Content:
    new = deepcopy(content)
    section = new
    *parents, last = name.split(".")
    for part in parents:
        section = section.setdefault(part, {})
    section[last] = value
    return new


def another(content: Content, name: str, value: Any, kind: Any) -> Params:
    """The settings with one changed."""
    before = parse_params(content)
    for choice in changed(value, kind):
        try:
            params = parse_params(put(content, name, choice))
        except ParamsError:
            continue
        variants = [{name: one.variant(name) for name in one.variants} for one in (before, params)]
        if variants[0] != variants[1] or (params.variants == before.variants and params != before):
            return params
    raise AssertionError(f"no other value of {name} is allowed")


def value_of(content: Content, name: str) -> Any:
    value: Any = content
    for part in name.split("."):
        value = value[part]
    return value


FULL = parse_params(SMALL).model_dump(mode="json")  # all settings written out
SECTIONS = [key for key in Params.model_fields if key not in ("styles", "variants", "ablation")]
INK = dict(leaves(StyleConfig, FULL["styles"]["ink"], "styles.ink."))
LEAVES = INK | {
    name: kind
    for name, kind in leaves(Params, FULL)
    if name.split(".")[0] in SECTIONS
    and name != "training_seeds"
    and not (get_origin(kind) is Literal and len(get_args(kind)) == 1)  # it has no other value
}
LEAVES.pop("styles.ink.use_steps")  # by training: see below
TRAINING_LEAVES = dict(leaves(TrainingConfig, FULL["training"]))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two styles of which everything is made, of the ablation too; tests change nothing in it."""
    workspace = Workspace(tmp_path_factory.mktemp("made"))
    with workspace.params_file.open("w") as file:
        YAML().dump(FULL, file)
    graph = Graph.read(workspace)
    make_everything(graph)
    make_everything(graph, of_ablation=True)
    return workspace


def states(
    workspace: Workspace, params: Params, of_ablation: bool = False
) -> dict[State, list[Artefact]]:
    found: dict[State, list[Artefact]] = {state: [] for state in State}
    standings = Graph(workspace, params).standings(list(params.styles), of_ablation)
    for artefact, standing in standings.items():
        found[standing.state].append(artefact)
    return found


def expected(
    graph: Graph, style: str | None, stages: tuple[str, ...], variant: str | None = None
) -> tuple[set[Artefact], set[Artefact]]:
    """What is out of date where ``stages`` read a changed setting, and what waits for it."""
    stale: set[Artefact] = set()
    waiting: set[Artefact] = set()
    for of_style in [style] if style else graph.params.styles:
        for artefact in graph.artefacts(of_style):
            if any(need in stale | waiting for need in graph.needs(artefact)):
                waiting.add(artefact)
            elif artefact.stage.name in stages and variant in (None, artefact.variant):
                stale.add(artefact)
    return stale, waiting


def test_all_is_fresh_where_nothing_changed(made: Workspace) -> None:
    found = states(made, parse_params(FULL))
    assert len(found[State.FRESH]) == 2 * 10
    assert not any(found[state] for state in State if state is not State.FRESH)


def with_companions(name: str, made: Workspace, folder: Path) -> tuple[Content, Workspace]:
    """Settings in which ``name`` may be changed, and a workspace in which all is made by them."""
    if name not in COMPANIONS:
        return FULL, made
    content = FULL
    for companion, value in COMPANIONS[name].items():
        content = put(content, companion, value)
    workspace = Workspace(folder)
    make_everything(Graph(workspace, parse_params(content)))
    return content, workspace


@pytest.mark.parametrize("name", LEAVES)
def test_a_setting_makes_stale_what_reads_it_and_nothing_else(
    made: Workspace, tmp_path: Path, name: str
) -> None:
    content, made = with_companions(name, made, tmp_path)
    params = another(content, name, value_of(content, name), LEAVES[name])
    found = states(made, params)
    stages = DIRECTLY[max((key for key in DIRECTLY if f"{name}.".startswith(f"{key}.")), key=len)]
    if name == "base_model.device":
        stages = (*stages, "evaluation")
    style = "ink" if name.startswith("styles.") else None
    stale, waiting = expected(Graph(made, params), style, stages)
    assert set(found[State.STALE]) == stale
    assert set(found[State.WAITING]) == waiting
    assert not found[State.MISSING]


@pytest.mark.parametrize("name", TRAINING_LEAVES)
def test_a_variants_own_setting_makes_only_its_trainings_stale(
    made: Workspace, tmp_path: Path, name: str
) -> None:
    content, made = with_companions(f"training.{name}", made, tmp_path)
    value = value_of(content["training"], name)
    params = another(content, f"variants.two.{name}", value, TRAINING_LEAVES[name])
    found = states(made, params)
    observed = name.startswith(("checkpoint_", "watch."))
    stale, waiting = expected(Graph(made, params), None, () if observed else ("training",), "two")
    assert set(found[State.STALE]) == stale
    assert set(found[State.WAITING]) == waiting
    assert {artefact.variant for artefact in stale} <= {"two"}


OF_A_SCORE = [n for n in TRAINING_LEAVES if n.startswith("watch.") and n != "watch.own_prompts"]


@pytest.mark.parametrize("name", OF_A_SCORE)
def test_where_the_best_look_is_kept_looks_decide_the_training(tmp_path: Path, name: str) -> None:
    best = put(put(FULL, "training.keep", "best"), "training.watch.every", 10)
    for companion, value in COMPANIONS.get(f"training.{name}", {}).items():
        best = put(best, companion, value)
    workspace = Workspace(tmp_path)
    graph = Graph(workspace, parse_params(best))
    make_everything(graph)
    params = another(
        best, f"training.{name}", value_of(best, f"training.{name}"), TRAINING_LEAVES[name]
    )
    stale = {artefact.stage.name for artefact in states(workspace, params)[State.STALE]}
    assert stale == {"training"}


def test_a_setting_said_by_a_variant_as_it_is_anyway_changes_nothing(made: Workspace) -> None:
    params = parse_params(put(FULL, "variants.two.learning_rate", 0.002))
    assert len(states(made, params)[State.FRESH]) == 20


def test_a_chosen_step_makes_stale_what_is_drawn_with_it_and_nothing_else(
    made: Workspace,
) -> None:
    """Of one training of one style, and not of the ablation's training of that name."""
    params = parse_params(put(FULL, "styles.ink.use_steps", {"one-0": {"step": 5}}))
    found = states(made, params)
    (stale,) = found[State.STALE]
    assert stale.title == "generation · ink · one · 0"
    assert {a.stage.name for a in found[State.WAITING]} == {"evaluation", "report"}
    own = [a for a in states(made, params, True)[State.FRESH] if a.of_ablation]
    assert len(own) == 2 * 6
    none = parse_params(put(FULL, "styles.ink.use_steps", {}))
    assert len(states(made, none)[State.FRESH]) == 20


def test_one_more_variant_lacks_its_own_and_waits_with_what_compares_all(
    made: Workspace,
) -> None:
    params = parse_params(put(FULL, "variants.three", {"update_rule": "none"}))
    found = states(made, params)
    assert {(a.stage.name, a.variant) for a in found[State.MISSING]} == {("training", "three")}
    assert {(a.stage.name, a.variant) for a in found[State.WAITING]} == {
        ("generation", "three"), ("evaluation", None), ("report", None)
    }  # fmt: skip
    assert not found[State.STALE]


def test_one_variant_less_makes_only_the_comparison_stale(made: Workspace) -> None:
    params = parse_params({**FULL, "variants": {"one": FULL["variants"]["one"]}})
    found = states(made, params)
    assert {a.stage.name for a in found[State.STALE]} == {"evaluation"}
    assert {a.stage.name for a in found[State.WAITING]} == {"report"}


def test_the_ablation_is_touched_by_what_it_shares_and_by_its_own_settings(
    made: Workspace,
) -> None:
    fresh = states(made, parse_params(FULL), of_ablation=True)
    assert len(fresh[State.FRESH]) == 2 * 10  # four that it shares, two trainings
    own = parse_params(put(FULL, "ablation.training_seeds", [1]))
    missing = states(made, own, of_ablation=True)[State.MISSING]
    assert {(a.stage.name, a.training_seed, a.of_ablation) for a in missing} == {
        ("training", 1, True)
    }
    shared = states(made, parse_params(put(FULL, "captioning.too_long", "error")), True)
    assert {(a.stage.name, a.of_ablation) for a in shared[State.STALE]} == {("captions", False)}
    assert {a.stage.name for a in shared[State.WAITING]} == {
        "negative_set", "base_generation", "training", "generation", "evaluation", "report"
    }  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
def test_a_raised_recipe_makes_exactly_that_stages_artefacts_stale(
    made: Workspace, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    raised = replace(STAGES[name], recipe=STAGES[name].recipe + 1)
    monkeypatch.setitem(STAGES, name, raised)
    params = parse_params(FULL)
    found = states(made, params)
    stale, waiting = expected(Graph(made, params), None, (name,))
    assert set(found[State.STALE]) == stale
    assert set(found[State.WAITING]) == waiting
    standings = Graph(made, params).standings(["ink"])
    (one, *_) = (a for a in standings if a.stage.name == name)
    assert (
        standings[one].why
        == f"the stage makes it otherwise now (recipe {raised.recipe - 1} -> {raised.recipe})"
    )


def test_what_waits_is_fresh_again_where_the_same_came_out(
    fakes: Fakes, workspace: Workspace
) -> None:
    """Early cut-off: what was made anew has the same content, so nothing is made from it anew."""
    fakes.steady = {"style_set"}
    for stage in ("style_set", "captions", "negative_set"):
        run_stage(workspace, Asked(stage, "ink"))
    before = read_made(workspace.style_set("ink"))
    text = workspace.params_file.read_text()
    workspace.params_file.write_text(text.replace("pictures: 8", "pictures: 9"))

    def state(stage: str) -> State:
        graph = Graph.read(workspace)
        return graph.standings(["ink"])[Artefact(STAGES[stage], "ink")].state

    assert (state("style_set"), state("captions")) == (State.STALE, State.WAITING)
    run_stage(workspace, Asked("style_set", "ink"))
    after = read_made(workspace.style_set("ink"))
    assert before is not None
    assert after is not None
    assert (after.content, after.settings["style"]["pictures"]) == (before.content, 9)
    assert state("captions") is state("negative_set") is State.FRESH


def test_changed_pictures_make_the_style_set_stale(workspace: Workspace) -> None:
    graph = Graph.read(workspace)
    make_everything(graph)
    workspace.source("ink").mkdir(parents=True)
    (workspace.source("ink") / "new.png").write_bytes(b"new")
    standing = Graph.read(workspace).standings(["ink"])[Artefact(STAGES["style_set"], "ink")]
    assert (standing.state, standing.why) == (State.STALE, "inputs: sources/ink")


def test_what_changed_is_said(made: Workspace) -> None:
    params = parse_params(put(FULL, "training.learning_rate", 0.001))
    standings = Graph(made, params).standings(["ink"])
    training = next(a for a in standings if a.stage.name == "training")
    assert standings[training].why == "settings: training.learning_rate 0.002 -> 0.001"


def test_a_workspace_elsewhere_plans_the_same(made: Workspace, tmp_path: Path) -> None:
    graph = Graph(Workspace(tmp_path), parse_params(FULL))
    make_everything(graph)
    here = Graph(made, parse_params(FULL))
    for artefact in here.artefacts("ink"):
        assert graph.plan(artefact) == here.plan(artefact)
        assert graph.plan(artefact).digest() == here.plan(artefact).digest()
